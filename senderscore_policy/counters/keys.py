"""Names and lifetimes of counters in memcached."""

from typing import Final

from senderscore_policy.policy.window import Window

LONGEST_RELATIVE: Final = 30 * 86400
"""Seconds; an exptime above it is a date for memcached (protocol.txt, "Expiration times")."""


def expiry(ttl: int, now: float) -> int:
    """The exptime that lets an item live for `ttl` seconds from `now` (seconds since the epoch)."""
    return ttl if ttl <= LONGEST_RELATIVE else int(now) + ttl


class BucketKeys:
    """Names the counter of a client in a bucket: `ssp:192.0.2.75:3600.12:1234567`.

    The window is part of the name: daemons with different windows share no counter.

    Args:
        prefix: printable ASCII without spaces, short enough for a name of 250 bytes; the
            configuration sees to it.
        window: what the buckets are parts of.
    """

    def __init__(self, prefix: str, window: Window) -> None:
        self._prefix = prefix
        self._tail = f":{window.seconds}.{window.buckets}:"

    def stem(self, client: str) -> bytes:
        """What the names of the client's counters begin with; the bucket's index in decimal follows."""
        return f"{self._prefix}{client}{self._tail}".encode("ascii")
