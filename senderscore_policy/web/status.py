"""Takes overviews of the running daemon."""

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from senderscore_policy import __version__
from senderscore_policy.config.model import Config
from senderscore_policy.counters.backend import CounterBackend
from senderscore_policy.monitoring.clients import ClientAdmin, SeenClient, SeenClients, top_clients
from senderscore_policy.monitoring.log import LogWriter
from senderscore_policy.monitoring.statistics import Evictions, Metrics, Minute, RecentTraffic
from senderscore_policy.policy.clients import Client, parse_address
from senderscore_policy.policy.engine import Engine
from senderscore_policy.policy.ports import Clock, Usage
from senderscore_policy.policy.protocol import printable
from senderscore_policy.policy.status import ClientStatus, LimitState
from senderscore_policy.policy.window import Window
from senderscore_policy.reputation.source import ScoreSource
from senderscore_policy.server.connections import PolicyServer
from senderscore_policy.server.state import StateDirectory


@dataclass(frozen=True, slots=True)
class Row:
    """One client.

    Args:
        standing: its counter against its limit.
        opens_in: of a limited client, seconds until it is let in again if it sends nothing until then;
            None: never, or it is not limited.
        name: its host name as Postfix knows it; empty if it does not. Whoever owns the address chose it.
        seen_at: when its last counted message came, in seconds since the epoch.
    """

    standing: ClientStatus
    opens_in: float | None
    name: str
    seen_at: float

    def as_json(self) -> dict[str, Any]:
        """The object of `get --json`, and more."""
        return self.standing.as_json() | {
            "place": self.standing.state,
            "opens_in": None if self.opens_in is None else math.ceil(self.opens_in),
            "name": self.name,
            "seen_at": round(self.seen_at),
        }


@dataclass(frozen=True, slots=True)
class Scores:
    """The score zone and the queries to it.

    Args:
        zone: its name.
        zone_state: the value of a `ZoneState`.
        state: "ok", or "degraded: " and why.
        used: queries sent in 30 days.
        limit: most of them; 0: no budget.
        used_today: queries sent in 24 hours.
        daily_limit: most of them; 0: no budget.
        lookups: lookups since the start, by outcome.
        cache: looks into the cache since the start, by result.
    """

    zone: str
    zone_state: str
    state: str
    used: int
    limit: int
    used_today: int
    daily_limit: int
    lookups: Mapping[str, int]
    cache: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Counters:
    """Where messages are counted.

    Args:
        store: "memory" or "memcached".
        state: "ok", or "degraded: " and why.
        servers: each memcached, and whether it is up.
        round_trips: to memcached since the start, by result.
        round_trip: seconds within which 99 of 100 round trips were done; None: there were none.
        evictions: items that memcached threw out since the start.
    """

    store: str
    state: str
    servers: Mapping[str, bool]
    round_trips: Mapping[str, int]
    round_trip: float | None
    evictions: int


@dataclass(frozen=True, slots=True)
class Service:
    """The daemon itself. Counts are since the start.

    Args:
        version: of the program.
        mode: "enforce" or "observe".
        window: of the limits, in words.
        generation: how often the configuration was taken up.
        started_at: seconds since the epoch.
        last_request_at: when a request was decided last; None: never.
        requests: requests decided.
        median: seconds within which every second request was answered; None: there were none.
        slowest: seconds within which 99 of 100 requests were answered.
        connections: open now.
        accepted: connections.
        malformed: connections closed for a malformed request.
        failed: connections closed for an unforeseen error.
        log_dropped: log lines that were not written.
        state: "ok", or "degraded: " and why nothing is saved.
        saved_at: when the state was saved last; None: not yet.
    """

    version: str
    mode: str
    window: str
    generation: int
    started_at: float
    last_request_at: float | None
    requests: int
    median: float | None
    slowest: float | None
    connections: int
    accepted: int
    malformed: int
    failed: int
    log_dropped: int
    state: str
    saved_at: float | None


@dataclass(frozen=True, slots=True)
class Status:
    """All of it.

    Args:
        time: of the overview, seconds since the epoch.
        health: the text of /healthz.
        service: the daemon.
        scores: the score zone.
        counters: the counters' back end.
        minutes: decisions of the last hour, oldest first.
        rows: the busiest clients and those nearest to their limits.
        clients: how many were seen in the window.
    """

    time: float
    health: str
    service: Service
    scores: Scores
    counters: Counters
    minutes: tuple[Minute, ...]
    rows: tuple[Row, ...]
    clients: int

    def as_json(self) -> dict[str, Any]:
        """The object of /api/status."""
        return {
            "time": round(self.time),
            "health": self.health,
            "service": asdict(self.service),
            "scores": asdict(self.scores),
            "counters": asdict(self.counters),
            "minutes": [minute._asdict() for minute in self.minutes],
            "clients": [row.as_json() for row in self.rows],
            "clients_seen": self.clients,
        }


@dataclass(frozen=True, slots=True)
class Parts:
    """What the composition root has put together.

    Args:
        clock: time.
        started_at: when the daemon started, in seconds since the epoch.
        engine: for its rules and counters, which a reload replaces.
        source: the reputations.
        counting: the counters' back ends.
        server: the policy connections.
        seen: the clients seen last.
        metrics: what is counted.
        minutes: decisions of the last hour.
        evictions: what memcached has thrown out.
        state: what is saved.
        log: the log's writer.
        config: the configuration in force.
        generation: how often it was read, the start included.
        health: the text of /healthz.
    """

    clock: Clock
    started_at: float
    engine: Engine
    source: ScoreSource
    counting: CounterBackend
    server: PolicyServer
    seen: SeenClients
    metrics: Metrics
    minutes: RecentTraffic
    evictions: Evictions
    state: StateDirectory
    log: LogWriter
    config: Callable[[], Config]
    generation: Callable[[], int]
    health: Callable[[], str]


