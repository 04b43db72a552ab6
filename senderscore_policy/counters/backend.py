"""The counters as the configuration wants them, and the way from one setting to the next."""

import asyncio
import logging
from collections.abc import Iterable, Iterator

from senderscore_policy.config.model import CounterSettings
from senderscore_policy.counters.memcached.store import MemcachedCounters
from senderscore_policy.counters.memory import MemoryStore
from senderscore_policy.policy.ports import Clock, CounterStore, SharedCache, StoreObserver

log = logging.getLogger(__name__)


class CounterBackend:
    """The daemon's counters: its own and, with store = "memcached", those that a site shares.

    Implements `ports.Persistent` for its own counters, and `ports.SharedCache` on the shared ones.
    """

    def __init__(self, settings: CounterSettings, clock: Clock, observer: StoreObserver) -> None:
        self._settings = settings
        self._clock = clock
        self._observer = observer
        self._local = MemoryStore(settings.window_of_time(), clock)
        self._retiring: set[asyncio.Task[None]] = set()
        shared = settings.store == "memcached"
        self.memcached = MemcachedCounters(settings, self._local, clock, observer) if shared else None

    @property
    def store(self) -> CounterStore:
        return self.memcached or self._local

    @property
    def shared(self) -> SharedCache | None:
        """Where daemons share scores; None: nowhere."""
        return None if self.memcached is None else self

    @property
    def now(self) -> float:
        """The time that the buckets are numbered by."""
        return self._local.now if self.memcached is None else self._clock.time()

    @property
    def servers(self) -> dict[str, bool]:
        """Each memcached's address, and whether it is up."""
        return {} if self.memcached is None else self.memcached.cluster.up

    @property
    def state(self) -> str:
        """The word "ok", or "degraded: memcached " and the servers that are down."""
        state = "ok" if self.memcached is None else self.memcached.state
        return state.replace("degraded: ", "degraded: memcached ", 1)

    def reconfigure(self, settings: CounterSettings) -> None:
        """Go by other settings; `store` itself stays until a restart."""
        old, self._settings = self._settings, settings
        if settings.window_of_time() != old.window_of_time():
            log.warning("the window has changed: all counters start at zero")
            self._local = MemoryStore(settings.window_of_time(), self._clock)
        if self.memcached is not None and settings != old:
            retired = self.memcached
            self.memcached = MemcachedCounters(settings, self._local, self._clock, self._observer)
            task = asyncio.get_running_loop().create_task(retired.retire(self.memcached))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def close(self) -> None:
        await asyncio.gather(*self._retiring)
        if self.memcached is not None:
            await self.memcached.close()

    def snapshot(self) -> Iterator[str]:
        return self._local.snapshot()

    def restore(self, lines: Iterable[str]) -> None:
        self._local.restore(lines)

    async def get(self, key: str) -> str | None:
        return None if self.memcached is None else await self.memcached.scores.get(key)

    async def put(self, key: str, text: str, ttl: int) -> None:
        if self.memcached is not None:
            await self.memcached.scores.put(key, text, ttl)
