"""What the daemon counts about itself, as plain numbers; `web.prometheus` exports them.

A decision costs one dictionary entry, and nothing for names, labels or locks.
"""

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from senderscore_policy.policy.decision import Decision, Reason
from senderscore_policy.policy.ports import Clock

if TYPE_CHECKING:
    # Commands that count without memcached start sooner without it.
    from senderscore_policy.counters.backend import CounterBackend

LATENCY_BOUNDS: Final = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds of the latency histograms, in seconds."""
BATCH_BOUNDS: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)


class Histogram:
    """Counts of observations by upper bound, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def quantile(self, share: float) -> float | None:
        """Return the bound below which this share of the observations lies, or the largest; None: no observation."""
        wanted = share * sum(self.counts)
        if not wanted:
            return None
        pairs = zip(self.bounds, accumulate(self.counts), strict=False)
        return next((bound for bound, count in pairs if count >= wanted), self.bounds[-1])


class Metrics:
    """Counts what `ports.Observer`, `ports.LookupObserver` and `ports.StoreObserver` report."""

    def __init__(self) -> None:
        self.decisions: Counter[tuple[str, str, str]] = Counter()
        self.last_decision: float | None = None
        self.latency = Histogram(LATENCY_BOUNDS)
        self.batches = Histogram(BATCH_BOUNDS)
        self.lookups = Counter(scored=0, unknown=0, refused=0, unavailable=0)
        self.lookup_latency = Histogram(LATENCY_BOUNDS)
        self.score_cache = Counter(hit=0, stale=0, shared=0, miss=0)
        self.round_trips = Counter(ok=0, failed=0)
        self.round_trip_latency = Histogram(LATENCY_BOUNDS)
        self.store_commands = 0
        self.invalid_keys = 0

    def decided(self, decisions: Sequence[Decision]) -> None:
        """Count a batch by the first word of the action, which is a closed set, by reason and by tier."""
        self.batches.observe(len(decisions))
        self.last_decision = decisions[-1].time
        counts = self.decisions
        for decision in decisions:
            action = decision.action
            word = action if action == "DUNNO" else action.partition(" ")[0]
            counts[word, decision.reason, decision.tier] += 1

    def looked_up(self, outcome: str, seconds: float) -> None:
        self.lookups[outcome] += 1
        self.lookup_latency.observe(seconds)

    def cache(self, result: str) -> None:
        self.score_cache[result] += 1

    def round_trip(self, seconds: float, commands: int, ok: bool) -> None:
        self.round_trips["ok" if ok else "failed"] += 1
        self.round_trip_latency.observe(seconds)
        self.store_commands += commands

    def invalid_key(self) -> None:
        self.invalid_keys += 1


MINUTES: Final = 60
"""Minutes that are kept, the current one included."""


class Minute(NamedTuple):
    """The decisions of one minute, by tier."""

    start: int  # seconds since the epoch
    passed: Counter[str]  # accepted messages; "none": not counted
    deferred: Counter[str]  # messages above the limit


class RecentTraffic:
    """Remembers the counters of decisions at the beginning of each minute, so a decision costs nothing more."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        # In the order of the minutes.
        self._starts = {int(clock.time() // 60): metrics.decisions.copy()}

    async def keep(self) -> None:
        """Note the beginning of each minute, until cancelled."""
        while True:
            await asyncio.sleep(60 - self._clock.time() % 60)
            self.begin()

    def begin(self) -> None:
        """Note that the nearest minute begins: a sleep may end a moment early."""
        minute = round(self._clock.time() / 60)
        starts = {start: counts for start, counts in self._starts.items() if minute - MINUTES < start < minute}
        self._starts = starts | {minute: self._metrics.decisions.copy()}

    def last_hour(self) -> list[Minute]:
        """Return the minutes of the last hour since the daemon's start, oldest first."""
        current = int(self._clock.time() // 60)
        noted = [(start, counts) for start, counts in self._starts.items() if current - MINUTES < start <= current]
        # Without a noted minute the clock went back before the first one.
        first = noted[0][0] if noted else current
        hour = {start: Minute(60 * start, Counter(), Counter()) for start in range(first, current + 1)}
        for (start, before), (_, after) in pairwise([*noted, (current + 1, self._metrics.decisions)]):
            for (_, reason, tier), number in (after - before).items():
                by_tier = hour[start].deferred if reason == Reason.OVER_LIMIT else hour[start].passed
                by_tier[tier] += number
        return list(hour.values())


POLL_INTERVAL: Final = 60.0
"""Seconds between two readings of memcached's statistics."""


class Evictions:
    """Adds up what memcached evicts while the daemon runs.

    A server that comes back brings its own past along, so a poll adds nothing if the servers have changed.
    """

    def __init__(self, backend: "CounterBackend") -> None:
        self.seen = 0  # items
        self._backend = backend
        self._servers: dict[str, bool] = {}
        self._before: int | None = None

    async def watch(self) -> None:
        while True:
            await self.poll()
            await asyncio.sleep(POLL_INTERVAL)

    async def poll(self) -> None:
        memcached = self._backend.memcached
        evicted = None if memcached is None else await memcached.cluster.evictions()
        servers = self._backend.servers
        if evicted is not None and self._before is not None and servers == self._servers:
            self.seen += max(0, evicted - self._before)
        self._before, self._servers = evicted, servers
