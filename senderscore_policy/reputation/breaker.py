"""When asking the zone is pointless: it refuses, or nobody answers. Pure logic; the time is an argument."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

from senderscore_policy.policy.reputation import Refused, Reputation, Unavailable

FIRST_PERIOD: Final = 300.0
"""Seconds without a question after the first refusal; each further one doubles them."""
LONGEST_PERIOD: Final = 6 * 3600.0
FAILURES_IN_A_ROW: Final = 10
LONGEST_PROBE_PERIOD: Final = 600.0
"""Seconds between two probes of a zone that does not answer, at most; before that a tenth of the time for which it
has not. At one probe a minute, each of two questions, an outage of a few days would spend a month's query budget."""


class Permit(Enum):
    """On what terms a question is asked."""

    QUESTION = "the zone answers"
    PROBE = "the one question that finds out whether it answers again"


@dataclass(frozen=True, slots=True)
class Closed:
    """The zone answers, as far as is known: everybody may ask."""


@dataclass(frozen=True, slots=True)
class Refusing:
    """The zone refuses us, whichever client is asked about.

    Args:
        detail: its raw answer.
        period: seconds from a refusal to the next question.
        until: the time of the next question, by the monotonic clock.
    """

    detail: str
    period: float
    until: float


@dataclass(frozen=True, slots=True)
class Failing:
    """Lookup after lookup failed.

    Args:
        detail: how the last of them failed.
        since: the time when it began, by the monotonic clock.
        until: the time of the next question, by the monotonic clock.
    """

    detail: str
    since: float
    until: float


State = Closed | Refusing | Failing
CLOSED: Final = Closed()


class Breaker:
    """Lets questions through while they are answered, and single probes while they are not.

    Args:
        failure_ttl: seconds from one probe to the next, at least.
    """

    def __init__(self, failure_ttl: float) -> None:
        self.failure_ttl = failure_ttl
        self.state: State = CLOSED
        self._failures = 0

    def admits(self, now: float) -> bool:
        """Whether `enter` would let a question through."""
        return isinstance(self.state, Closed) or now >= self.state.until

    def enter(self, now: float) -> Permit | None:
        """Ask for a question; None: it would be pointless. What comes of it goes to `record`."""
        if isinstance(self.state, Closed):
            return Permit.QUESTION
        if now < self.state.until:
            return None
        # Should the probe never return, the next one is due after the same time as if it had failed.
        self.state = replace(self.state, until=now + self.failure_ttl)
        return Permit.PROBE

    def record(self, permit: Permit, outcome: Reputation, now: float) -> None:
        """Take in what came of a question."""
        if isinstance(outcome, Refused):
            self._refused(permit, outcome.detail, now)
        elif isinstance(outcome, Unavailable):
            self._failures += 1
            if isinstance(self.state, Closed) and self._failures >= FAILURES_IN_A_ROW:
                self.state = Failing(outcome.detail, now, now + self.failure_ttl)
            elif isinstance(self.state, Failing) and permit is Permit.PROBE:
                period = max(self.failure_ttl, min(0.1 * (now - self.state.since), LONGEST_PROBE_PERIOD))
                self.state = Failing(outcome.detail, self.state.since, now + period)
        elif permit is Permit.PROBE or not isinstance(self.state, Refusing):
            self.reset()

    def _refused(self, permit: Permit, detail: str, now: float) -> None:
        period = FIRST_PERIOD
        if isinstance(self.state, Refusing):
            if permit is Permit.QUESTION:
                return  # one of many that were under way when the first of them was refused
            period = min(2 * self.state.period, LONGEST_PERIOD)
        self._failures = 0
        self.state = Refusing(detail, period, now + period)

    def probe_now(self, now: float) -> None:
        """Let the next question through as a probe, whatever its time is."""
        if not isinstance(self.state, Closed):
            self.state = replace(self.state, until=now)

    def reset(self) -> None:
        """Take it that the zone answers."""
        self.state = CLOSED
        self._failures = 0

    def snapshot(self, now: float) -> dict[str, object] | None:
        """What `parse_refusal` reads; None unless the zone refuses: only that is worth keeping over a restart."""
        if not isinstance(self.state, Refusing):
            return None
        remaining = max(0.0, self.state.until - now)
        return {"detail": self.state.detail, "period": self.state.period, "remaining": remaining}


def parse_refusal(saved: Mapping[str, Any], away: float, now: float) -> Refusing:
    """The refusal that an earlier process had met.

    Args:
        saved: what `Breaker.snapshot` gave.
        away: seconds since then, at least 0.
        now: the time by this process's monotonic clock.

    Raises:
        ValueError: it is no snapshot.
    """
    try:
        period, remaining = float(saved["period"]), float(saved["remaining"])
        detail = str(saved["detail"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"refusal: {error!r}") from error
    if not FIRST_PERIOD <= period <= LONGEST_PERIOD or not 0 <= remaining <= LONGEST_PERIOD:
        raise ValueError("refusal: a period out of range")
    return Refusing(detail, period, now + max(0.0, remaining - away))