MOST_CLIENTS: Final = 200
"""Clients that are listed: so many of the busiest, and so many of those nearest to their limits."""
AT_ONCE: Final = 50
"""Clients whose counters are read in one go: about a millisecond, and some kilobytes of memcached's answer."""
LONGEST_TEXT: Final = 100
"""Characters shown of what a client says of itself."""
LIFE: Final = 1.0
"""Seconds for which an overview is shown to all who ask: many who watch cost no more than one."""


class StatusCollector:
    """Sees what the status page and `top` show.

    Args:
        parts: the running daemon.
        desk: knows how clients stand.
    """

    def __init__(self, parts: Parts, desk: ClientAdmin) -> None:
        self._parts = parts
        self._desk = desk
        self._overview: Status | None = None
        self._until = 0.0
        self._looking = asyncio.Lock()

    async def overview(self) -> Status:
        """All of it, at most `LIFE` old."""
        async with self._looking:
            now = self._parts.clock.monotonic()
            if self._overview is None or now >= self._until:
                self._overview = await self._look()
                self._until = now + LIFE
            return self._overview

    async def busiest(self) -> list[ClientStatus]:
        """The clients, those with the most messages first."""
        standings = [row.standing for row in (await self.overview()).rows]
        return sorted(standings, key=lambda standing: standing.count, reverse=True)

    async def _look(self) -> Status:
        parts = self._parts
        now, window = parts.clock.time(), parts.seen.window
        seen = parts.seen.recent(now - window.seconds)
        # In a thread: thousands of clients take longer to sort than a request may wait for its decision.
        shown = await asyncio.get_running_loop().run_in_executor(None, top_clients, seen, MOST_CLIENTS)
        usages = await self._usages([self._client(each) for each in shown])
        bucket_time = parts.counting.now
        rows = [
            _row(standing, usage, last, window, bucket_time)
            for (standing, usage), last in zip(usages, shown, strict=True)
        ]
        return Status(
            time=now,
            health=parts.health(),
            service=_service(parts),
            scores=_scores(parts),
            counters=_counters(parts),
            minutes=tuple(parts.minutes.last_hour()),
            rows=tuple(rows),
            clients=len(seen),
        )

    async def _usages(self, clients: list[Client]) -> list[tuple[ClientStatus, Usage]]:
        """How these clients stand; requests are decided between one part of them and the next."""
        usages: list[tuple[ClientStatus, Usage]] = []
        for start in range(0, len(clients), AT_ONCE):
            usages += await self._desk.usages(clients[start : start + AT_ONCE])
            await asyncio.sleep(0)
        return usages

    def _client(self, seen: SeenClient) -> Client:
        """The client, by the rules in force now."""
        address = parse_address(seen.client.key.partition("/")[0])
        return self._desk.client(address) if address else seen.client


def _row(standing: ClientStatus, usage: Usage, last: SeenClient, window: Window, now: float) -> Row:
    """A client's row.

    Args:
        standing: its counter against its limit.
        usage: what the counter was read as.
        last: its last counted message.
        window: that messages are counted in.
        now: the time that the counter's buckets are numbered by.
    """
    opens_at = None
    if standing.state is LimitState.LIMITED:
        opens_at = window.opens_at(usage.buckets, standing.limit.messages, now)
    name = printable(last.name)
    shown_name = "" if name == "unknown" else name[:LONGEST_TEXT]
    return Row(standing, None if opens_at is None else opens_at - now, shown_name, last.time)


def _scores(parts: Parts) -> Scores:
    """The score zone now."""
    source, budget = parts.source, parts.source.budget
    return Scores(
        zone=parts.config().reputation.zone,
        zone_state=source.zone_state,
        state=source.state,
        used=budget.used,
        limit=budget.limit,
        used_today=budget.used_today,
        daily_limit=budget.daily_limit,
        lookups=dict(parts.metrics.lookups),
        cache=dict(parts.metrics.score_cache),
    )


def _counters(parts: Parts) -> Counters:
    """The counters' back end now."""
    return Counters(
        store="memory" if parts.counting.memcached is None else "memcached",
        state=parts.counting.state,
        servers=parts.counting.servers,
        round_trips=dict(parts.metrics.round_trips),
        round_trip=parts.metrics.round_trip_latency.quantile(0.99),
        evictions=parts.evictions.seen,
    )


def _service(parts: Parts) -> Service:
    """The daemon now."""
    metrics, counts, state = parts.metrics, parts.server.counts, parts.state
    return Service(
        version=__version__,
        mode="observe" if parts.engine.policy.observe else "enforce",
        window=parts.engine.policy.window,
        generation=parts.generation(),
        started_at=parts.started_at,
        last_request_at=metrics.last_decision,
        requests=sum(metrics.decisions.values()),
        median=metrics.latency.quantile(0.5),
        slowest=metrics.latency.quantile(0.99),
        connections=parts.server.connections,
        accepted=counts.accepted,
        malformed=counts.malformed,
        failed=counts.failed,
        log_dropped=parts.log.dropped,
        state=state.state,
        saved_at=state.saved_at,
    )
