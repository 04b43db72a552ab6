"""A daemon without sockets and without the world: its real parts, on a clock that a test moves."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from senderscore_policy.config.load import parse
from senderscore_policy.config.model import ReputationSettings, rules_of
from senderscore_policy.counters.backend import Counting
from senderscore_policy.monitoring.clients import Desk, SeenClients
from senderscore_policy.monitoring.log import LogWriter
from senderscore_policy.monitoring.statistics import Evictions, Metrics, Minutes
from senderscore_policy.policy.clients import Client, parse_address
from senderscore_policy.policy.engine import Engine
from senderscore_policy.policy.protocol import Request
from senderscore_policy.policy.reputation import UNKNOWN, Refused, Reputation, Scored
from senderscore_policy.reputation.budget import QueryBudget
from senderscore_policy.reputation.lookup import Probe
from senderscore_policy.reputation.source import ScoreSource
from senderscore_policy.server.connections import PolicyServer
from senderscore_policy.server.state import StateDirectory
from senderscore_policy.web.status import Lookout, Overview, Parts

START = 1_700_000_000.0
"""Wall-clock time at which each daemon begins."""


class FakeClock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.uptime = 5000.0

    def time(self) -> float:
        return START - 5000.0 + self.uptime

    def monotonic(self) -> float:
        return self.uptime


class FakeZone:
    """A resolver that knows its answers; each question is taken from the budget."""

    def __init__(self, budget: QueryBudget, scores: Mapping[str, int | Reputation]) -> None:
        self.budget = budget
        self.scores = dict(scores)

    async def query_raw(self, address: str) -> Probe:
        self.budget.spend()
        found = self.scores.get(address, UNKNOWN)
        outcome = Scored(found) if isinstance(found, int) else found
        addresses = ("127.255.255.254",) if isinstance(outcome, Refused) else ()
        return Probe(outcome, addresses, "NOERROR", 0.004, "192.0.2.53:53", 1)

    def reconfigure(self, settings: ReputationSettings) -> None:
        pass


class Asker:
    """A question that keeps its answer."""

    def __init__(self, **attributes: object) -> None:
        lines = "".join(f"{name}={value}\n" for name, value in attributes.items())
        self.request = Request(f"\nrequest=smtpd_access_policy\n{lines}".encode())
        self.action = ""

    def answer(self, action: str) -> None:
        self.action = action

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return False


class Site:
    """One daemon.

    Args:
        directory: for its state.
        toml: its configuration.
        scores: what the zone answers, by address; of others it knows nothing.
    """

    def __init__(self, directory: Path, toml: str = "", scores: Mapping[str, int | Reputation] | None = None) -> None:
        config = parse(toml, "test.toml")
        self.clock = FakeClock()
        self.lines: list[str] = []
        self.writer = LogWriter(lambda _, lines: self.lines.extend(lines))
        metrics = Metrics()
        counting = Counting(config.counters, self.clock, metrics)
        budget = QueryBudget(config.reputation.query_budget, self.clock)
        self.zone = FakeZone(budget, scores or {})
        source = ScoreSource(config.reputation, self.zone, budget, self.clock, metrics, None)
        seen = SeenClients(config.counters.window_of_time(), lambda: counting.now)
        engine = Engine(rules_of(config), counting.store, source, self.clock, [metrics, seen])
        self.state = StateDirectory(directory, {"counters": counting, "scores": source})
        self.parts = Parts(
            clock=self.clock,
            started_at=self.clock.time(),
            engine=engine,
            source=source,
            counting=counting,
            server=PolicyServer(engine.submit, metrics.latency, 100, 1000),
            seen=seen,
            metrics=metrics,
            minutes=Minutes(metrics, self.clock),
            evictions=Evictions(counting),
            state=self.state,
            log=self.writer,
            config=lambda: config,
            generation=lambda: 1,
            health=self.health,
        )
        self.desk = Desk(engine, source, seen, self.clock, self.health, shared=False)

    def health(self) -> str:
        """As the daemon puts it together."""
        states = [self.parts.counting.state, self.parts.source.state, self.state.state]
        degraded = [state.removeprefix("degraded: ") for state in states if state != "ok"]
        return f"degraded: {'; '.join(degraded)}" if degraded else "ready"

    async def send(self, address: str, messages: int = 1, **attributes: Any) -> list[str]:
        """The answers to so many messages of a client, all in one batch."""
        askers = [Asker(client_address=address, **attributes) for _ in range(messages)]
        for asker in askers:
            self.parts.engine.submit(asker)
            self.parts.metrics.latency.observe(0.0004)
        self.parts.engine.stop()
        await self.parts.engine.run()
        return [asker.action for asker in askers]

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and each minute begin that begins meanwhile."""
        end = self.clock.uptime + seconds
        while (left := end - self.clock.uptime) > 0:
            step = min(left, 60 - self.clock.time() % 60)
            self.clock.uptime += step
            if self.clock.time() % 60 == 0:
                self.parts.minutes.begin()

    def client(self, text: str) -> Client:
        """The client at an address."""
        address = parse_address(text)
        assert address is not None
        return self.desk.client(address)

    async def overview(self) -> Overview:
        """What there is to be seen now."""
        return await Lookout(self.parts, self.desk).overview()

    async def close(self) -> None:
        """End what runs beside the test."""
        await self.parts.source.close()
        self.writer.close()


@contextlib.asynccontextmanager
async def site(
    directory: Path, toml: str = "", scores: Mapping[str, int | Reputation] | None = None
) -> AsyncIterator[Site]:
    """A daemon, ended at the end."""
    opened = Site(directory, toml, scores)
    try:
        yield opened
    finally:
        await opened.close()
        await asyncio.sleep(0)
