"""Collects the status of the running daemon, for the status page and `top`."""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from senderscore_policy.counters.backend import CounterBackend
from senderscore_policy.monitoring.clients import ClientAdmin, SeenClient, matching, network_of, top_clients
from senderscore_policy.monitoring.decisions import DecisionHistory
from senderscore_policy.monitoring.statistics import Evictions, Metrics, Minute, RecentTraffic
from senderscore_policy.policy.clients import Client, Network
from senderscore_policy.policy.decision import Decision
from senderscore_policy.policy.protocol import printable
from senderscore_policy.policy.reputation import CachedScore
from senderscore_policy.policy.status import ClientStatus, LimitState
from senderscore_policy.reputation.source import ScoreSource


@dataclass(frozen=True, slots=True)
class Row:
    """One client."""

    status: ClientStatus
    # Seconds until one more message is within its limit, if it sends nothing before; None: never, or without a limit.
    opens_in: float | None
    name: str  # as Postfix knows the host, or empty; the owner of the address chose it
    seen_at: float  # its last counted message, in seconds since the epoch; 0: this daemon has not seen any

    def as_json(self) -> dict[str, Any]:
        """The object of `get --json`, and more."""
        limited = self.status.state is LimitState.LIMITED
        return self.status.as_json() | {
            "state": self.status.state,
            "opens_in": math.ceil(self.opens_in) if limited and self.opens_in is not None else None,
            "name": self.name,
            "seen_at": round(self.seen_at),
        }


@dataclass(frozen=True, slots=True)
class ScoreStatus:
    """The score zone and the queries to it; lookups and cache results since the start."""

    zone: str
    zone_state: str  # the value of a `ZoneState`
    state: str  # "ok", or "degraded: " and the reason; also in the next two classes
    used: int  # queries in 30 days
    limit: int  # 0: no budget
    used_today: int  # queries in 24 hours
    daily_limit: int
    lookups: Mapping[str, int]
    cache: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class CounterStatus:
    """The back end of the counters; numbers since the start."""

    store: str
    state: str
    servers: Mapping[str, bool]  # each memcached, and whether it is up
    round_trips: Mapping[str, int]
    round_trip: float | None  # seconds within which 99 of 100 round trips ended
    evictions: int


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """The daemon itself; counts since the start, times in seconds since the epoch."""

    version: str
    mode: str
    window: str
    counted: str  # "messages" or "recipients"
    generation: int  # the number of configurations that were applied
    reload_failed: bool  # the last reload was refused
    started_at: float
    connections: int  # open now
    accepted: int  # connections
    closed: Mapping[str, int]  # idle connections, by reason
    malformed: int  # connections closed because of a malformed request
    failed: int  # connections closed because of an internal error
    log_dropped: int
    state: str
    saved_at: float | None
    health: str  # the text of /healthz


@dataclass(frozen=True, slots=True)
class Status:
    """The status of the whole daemon; times in seconds since the epoch, durations in seconds."""

    time: float
    service: ServiceStatus
    scores: ScoreStatus
    counters: CounterStatus
    last_request_at: float | None
    requests: int  # decisions since the start
    median: float | None  # half of the requests were answered within this time
    slowest: float | None  # 99 of 100 requests were
    minutes: tuple[Minute, ...]  # of the last hour, oldest first
    rows: tuple[Row, ...]  # the busiest clients and those nearest to their limits
    clients: int  # seen in the window

    def as_json(self) -> dict[str, Any]:
        """The object of /api/status."""
        return {
            "time": round(self.time),
            "health": self.service.health,
            "service": asdict(self.service)
            | {name: getattr(self, name) for name in ("last_request_at", "requests", "median", "slowest")},
            "scores": asdict(self.scores),
            "counters": asdict(self.counters),
            "minutes": [minute._asdict() for minute in self.minutes],
            "clients": [row.as_json() for row in self.rows],
            "clients_seen": self.clients,
        }


@dataclass(frozen=True, slots=True)
class ClientDetails:
    """What is known of one client."""

    time: float  # of these details, seconds since the epoch
    row: Row
    score: CachedScore | None  # as known without a lookup
    network: Network | None  # of [exempt], or of the [[override]], that applies to it
    decisions: tuple[Decision, ...]  # the last ones, newest first


MOST_CLIENTS: Final = 200
"""The number of clients listed because they are the busiest, and of those nearest to their limits."""
AT_ONCE: Final = 50
"""Clients whose counters are read together: about a millisecond, and some kilobytes of memcached's answer."""
LONGEST_TEXT: Final = 100
"""Characters shown of a host name."""
LIFE: Final = 1.0
"""Seconds for which a status is shown to every visitor: many visitors cost no more than one."""
MOST_DECISIONS: Final = 10
"""Decisions on the page of a client."""


