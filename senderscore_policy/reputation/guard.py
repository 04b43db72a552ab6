"""Whether the score zone may be asked now (breaker and query budget), and the state of the zone for people."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from senderscore_policy.config.model import ReputationSettings
from senderscore_policy.policy.durations import span
from senderscore_policy.policy.ports import Clock
from senderscore_policy.policy.reputation import Refused, Reputation, Unavailable
from senderscore_policy.reputation.budget import QueryBudget

FIRST_PERIOD: Final = 300.0
"""Seconds without a question after the first refusal; each further refusal doubles them."""
LONGEST_PERIOD: Final = 6 * 3600.0
FAILURES_SHOWN: Final = 3
"""Failures in a row from which on people see that the zone fails; one suffices until a lookup has succeeded."""
FAILURES_IN_A_ROW: Final = 10
"""Failures in a row after which no request waits for a score. With lazy lookups that may take days."""
LONGEST_PROBE_PERIOD: Final = 600.0
"""Longest time between two probes of a zone that does not answer, in seconds; before, it is a tenth of the outage.
At one probe a minute, each of two questions, an outage of a few days would spend a month's query budget."""
QUIET_TIME: Final = 60.0
"""Seconds between two log lines about a failing zone, after three: it may fail and recover all the time."""
MAX_NAMES: Final = 1000
"""Clients remembered whose lookups failed during an outage."""

log = logging.getLogger(__name__)


class ZoneState(StrEnum):
    """State of the score zone, in the words of the page, the metric, /healthz and `doctor`."""

    NOT_ASKED = "not asked yet"
    ANSWERS = "answers"
    FAILING = "failing"
    REFUSES = "refuses"
    BUDGET_SPENT = "budget spent"


@dataclass(frozen=True, slots=True)
class Refusing:
    """The zone refuses this resolver, for every client, until the next question `period` seconds later."""

    detail: str
    period: float
    until: float


@dataclass(frozen=True, slots=True)
class Failing:
    """Ten lookups in a row had failed at `since`; the next probe is due at `until`."""

    since: float
    until: float


@dataclass(frozen=True, slots=True)
class LookupResult:
    """What the zone said about one client."""

    outcome: Reputation
    addresses: tuple[str, ...]  # the A records of the answer
    rcode: str | None  # "NOERROR", "NXDOMAIN", "SERVFAIL" …; None: no readable response
    elapsed: float  # seconds
    nameserver: str | None  # the last one asked, "192.0.2.53:53"; None: none was asked
    questions: int  # sent, retries and TCP included


