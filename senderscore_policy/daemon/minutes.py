"""Decisions of the last hour by the minute, for the status page and `top`."""

import asyncio
from collections.abc import Mapping
from typing import Final, NamedTuple

from senderscore_policy.daemon.metrics import Metrics
from senderscore_policy.policy.decision import Reason
from senderscore_policy.policy.ports import Clock

MINUTES: Final = 60
"""Minutes that are told, the running one included."""

Counts = Mapping[tuple[str, str, str], int]


class Minute(NamedTuple):
    """The decisions of one minute.

    Args:
        start: seconds since the epoch.
        passed: those that let a message through, by tier; "none" is what was not counted.
        deferred: those above the limit, by tier.
    """

    start: int
    passed: dict[str, int]
    deferred: dict[str, int]


class Minutes:
    """Remembers how the counters of decisions stood when each minute began: nothing is done for a decision.

    Args:
        metrics: counts the decisions.
        clock: its wall clock tells the minutes.
    """

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._starts: dict[int, Counts] = {int(clock.time() // 60): metrics.decisions.copy()}

    async def keep(self) -> None:
        """Note the beginning of each minute, for ever."""
        while True:
            await asyncio.sleep(60 - self._clock.time() % 60)
            self.begin()

    def begin(self) -> None:
        """Note that a minute begins. A sleep may end a moment early: the nearest minute is meant."""
        minute = round(self._clock.time() / 60)
        starts = {start: counts for start, counts in self._starts.items() if minute - MINUTES < start < minute}
        self._starts = starts | {minute: self._metrics.decisions.copy()}

    def last_hour(self) -> list[Minute]:
        """Each minute of the last hour, oldest first, those before the start of the daemon left out."""
        current = int(self._clock.time() // 60)
        starts = [start for start in sorted(self._starts) if current - MINUTES < start <= current]
        if not starts:
            # The clock was set back beyond all that is remembered.
            return [Minute(60 * current, {}, {})]
        ends = [self._starts[start] for start in starts[1:]] + [self._metrics.decisions]
        decided = {start: _minute(start, self._starts[start], end) for start, end in zip(starts, ends, strict=True)}
        return [decided.get(start) or Minute(60 * start, {}, {}) for start in range(starts[0], current + 1)]


def _minute(start: int, before: Counts, after: Counts) -> Minute:
    minute = Minute(60 * start, {}, {})
    for key, count in after.items():
        _, reason, tier = key
        if number := count - before.get(key, 0):
            by_tier = minute.deferred if reason == Reason.OVER_LIMIT else minute.passed
            by_tier[tier] = by_tier.get(tier, 0) + number
    return minute
