"""Counters that memcached has thrown out before their time: their clients start again at zero."""

import asyncio
from typing import Final

from senderscore_policy.daemon.counting import Counting

POLL_INTERVAL: Final = 60.0
"""Seconds between two looks at memcached's statistics."""


class Evictions:
    """Adds up what memcached evicts while the daemon runs.

    A server that leaves or comes back brings its own past along; a poll whose servers are not those
    of the one before adds nothing.

    Args:
        counting: knows the servers.

    Attributes:
        seen: items evicted since the daemon started.
    """

    def __init__(self, counting: Counting) -> None:
        self.seen = 0
        self._counting = counting
        self._servers: dict[str, bool] = {}
        self._before: int | None = None

    async def watch(self) -> None:
        """Poll, for ever."""
        while True:
            await self.poll()
            await asyncio.sleep(POLL_INTERVAL)

    async def poll(self) -> None:
        """Look at the statistics once."""
        memcached = self._counting.memcached
        evicted = None if memcached is None else await memcached.evictions()
        servers = self._counting.servers
        if evicted is not None and self._before is not None and servers == self._servers:
            self.seen += max(0, evicted - self._before)
        self._before, self._servers = evicted, servers
