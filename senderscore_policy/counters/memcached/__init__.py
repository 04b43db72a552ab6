"""Counters in memcached: codec, connections, servers, batches and the store."""
