"""Small texts that the daemons of a site share in memcached."""

import asyncio

from senderscore_policy.counters.cluster import Cluster
from senderscore_policy.counters.keys import expiry
from senderscore_policy.counters.pipeline import Order, put
from senderscore_policy.policy.ports import Clock


class SharedTexts:
    """Implements `ports.SharedCache` beside the counters, through their connections. A server that is down has nothing.

    Args:
        cluster: the servers.
        prefix: what the keys begin with.
        seconds: that a call takes at most.
        clock: time.
    """

    def __init__(self, cluster: Cluster, prefix: str, seconds: float, clock: Clock) -> None:
        self._cluster = cluster
        self._prefix = f"{prefix}s:"
        self._seconds = seconds
        self._clock = clock

    async def get(self, key: str) -> str | None:
        """See `ports.SharedCache.get`."""
        name = self._name(key)
        for values in await self._ask(key, Order([], [name])):
            text = values.get(name, b"")
            if text.isascii() and (found := text.decode()).isprintable() and found:
                return found
        return None

    async def put(self, key: str, text: str, ttl: int) -> None:
        """See `ports.SharedCache.put`."""
        command = put(self._name(key), text.encode("ascii"), expiry(ttl, self._clock.time()))
        await self._ask(key, Order([command], []))

    def _name(self, key: str) -> bytes:
        return f"{self._prefix}{key}".encode("ascii")

    async def _ask(self, key: str, order: Order) -> list[dict[bytes, bytes]]:
        """The values that the servers of the key have of the order's keys."""
        orders = dict.fromkeys(self._cluster.homes(key), order)
        try:
            async with asyncio.timeout(self._seconds):
                return [replies.values for replies in (await self._cluster.exchange(orders)).values()]
        except TimeoutError:
            return []