class Breaker:
    """Allows every question while the zone answers, and single probes while it does not. Times are monotonic seconds.

    Failures of one client count once until another client's lookup fails too: they say nothing about the zone.
    A probe goes to a client whose lookup has not failed during the outage; if none comes for `failure_ttl`, to any.
    """

    def __init__(self, failure_ttl: float) -> None:
        self.failure_ttl = failure_ttl  # shortest time between two probes, in seconds
        self.reset()

    def reset(self) -> None:
        """Forget what the lookups so far said about the zone."""
        self.state: Refusing | Failing | None = None  # None: the zone answers, as far as is known
        self.failures = 0  # in a row
        self.detail = ""  # reason of the last failure
        self.answered = False  # whether the zone has answered since
        self._failed: set[str] = set()
        self._probe = ""

    def admits(self, address: str, now: float) -> bool:
        """Whether `enter` would allow a question."""
        grace = self.failure_ttl if address in self._failed else 0
        return self.state is None or now >= self.state.until + grace

    def enter(self, address: str, now: float) -> bool:
        """Allow a question about an address, whose outcome goes to `record`; False: it would be pointless."""
        if not self.admits(address, now):
            return False
        if self.state is not None:
            # If the probe never returns, the next one is due after the same time as if it had failed.
            self.state = replace(self.state, until=now + self.failure_ttl)
            self._probe = address
        return True

    def record(self, address: str, outcome: Reputation, now: float) -> None:
        state = self.state
        if isinstance(outcome, Unavailable):
            self._record_failure(address, outcome.detail, now)
        elif isinstance(state, Refusing) and address != self._probe:
            pass  # one of many lookups that were under way when the first of them was refused
        elif isinstance(outcome, Refused):
            period = min(2 * state.period, LONGEST_PERIOD) if isinstance(state, Refusing) else FIRST_PERIOD
            self.state = Refusing(outcome.detail, period, now + period)
            self.failures = 0
            self._failed.clear()
        else:
            self.reset()
            self.answered = True

    def _record_failure(self, address: str, detail: str, now: float) -> None:
        if self._failed != {address}:
            self.failures += 1
        if len(self._failed) >= MAX_NAMES:
            self._failed.clear()
        self._failed.add(address)
        self.detail = detail
        if self.state is None and self.failures >= FAILURES_IN_A_ROW:
            self.state = Failing(now, now + self.failure_ttl)
        elif isinstance(self.state, Failing) and address == self._probe:
            period = max(self.failure_ttl, min(0.1 * (now - self.state.since), LONGEST_PROBE_PERIOD))
            self.state = replace(self.state, until=now + period)

    def retry(self, now: float) -> None:
        """Forget failures, and allow a probe of a refusing zone now, for an administrator who fixed the cause."""
        if isinstance(self.state, Refusing):
            self.state = replace(self.state, until=now)
            self._failed.clear()
        elif self.failures:
            answers = self.answered and self.failures < FAILURES_SHOWN
            self.reset()
            self.answered = answers

    def snapshot(self, now: float) -> dict[str, object] | None:
        """Return what `parse_refusal` reads; None unless the zone refuses: failures do not outlive a restart."""
        state = self.state
        if not isinstance(state, Refusing):
            return None
        return {"detail": state.detail, "period": state.period, "remaining": max(0.0, state.until - now)}


