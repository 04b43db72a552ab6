"""The query budget: how many questions may be sent in 30 days, and a tenth of that in one day."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final

from senderscore_policy.policy.ports import Clock

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
        self.limit = limit
        self._clock = clock
        self._slots: deque[_Slot] = deque()
        self._used = 0
        self._spent_until: float | None = None

    @property
    def daily_limit(self) -> int:
        """Most questions in 24 hours; 0: no budget."""
        return max(1, self.limit // 10) if self.limit else 0

    @property
    def used(self) -> int:
        """Questions sent in the last 30 days."""
        self._expire(self._clock.monotonic())
        return self._used

    @property
    def used_today(self) -> int:
        """Questions sent in the last 24 hours."""
        return sum(slot.count for slot in self._today(self._clock.monotonic()))

    @property
    def spent(self) -> bool:
        """Whether no question may be sent now."""
        if self._spent_until is None:
            return False
        now = self._clock.monotonic()
        if now > self._spent_until:
            self._find_spent_until(now)
        return self._spent_until is not None

    @property
    def refresh_allowed(self) -> bool:
        """Whether a question may be sent about a client whose score is known but stale."""
        if not self.limit:
            return True
        within_day = self.used_today < max(1, _REFRESH_SHARE * self.daily_limit)
        return within_day and self.used < max(1, _REFRESH_SHARE * self.limit)

    def spend(self) -> bool:
        """Count one question that is about to be sent; False: it must not be sent."""
        if self.spent:
            return False
        now = self._clock.monotonic()
        if self._slots and now - self._slots[-1].first < _HOUR:
            self._slots[-1].last = now
            self._slots[-1].count += 1
        else:
            self._slots.append(_Slot(now, now, 1))
        self._used += 1
        self._find_spent_until(now)
        return True

    def reconfigure(self, limit: int) -> None:
        """Apply another limit; the questions sent so far still count."""
        self.limit = limit
        self._find_spent_until(self._clock.monotonic())

    def snapshot(self) -> list[list[float]]:
        """Return what `restore` reads: [age of its first question, of its last, count] of each slot, oldest first."""
        now = self._clock.monotonic()
        self._expire(now)
        return [[round(now - slot.first, 3), round(now - slot.last, 3), slot.count] for slot in self._slots]

    def restore(self, saved: Sequence[Any], away: float) -> None:
        """Add the questions of a `snapshot`, `away` seconds old (0 or more); ValueError: it is damaged."""
        now = self._clock.monotonic()
        try:
            slots = [_Slot(now - away - age, now - away - age_of_last, int(n)) for age, age_of_last, n in saved]
            times = [time for slot in slots for time in (slot.first, slot.last)]
            in_order = sorted(times) == times and all(time <= now for time in times)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"query budget: {error}") from error
        if not in_order or any(slot.count < 1 for slot in slots):
            raise ValueError("query budget: slots out of order")
        self._slots.extendleft(reversed(slots))
        self._used += sum(slot.count for slot in slots)
        self._find_spent_until(now)

    def __str__(self) -> str:
        if not self.limit:
            return f"{self.used_today} questions in 24 hours, {self.used} in 30 days"
        return f"{self.used_today} of {self.daily_limit} questions in 24 hours, {self.used} of {self.limit} in 30 days"

    def _expire(self, now: float) -> None:
        while self._slots and now - self._slots[0].last > _MONTH:
            self._used -= self._slots.popleft().count

    def _today(self, now: float) -> list[_Slot]:
        """Return the slots of the last 24 hours, newest first."""
        return list(takewhile(lambda slot: now - slot.last <= _DAY, reversed(self._slots)))

    def _find_spent_until(self, now: float) -> None:
        """If no question fits into both windows, set the earliest time at which one may."""
        self._expire(now)
        self._spent_until = None
        today = self._today(now)
        if self.limit and self._used >= self.limit:
            self._spent_until = self._slots[0].last + _MONTH
        elif self.limit and sum(slot.count for slot in today) >= self.daily_limit:
            self._spent_until = today[-1].last + _DAY
