"""The counters as the configuration wants them, and the way from one setting to the next."""

from senderscore_policy.config.model import CounterSettings
from senderscore_policy.counters.memory import MemoryStore
from senderscore_policy.policy.ports import Clock, CounterStore, SharedCache, StoreObserver


class Counting:
    """Holds the daemon's own counters and, with store = "memcached", those that a site shares.

    Args:
        settings: [counters].
        clock: time.
        observer: told of round trips.
    """

    def __init__(self, settings: CounterSettings, clock: Clock, observer: StoreObserver) -> None:
        self._settings = settings
        self._clock = clock
        self._observer = observer
        self.local = MemoryStore(settings.window_of_time(), clock)
        self.store: CounterStore = self.local
        self.shared: SharedCache | None = None

    @property
    def state(self) -> str:
        """The word "ok", or "degraded: " and why."""
        return "ok"

    def reconfigure(self, settings: CounterSettings) -> None:
        """Go by other settings."""

    async def close(self) -> None:
        """Close connections."""
