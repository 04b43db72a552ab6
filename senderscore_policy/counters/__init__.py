"""Where messages are counted: in the daemon, or in memcached with the daemon as its stand-in."""
