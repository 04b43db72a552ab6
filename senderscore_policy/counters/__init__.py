"""Where messages are counted: in the daemon, or in memcached; without memcached the daemon counts."""
