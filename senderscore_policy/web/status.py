"""Collects the status of the running daemon, for the status page and `top`."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from senderscore_policy.counters.backend import CounterBackend
from senderscore_policy.monitoring.clients import ClientAdmin, Row, SeenClient, matching, network_of, parts, top_clients
from senderscore_policy.monitoring.decisions import DecisionHistory
from senderscore_policy.monitoring.statistics import Evictions, Metrics, Minute, RecentTraffic
from senderscore_policy.policy.clients import Client, Network
from senderscore_policy.policy.decision import Decision
from senderscore_policy.policy.reputation import CachedScore
from senderscore_policy.reputation.source import ScoreSource


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
    scores: dict[str, Any]  # see `StatusCollector.scores`
    counters: dict[str, Any]
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
            "scores": self.scores,
            "counters": self.counters,
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
MOST_FOUND: Final = 1000
"""The same for the clients that a filter selects, such as a network."""
LIFE: Final = 1.0
"""Seconds for which all visitors get one status and all scrapers one page of metrics: many cost no more than one."""
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

    def scores(self) -> dict[str, Any]:
        """The score zone and the queries to it; lookups and uses of the cache since the start."""
        source, budget = self.source, self.source.budget
        return {
            "zone": source.settings.zone,
            "zone_state": source.zone_state,
            "state": source.state,  # "ok", or "degraded: " and the reason
            "used": budget.used,  # queries in 30 days
            "limit": budget.limit,  # 0: no budget
            "used_today": budget.used_today,  # queries in 24 hours
            "daily_limit": budget.daily_limit,
            "lookups": +self.metrics.lookups,
            "cache": +self.metrics.score_cache,
        }

    def counters(self) -> dict[str, Any]:
        """The back end of the counters; numbers since the start."""
        backend, metrics = self.backend, self.metrics
        return {
            "store": "memory" if backend.memcached is None else "memcached",
            "state": backend.state,
            "servers": backend.servers,  # each memcached, and whether it is up
            "round_trips": +metrics.round_trips,
            "round_trip": metrics.round_trip_latency.quantile(0.99),  # seconds within which 99 of 100 ended
            "evictions": self.evictions.seen,
        }

    async def clients(self, text: str) -> tuple[tuple[Row, ...], int]:
        """The clients that a filter selects (`monitoring.clients.matching`): those to be listed, and the number of all.

        An address selects its client, also if that never sent a message.
        """
        network = network_of(text)
        if network is not None and network.num_addresses == 1:
            return tuple(await self.admin.rows([self.admin.client_named(str(network[0]))])), 1
        seen = self.admin.seen
        since = self.admin.clock.time() - seen.window.seconds

        def select() -> tuple[list[SeenClient], int]:
            found = list(matching(seen.recent(since), text))
            return top_clients(found, MOST_FOUND if text else MOST_CLIENTS), len(found)

        # In a thread: thousands of clients take longer to sort than a request may wait for its decision.
        shown, number = await asyncio.to_thread(select)
        rows: list[Row] = []
        async for part in parts(shown):
            rows += await self.admin.rows(list(map(self._client, part)))
        return tuple(rows), number

    def _client(self, seen: SeenClient) -> Client:
        """The client, by the policy in force now."""
        try:
            return self.admin.client_named(seen.client.key)
        except ValueError:
            # A reload has changed what is counted together.
            return seen.client

    async def details(self, client: Client) -> ClientDetails:
        (row,) = await self.admin.rows([client])
        # In a thread: the history is long.
        decisions = await asyncio.to_thread(self.history.of_client, client.key)
        return ClientDetails(
            time=self.admin.clock.time(),
            row=row,
            score=self.admin.score_at_hand(client),
            network=self.admin.ruled_network(client),
            decisions=tuple(reversed(decisions[-MOST_DECISIONS:])),
        )
