"""What the status page and `top` show, as one value: taken at one moment, rendered anywhere."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from senderscore_policy.daemon.minutes import Minute
from senderscore_policy.policy.standing import Standing


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

    standing: Standing
    opens_in: float | None
    name: str
    seen_at: float

    def as_json(self) -> dict[str, Any]:
        """The object of `get --json`, and more."""
        return self.standing.as_json() | {
            "place": self.standing.place,
            "opens_in": None if self.opens_in is None else math.ceil(self.opens_in),
            "name": self.name,
            "seen_at": round(self.seen_at),
        }


@dataclass(frozen=True, slots=True)
class Scores:
    """The score zone and the queries to it.

    Args:
        zone: its name.
        zone_state: "answers", "refuses" or "fails".
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
class Overview:
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
