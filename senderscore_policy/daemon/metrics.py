"""What the daemon counts about itself, as plain numbers; `exposition` shows them to Prometheus.

The hot path pays a dictionary entry for each decision and nothing for names, labels or locks.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from senderscore_policy.policy.decision import Decision

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
        """Take one observation in."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def quantile(self, share: float) -> float | None:
        """The bound up to which this share of the observations was, at most the largest; None: there were none."""
        wanted = share * sum(self.counts)
        if not wanted:
            return None
        up_to = accumulate(self.counts)
        return next(
            (bound for bound, count in zip(self.bounds, up_to, strict=False) if count >= wanted), self.bounds[-1]
        )


class Metrics:
    """Implements `ports.Observer`, `ports.LookupObserver` and `ports.StoreObserver` by counting."""

    def __init__(self) -> None:
        self.decisions: Counter[tuple[str, str, str]] = Counter()
        self.last_decision: float | None = None
        self.latency = Histogram(LATENCY_BOUNDS)
        self.batches = Histogram(BATCH_BOUNDS)
        self.lookups: Counter[str] = Counter()
        self.lookup_latency = Histogram(LATENCY_BOUNDS)
        self.score_cache: Counter[str] = Counter()
        self.round_trips: Counter[str] = Counter()
        self.round_trip_latency = Histogram(LATENCY_BOUNDS)
        self.store_commands = 0
        self.poisoned_keys = 0

    def decided(self, decisions: Sequence[Decision]) -> None:
        """Count a batch by action, reason and tier; of an action only its first word, a closed set."""
        self.batches.observe(len(decisions))
        self.last_decision = decisions[-1].time
        counts = self.decisions
        for decision in decisions:
            action = decision.action
            word = action if action == "DUNNO" else action.partition(" ")[0]
            counts[word, decision.reason, decision.tier] += 1

    def looked_up(self, outcome: str, seconds: float) -> None:
        """Count a lookup over DNS."""
        self.lookups[outcome] += 1
        self.lookup_latency.observe(seconds)

    def cache(self, result: str) -> None:
        """Count a look into the score cache."""
        self.score_cache[result] += 1

    def round_trip(self, seconds: float, commands: int, ok: bool) -> None:
        """Count an exchange with a memcached."""
        self.round_trips["ok" if ok else "failed"] += 1
        self.round_trip_latency.observe(seconds)
        self.store_commands += commands

    def poisoned_key(self) -> None:
        """Count a key that held no counter."""
        self.poisoned_keys += 1