def parse_refusal(saved: Mapping[str, Any], away: float, now: float) -> Refusing:
    """Read what `Breaker.snapshot` returned `away` seconds ago (0 or more); ValueError: the value is damaged."""
    try:
        period, remaining, detail = float(saved["period"]), float(saved["remaining"]), str(saved["detail"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"refusal: {error!r}") from error
    if not FIRST_PERIOD <= period <= LONGEST_PERIOD or not 0 <= remaining <= LONGEST_PERIOD:
        raise ValueError("refusal: a period out of range")
    return Refusing(detail, period, now + max(0.0, remaining - away))


class QueryGuard:
    """Allows the questions that the breaker and the query budget allow; the log reports each change of the state."""

    def __init__(self, settings: ReputationSettings, budget: QueryBudget, clock: Clock) -> None:
        self.open = True  # whether a first question about a client is allowed; the hot path reads only this
        self._zone = settings.zone
        self._budget = budget
        self._clock = clock
        self._breaker = Breaker(settings.failure_ttl)
        self._logged = ZoneState.NOT_ASKED
        self._quiet_until = self._updated_at = 0.0
        self._reason: Refused | Unavailable | None = None

    def reason(self) -> Refused | Unavailable | None:
        """Why no request should wait for the zone; None: it may be asked."""
        if not self.open and self._clock.monotonic() >= self._updated_at + 1:
            self._update()  # a spent budget has questions again after some time; each request calls this
        return self._reason

    def admits(self, address: str, *, refresh: bool) -> bool:
        """Whether `enter` would allow a question."""
        return self._budget.allows(refresh=refresh) and self._breaker.admits(address, self._clock.monotonic())

    def enter(self, address: str, *, refresh: bool) -> Refused | Unavailable | None:
        """Allow a question, whose result goes to `record`, or return why not; `refresh`: the known score is stale."""
        if not self._budget.allows(refresh=refresh):
            return self._budget.refusal
        return None if self._breaker.enter(address, self._clock.monotonic()) else self._reason

    def record(self, address: str, result: LookupResult) -> None:
        """Learn from a lookup. A refusal without an address is by the own query budget, and not by the zone."""
        if result.addresses or not isinstance(result.outcome, Refused):
            self._breaker.record(address, result.outcome, self._clock.monotonic())
        self._update()

    def reconfigure(self, settings: ReputationSettings, *, moved: bool) -> None:
        """Apply other settings; `moved`: another zone or other nameservers, about which nothing is known yet."""
        self._zone = settings.zone
        self._breaker.failure_ttl = settings.failure_ttl
        self._budget.limit = settings.query_budget
        self.retry()
        if moved:
            self._breaker.reset()
            self._update()

    def retry(self) -> None:
        """Ask again at once: the administrator, or a new resolver, may have fixed the cause."""
        if self.zone_state in {ZoneState.FAILING, ZoneState.REFUSES}:
            log.info("%s is asked again at once", self._zone)
        self._breaker.retry(self._clock.monotonic())
        self._quiet_until = 0.0
        self._update()

    @property
    def zone_state(self) -> ZoneState:
        breaker = self._breaker
        if isinstance(breaker.state, Refusing):
            return ZoneState.REFUSES
        if breaker.failures >= (FAILURES_SHOWN if breaker.answered else 1):
            return ZoneState.FAILING
        if not self._budget.allows():
            return ZoneState.BUDGET_SPENT
        return ZoneState.ANSWERS if breaker.answered else ZoneState.NOT_ASKED

    @property
    def state(self) -> str:
        """The word "ok", or "degraded: " and the reasons."""
        self._update()
        reasons = []
        if self.zone_state in {ZoneState.FAILING, ZoneState.REFUSES}:
            reasons.append(f"{self._trouble()}; a reload asks again at once")
        if not self._budget.allows():
            reasons.append(self._budget.refusal.detail)
        return f"degraded: {'; '.join(reasons)}" if reasons else "ok"

    def snapshot(self) -> dict[str, object] | None:
        return self._breaker.snapshot(self._clock.monotonic())

    def restore(self, refusal: Refusing | None) -> None:
        """Continue with the refusal that an earlier process met, and with the restored budget."""
        if refusal is not None:
            self._breaker.state = refusal
        self._update()

    def _trouble(self) -> str:
        """Say how the zone fails or refuses, and when it is asked next if not for each new client."""
        state, trouble = self._breaker.state, f"is failing ({self._breaker.detail})"
        if isinstance(state, Refusing):
            trouble = f"refuses to answer ({state.detail})"
        wait = f", next attempt in {span(max(1.0, state.until - self._clock.monotonic()))}" if state else ""
        return f"{self._zone} {trouble}{wait}"

    def _update(self) -> None:
        """Set what the hot path reads, and log a change of the state once."""
        state = self._breaker.state
        if isinstance(state, Refusing):
            self._reason = Refused(state.detail)
        elif isinstance(state, Failing):
            self._reason = Unavailable(self._breaker.detail)
        else:
            self._reason = None if self._budget.allows() else self._budget.refusal
        self.open = self._reason is None
        before, after = self._logged, self.zone_state
        self._updated_at = now = self._clock.monotonic()
        if after is before or (after is ZoneState.FAILING and now + 2 * QUIET_TIME < self._quiet_until):
            return
        if after is ZoneState.FAILING:
            self._quiet_until = max(now, self._quiet_until) + QUIET_TIME
        self._logged = after
        self._log_change(before)

    def _log_change(self, before: ZoneState) -> None:
        if before is ZoneState.BUDGET_SPENT:
            log.info("query budget has queries left again (%s)", self._budget)
        if self._logged is ZoneState.REFUSES:
            log.warning(
                "%s: no new scores. Register the address of your resolver at my.validity.com, or set zone and "
                "nameservers in [reputation]; a reload then asks again at once",
                self._trouble(),
            )
        elif self._logged is ZoneState.FAILING:
            log.warning(
                "%s: clients without a cached score fall under [unavailable]. senderscore-policy doctor helps to find "
                "the cause; once it is fixed, a reload asks again at once",
                self._trouble(),
            )
        elif self._logged is ZoneState.BUDGET_SPENT:
            log.warning(
                "query budget spent (%s): clients without a cached score fall under [unavailable]", self._budget
            )
        elif self._logged is ZoneState.ANSWERS and before is not ZoneState.BUDGET_SPENT:
            log.info("%s answers: scores are looked up", self._zone)