@dataclass(eq=False, slots=True)
class StatusCollector:
    """Collects what the status page, `top` and the metrics show; each part reports its own status."""

    admin: ClientAdmin
    metrics: Metrics
    traffic: RecentTraffic
    source: ScoreSource
    backend: CounterBackend
    evictions: Evictions
    history: DecisionHistory
    service: Callable[[], ServiceStatus]
    _last: Status | None = field(default=None, init=False)
    _until: float = field(default=0.0, init=False)
    _collecting: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    async def status(self) -> Status:
        """The status, at most `LIFE` old."""
        async with self._collecting:
            now = self.admin.clock.monotonic()
            if self._last is None or now >= self._until:
                self._last = await self._collect()
                self._until = now + LIFE
            return self._last

    async def _collect(self) -> Status:
        metrics = self.metrics
        rows, clients = await self.clients("")
        return Status(
            time=self.admin.clock.time(),
            service=self.service(),
            scores=self.scores(),
            counters=self.counters(),
            last_request_at=metrics.last_decision,
            requests=sum(metrics.decisions.values()),
            median=metrics.latency.quantile(0.5),
            slowest=metrics.latency.quantile(0.99),
            minutes=tuple(self.traffic.last_hour()),
            rows=rows,
            clients=clients,
        )

    def scores(self) -> ScoreStatus:
        source, budget = self.source, self.source.budget
        return ScoreStatus(
            zone=source.settings.zone,
            zone_state=source.zone_state,
            state=source.state,
            used=budget.used,
            limit=budget.limit,
            used_today=budget.used_today,
            daily_limit=budget.daily_limit,
            lookups=dict(self.metrics.lookups),
            cache=dict(self.metrics.score_cache),
        )

    def counters(self) -> CounterStatus:
        backend, metrics = self.backend, self.metrics
        return CounterStatus(
            store="memory" if backend.memcached is None else "memcached",
            state=backend.state,
            servers=backend.servers,
            round_trips=dict(metrics.round_trips),
            round_trip=metrics.round_trip_latency.quantile(0.99),
            evictions=self.evictions.seen,
        )

    async def clients(self, text: str) -> tuple[tuple[Row, ...], int]:
        """The clients that a filter selects (`monitoring.clients.matching`): those to be listed, and the number of all.

        An address selects its client, also if that never sent a message.
        """
        network = network_of(text)
        if network is not None and network.num_addresses == 1:
            client = self.admin.client_named(text)
            return tuple(await self._rows([self.admin.seen.find(client.key) or SeenClient(client)])), 1
        seen, window = self.admin.seen, self.admin.seen.window
        since = self.admin.clock.time() - window.seconds

        def select() -> tuple[list[SeenClient], int]:
            found = list(matching(seen.recent(since), text))
            return top_clients(found, MOST_CLIENTS), len(found)

        # In a thread: thousands of clients take longer to sort than a request may wait for its decision.
        shown, number = await asyncio.to_thread(select)
        return tuple(await self._rows(shown)), number

    async def _rows(self, shown: Sequence[SeenClient]) -> list[Row]:
        """One row for each client. The daemon decides requests between one part of the rows and the next."""
        rows: list[Row] = []
        for start in range(0, len(shown), AT_ONCE):
            part = shown[start : start + AT_ONCE]
            statuses = await self.admin.statuses([self._client(each) for each in part])
            rows += [_row(*status, last) for status, last in zip(statuses, part, strict=True)]
            await asyncio.sleep(0)
        return rows

    def _client(self, seen: SeenClient) -> Client:
        """The client, by the policy in force now."""
        try:
            return self.admin.client_named(seen.client.key)
        except ValueError:
            # A reload has changed what is counted together.
            return seen.client

    async def details(self, client: Client) -> ClientDetails:
        (status,) = await self.admin.statuses([client])
        # In a thread: the history is long.
        decisions = await asyncio.to_thread(self.history.of_client, client.key)
        return ClientDetails(
            time=self.admin.clock.time(),
            row=_row(*status, self.admin.seen.find(client.key) or SeenClient(client)),
            score=self.admin.score_at_hand(client),
            network=self.admin.ruled_network(client),
            decisions=tuple(reversed(decisions[-MOST_DECISIONS:])),
        )


def _row(status: ClientStatus, opens_in: float | None, last: SeenClient) -> Row:
    name = printable(last.name)
    return Row(status, opens_in, "" if name == "unknown" else name[:LONGEST_TEXT], last.time)
