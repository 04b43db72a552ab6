"""Stand-ins for what surrounds the score source: time, the zone, the shared cache, the metrics."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from senderscore_policy.config.model import ReputationSettings
from senderscore_policy.policy.reputation import UNKNOWN, Refused, Reputation
from senderscore_policy.reputation.budget import QueryBudget
from senderscore_policy.reputation.lookup import Probe
from senderscore_policy.reputation.source import ScoreSource

START = 1_700_000_000.0
MINUTE = 60.0
HOUR = 3600.0
DAY = 86400.0


class FakeClock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = START
        self.uptime = 5000.0

    def time(self) -> float:
        """Seconds since the epoch."""
        return self.now

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return self.uptime

    def pass_time(self, seconds: float) -> None:
        """Both clocks go on."""
        self.now += seconds
        self.uptime += seconds


class FakeZone:
    """A resolver that knows its answers; each question is taken from the budget.

    Attributes:
        outcomes: by address.
        otherwise: of all others.
        asked: the addresses asked for, in order.
        hold: while it is set, lookups wait for it to be cleared with `release`.
    """

    def __init__(self, budget: QueryBudget, outcomes: Mapping[str, Reputation] | None = None) -> None:
        self.budget = budget
        self.outcomes = dict(outcomes or {})
        self.otherwise: Reputation = UNKNOWN
        self.asked: list[str] = []
        self.zone = ""
        self._open = asyncio.Event()
        self._open.set()

    def hold(self) -> None:
        """Answer nothing from now on."""
        self._open.clear()

    def release(self) -> None:
        """Answer all that wait, and all that come."""
        self._open.set()

    async def query_raw(self, address: str) -> Probe:
        """The outcome for the address."""
        if not self.budget.spend():
            return Probe(Refused("query budget spent"), (), None, 0.0, None, 0)
        self.asked.append(address)
        await self._open.wait()
        outcome = self.outcomes.get(address, self.otherwise)
        raw = (outcome.detail,) if isinstance(outcome, Refused) else ()
        return Probe(outcome, raw, "NOERROR", 0.01, "192.0.2.53:53", 1)

    def reconfigure(self, settings: ReputationSettings) -> None:
        """Ask another zone from now on."""
        self.zone = settings.zone


@dataclass
class FakeShared:
    """The cache that daemons share; `hangs`: it never answers."""

    texts: dict[str, str] = field(default_factory=dict)
    ttls: dict[str, int] = field(default_factory=dict)
    hangs: bool = False

    async def get(self, key: str) -> str | None:
        """The text of the key."""
        if self.hangs:
            await asyncio.Event().wait()
        return self.texts.get(key)

    async def put(self, key: str, text: str, ttl: int) -> None:
        """Keep the text."""
        if self.hangs:
            await asyncio.Event().wait()
        self.texts[key] = text
        self.ttls[key] = ttl


@dataclass
class LookupRecord:
    """Remembers what the metrics would count."""

    outcomes: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)

    def looked_up(self, outcome: str, seconds: float) -> None:
        """A lookup over DNS ended."""
        assert seconds >= 0
        self.outcomes.append(outcome)

    def cache(self, result: str) -> None:
        """A score was wanted."""
        self.results.append(result)


@dataclass
class Site:
    """A score source with its surroundings."""

    clock: FakeClock
    zone: FakeZone
    shared: FakeShared
    record: LookupRecord
    source: ScoreSource

    async def settle(self) -> None:
        """Let everything that can go on do so."""
        for _ in range(20):
            await asyncio.sleep(0)


def make_site(
    settings: ReputationSettings | None = None, clock: FakeClock | None = None, *, shared: FakeShared | None = None
) -> Site:
    """A source over fakes; without `shared` the daemon is alone."""
    settings = settings or ReputationSettings()
    clock = clock or FakeClock()
    budget = QueryBudget(settings.query_budget, clock)
    zone = FakeZone(budget)
    record = LookupRecord()
    source = ScoreSource(settings, zone, budget, clock, record, shared)
    return Site(clock, zone, shared or FakeShared(), record, source)
