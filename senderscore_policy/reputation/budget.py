"""The query budget: how many questions may be sent in 30 days, and a tenth of that in one day."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final

from senderscore_policy.policy.ports import Clock
from senderscore_policy.policy.reputation import Refused

_HOUR: Final = 3600.0
_DAY: Final = 24 * _HOUR
_MONTH: Final = 30 * _DAY
_REFRESH_SHARE: Final = 0.8
"""Share of either limit at which refreshes of stale scores stop; the rest is for clients without any score."""


@dataclass(slots=True)
class _Slot:
    """The questions of about an hour; times in seconds of the monotonic clock."""

    first: float
    last: float
    count: int


class QueryBudget:
    """Counts the questions sent over rolling windows.

    At most `limit` in any 30 days, and a tenth of that, at least one, in any 24 hours. 0: questions are only counted.

    Hourly slots keep the memory small. A slot leaves a window with its last question, so a limit is never exceeded,
    and at worst an hour's questions become available an hour late. The monotonic clock counts: a step of the wall
    clock changes nothing until a restart, and little then.
    """

    def __init__(self, limit: int, clock: Clock) -> None:
        self.limit = limit  # the questions sent so far count against another limit, too
        self._clock = clock
        self._slots: deque[_Slot] = deque()
        self._used = 0

    @property
    def daily_limit(self) -> int:
        """Most questions in 24 hours; 0: no budget."""
        return max(1, self.limit // 10) if self.limit else 0

    @property
    def used(self) -> int:
        """Questions sent in the last 30 days."""
        now = self._clock.monotonic()
        while self._slots and now - self._slots[0].last > _MONTH:
            self._used -= self._slots.popleft().count
        return self._used

    @property
    def used_today(self) -> int:
        """Questions sent in the last 24 hours."""
        now = self._clock.monotonic()
        return sum(slot.count for slot in takewhile(lambda slot: now - slot.last <= _DAY, reversed(self._slots)))

    def allows(self, *, refresh: bool = False) -> bool:
        """Whether a question may be sent now; `refresh`: about a client whose score is known but stale."""
        share = _REFRESH_SHARE if refresh else 1
        within_month = self.used < max(1, share * self.limit)
        return not self.limit or (within_month and self.used_today < max(1, share * self.daily_limit))

    @property
    def refusal(self) -> Refused:
        """The outcome of a lookup that the budget does not allow."""
        return Refused(f"query budget spent: {self}")

    def spend(self) -> bool:
        """Count one question that is about to be sent; False: it must not be sent."""
        if not self.allows():
            return False
        now = self._clock.monotonic()
        if not self._slots or now - self._slots[-1].first >= _HOUR:
            self._slots.append(_Slot(now, now, 0))
        self._slots[-1].last = now
        self._slots[-1].count += 1
        self._used += 1
        return True

    def snapshot(self) -> list[list[float]]:
        """Return what `restore` reads: [age of its first question, of its last, count] of each slot, oldest first."""
        now = self._clock.monotonic()
        return [[round(now - slot.first, 3), round(now - slot.last, 3), slot.count] for slot in self._slots]

    def restore(self, saved: Sequence[Any], away: float) -> None:
        """Add the questions of a `snapshot`, `away` seconds old (0 or more); ValueError: it is damaged."""
        now = self._clock.monotonic()
        try:
            slots = [_Slot(now - away - age, now - away - age_of_last, int(n)) for age, age_of_last, n in saved]
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"query budget: {error}") from error
        times = [time for slot in slots for time in (slot.first, slot.last)]
        if sorted(times) != times or not all(time <= now for time in times) or any(slot.count < 1 for slot in slots):
            raise ValueError("query budget: slots out of order")
        self._slots.extendleft(reversed(slots))
        self._used += sum(slot.count for slot in slots)

    def __str__(self) -> str:
        if not self.limit:
            return f"{self.used_today} questions in 24 hours, {self.used} in 30 days"
        return f"{self.used_today} of {self.daily_limit} questions in 24 hours, {self.used} of {self.limit} in 30 days"
