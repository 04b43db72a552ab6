"""Whether the zone may be asked now: the breaker and the query budget, and what the log says of them."""

import logging
from typing import Literal

from senderscore_policy.config.model import ReputationSettings
from senderscore_policy.policy.ports import Clock
from senderscore_policy.policy.reputation import Refused, Unavailable
from senderscore_policy.reputation.answer import Probe
from senderscore_policy.reputation.breaker import FAILURES_IN_A_ROW, Breaker, Closed, Failing, Permit, Refusing, State
from senderscore_policy.reputation.budget import QueryBudget

log = logging.getLogger(__name__)

Obstacle = Refused | Unavailable
ZoneState = Literal["answers", "refuses", "fails"]


class Gate:
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

    def record(self, permit: Permit, probe: Probe) -> None:
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
