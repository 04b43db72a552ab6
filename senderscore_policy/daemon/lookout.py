"""Takes overviews of the running daemon."""

import asyncio
from typing import Final

from senderscore_policy import __version__
from senderscore_policy.daemon.clients import SeenClient, foremost
from senderscore_policy.daemon.desk import Desk
from senderscore_policy.daemon.overview import Counters, Overview, Row, Scores, Service
from senderscore_policy.daemon.parts import Parts
from senderscore_policy.policy.address import Client, parse_address
from senderscore_policy.policy.ports import Usage
from senderscore_policy.policy.protocol import printable
from senderscore_policy.policy.standing import Place, Standing
from senderscore_policy.policy.window import Window

MOST_CLIENTS: Final = 200
"""Clients that are listed: so many of the busiest, and so many of those nearest to their limits."""
AT_ONCE: Final = 50
"""Clients whose counters are read in one go: about a millisecond, and some kilobytes of memcached's answer."""
LONGEST_TEXT: Final = 100
"""Characters shown of what a client says of itself."""
LIFE: Final = 1.0
"""Seconds for which an overview is shown to all who ask: many who watch cost no more than one."""


class Lookout:
    """Sees what the status page and `top` show.

    Args:
        parts: the running daemon.
        desk: knows how clients stand.
    """

    def __init__(self, parts: Parts, desk: Desk) -> None:
        self._parts = parts
        self._desk = desk
        self._overview: Overview | None = None
        self._until = 0.0
        self._looking = asyncio.Lock()

    async def overview(self) -> Overview:
        """All of it, at most `LIFE` old."""
        async with self._looking:
            now = self._parts.clock.monotonic()
            if self._overview is None or now >= self._until:
                self._overview = await self._look()
                self._until = now + LIFE
            return self._overview

    async def busiest(self) -> list[Standing]:
        """The clients, those with the most messages first."""
        standings = [row.standing for row in (await self.overview()).rows]
        return sorted(standings, key=lambda standing: standing.messages, reverse=True)

    async def _look(self) -> Overview:
        parts = self._parts
        now, window = parts.clock.time(), parts.seen.window
        seen = parts.seen.recent(now - window.seconds)
        # In a thread: thousands of clients take longer to sort than a request may wait for its decision.
        shown = await asyncio.get_running_loop().run_in_executor(None, foremost, seen, MOST_CLIENTS)
        usages = await self._usages([self._client(each) for each in shown])
        bucket_time = parts.counting.now
        rows = [
            _row(standing, usage, last, window, bucket_time)
            for (standing, usage), last in zip(usages, shown, strict=True)
        ]
        return Overview(
            time=now,
            health=parts.health(),
            service=_service(parts),
            scores=_scores(parts),
            counters=_counters(parts),
            minutes=tuple(parts.minutes.last_hour()),
            rows=tuple(rows),
            clients=len(seen),
        )

    async def _usages(self, clients: list[Client]) -> list[tuple[Standing, Usage]]:
        """How these clients stand; requests are decided between one part of them and the next."""
        usages: list[tuple[Standing, Usage]] = []
        for start in range(0, len(clients), AT_ONCE):
            usages += await self._desk.usages(clients[start : start + AT_ONCE])
            await asyncio.sleep(0)
        return usages

    def _client(self, seen: SeenClient) -> Client:
        """The client, by the rules in force now."""
        address = parse_address(seen.client.key.partition("/")[0])
        return self._desk.client(address) if address else seen.client


def _row(standing: Standing, usage: Usage, last: SeenClient, window: Window, now: float) -> Row:
    """A client's row.

    Args:
        standing: its counter against its limit.
        usage: what the counter was read as.
        last: its last counted message.
        window: that messages are counted in.
        now: the time that the counter's buckets are numbered by.
    """
    opens_at = None
    if standing.place is Place.LIMITED:
        opens_at = window.opens_at(usage.buckets, standing.rule.limit, now)
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
        mode="observe" if parts.engine.rules.observe else "enforce",
        window=parts.engine.rules.window,
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
