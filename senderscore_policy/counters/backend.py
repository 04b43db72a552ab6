"""The counters as the configuration wants them, and the way from one setting to the next."""

import logging

from senderscore_policy.config.model import CounterSettings
from senderscore_policy.counters.memcached.store import MemcachedCounters
from senderscore_policy.counters.memory import MemoryStore
from senderscore_policy.policy.ports import Clock, CounterStore, SharedCache, StoreObserver

log = logging.getLogger(__name__)


class CounterBackend:
    """The daemon's counters: its own and, with store = "memcached", those that a site shares."""

    def __init__(self, settings: CounterSettings, clock: Clock, observer: StoreObserver) -> None:
        self._settings = settings
        self._clock = clock
        self.local = MemoryStore(settings.window_of_time(), clock)
        shared = settings.store == "memcached"
        self.memcached = MemcachedCounters(settings, self.local, clock, observer) if shared else None

    @property
    def store(self) -> CounterStore:
        return self.memcached or self.local

    @property
    def shared(self) -> SharedCache | None:
        """Where daemons share scores; None: nowhere."""
        return None if self.memcached is None else self.memcached.scores

    @property
    def now(self) -> float:
        """The time that the buckets are numbered by."""
        return self.local.now if self.memcached is None else self._clock.time()

    @property
    def servers(self) -> dict[str, bool]:
        """Each memcached's address, and whether it is up."""
        return {} if self.memcached is None else self.memcached.cluster.up

    @property
    def state(self) -> str:
        """The word "ok", or "degraded: memcached " and the servers that are down."""
        return "ok" if self.memcached is None else self.memcached.cluster.state

    def reconfigure(self, settings: CounterSettings) -> None:
        """Go by other settings; the kind of store stays until a restart."""
        old, self._settings = self._settings, settings
        if settings.window_of_time() != old.window_of_time():
            log.warning("the window has changed: all counters start at zero")
            self.local.begin(settings.window_of_time())
        if self.memcached is not None and settings != old:
            self.memcached.configure(settings)

    async def close(self) -> None:
        if self.memcached is not None:
            await self.memcached.close()
