"""Whether the zone may be asked now: the breaker and the query budget, and what the log says of them."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final, Literal

from senderscore_policy.config.model import ReputationSettings
from senderscore_policy.policy.ports import Clock
from senderscore_policy.policy.reputation import Refused, Reputation, Unavailable
from senderscore_policy.reputation.budget import QueryBudget
from senderscore_policy.reputation.lookup import LookupResult

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


log = logging.getLogger(__name__)

Obstacle = Refused | Unavailable
ZoneState = Literal["answers", "refuses", "fails"]


class QueryGuard:
    """Lets questions through that are worth their price.

    Attributes:
        clear: nothing stands in the way of a first question about a client. The hot path reads this alone.

    Args:
        settings: the zone and the time between probes.
        budget: the questions left.
        clock: the time.
    """

    def __init__(self, settings: ReputationSettings, budget: QueryBudget, clock: Clock) -> None:
        self.clear = True
        self._zone = settings.zone
        self._budget = budget
        self._clock = clock
        self._breaker = Breaker(settings.failure_ttl)
        self._logged: type[State] = Closed
        self._spent_logged = False
        self._obstacle: Obstacle | None = None

    def obstacle(self) -> Obstacle | None:
        """Why nobody should wait for the zone; None: it may be asked."""
        if not self.clear and self._budget.spent != self._spent_logged:
            self._notice()  # only the budget changes by time alone
        return self._obstacle

    def admits(self, *, refresh: bool) -> bool:
        """Whether `enter` would let a question through."""
        affordable = self._budget.refresh_allowed if refresh else not self._budget.spent
        return affordable and self._breaker.admits(self._clock.monotonic())

    def enter(self, *, refresh: bool) -> Permit | Obstacle:
        """Ask for a question.

        Args:
            refresh: it is about a client whose score is known; such questions stop first.

        Returns:
            A permit, to be given to `record`; or why the question must not be asked.
        """
        if self._budget.spent or (refresh and not self._budget.refresh_allowed):
            return Refused(f"query budget spent: {self._budget}")
        permit = self._breaker.enter(self._clock.monotonic())
        if permit is None:
            assert self._obstacle is not None
            return self._obstacle
        return permit

    def record(self, permit: Permit, probe: LookupResult) -> None:
        """Take in what came of a question. Our own spent budget says nothing about the zone."""
        if probe.refused_by_zone or not isinstance(probe.outcome, Refused):
            self._breaker.record(permit, probe.outcome, self._clock.monotonic())
        self._notice()

    def reconfigure(self, settings: ReputationSettings, *, moved: bool) -> None:
        """Go by other settings.

        Args:
            settings: to go by from now on.
            moved: another zone or other nameservers: what the breaker learned is void. Otherwise it
                lets one probe through, for an administrator who has just put things right.
        """
        self._zone = settings.zone
        self._breaker.failure_ttl = settings.failure_ttl
        self._budget.reconfigure(settings.query_budget)
        if moved:
            self._breaker.reset()
        else:
            self._breaker.probe_now(self._clock.monotonic())
        self._notice()

    @property
    def zone_state(self) -> ZoneState:
        """What is known of the zone."""
        state = self._breaker.state
        if isinstance(state, Closed):
            return "answers"
        return "refuses" if isinstance(state, Refusing) else "fails"

    @property
    def state(self) -> str:
        """For people: "ok", or "degraded: " and the reasons."""
        self._notice()
        reasons = []
        state = self._breaker.state
        if not isinstance(state, Closed):
            verb = "refuses to answer" if isinstance(state, Refusing) else "cannot be read"
            minutes = max(0.0, state.until - self._clock.monotonic()) / 60
            reasons.append(f"{self._zone} {verb} ({state.detail}), next attempt in {minutes:.0f} min")
        if self._budget.spent:
            reasons.append(f"query budget spent: {self._budget}")
        return f"degraded: {'; '.join(reasons)}" if reasons else "ok"

    def snapshot(self) -> dict[str, object] | None:
        """The refusal that must outlive a restart, if there is one."""
        return self._breaker.snapshot(self._clock.monotonic())

    def restore(self, refusal: Refusing | None) -> None:
        """Go on with the refusal that an earlier process had met, and with the budget as it is restored."""
        if refusal is not None:
            self._breaker.state = refusal
        self._notice()

    def _notice(self) -> None:
        """See what has changed, and tell the log, once."""
        state = self._breaker.state
        if type(state) is not self._logged:
            self._logged = type(state)
            self._log_breaker(state)
        spent = self._budget.spent
        if spent != self._spent_logged:
            self._spent_logged = spent
            if spent:
                log.warning(
                    "query budget spent (%s): clients without a cached score fall under [unavailable]", self._budget
                )
            else:
                log.info("query budget: there are questions left again (%s)", self._budget)
        if isinstance(state, Refusing):
            self._obstacle = Refused(state.detail)
        elif isinstance(state, Failing):
            self._obstacle = Unavailable(state.detail)
        else:
            self._obstacle = Refused(f"query budget spent: {self._budget}") if spent else None
        self.clear = self._obstacle is None

    def _log_breaker(self, state: State) -> None:
        if isinstance(state, Refusing):
            log.warning(
                "%s refuses to answer (%s): no new scores. Register the address of your resolver at my.validity.com, "
                "or set zone and nameservers in [reputation]; a reload then asks again at once, else the next "
                "attempt is in %.0f min",
                self._zone, state.detail, (state.until - self._clock.monotonic()) / 60,
            )  # fmt: skip
        elif isinstance(state, Failing):
            log.warning(
                "%s cannot be read, %d lookups in a row failed (%s): no new scores; one question every %.0f s "
                "(in a long outage every 10 min) until one is answered",
                self._zone, FAILURES_IN_A_ROW, state.detail, self._breaker.failure_ttl,
            )  # fmt: skip
        else:
            log.info("%s: scores are looked up again", self._zone)
