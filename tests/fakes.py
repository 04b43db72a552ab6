"""Fakes written against the ports: time, scores, counters, memcached, and a whole daemon without sockets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

from senderscore_policy.config.endpoints import Inet, Unix
from senderscore_policy.config.load import parse
from senderscore_policy.config.model import ReputationSettings, policy_of
from senderscore_policy.counters.backend import CounterBackend
from senderscore_policy.monitoring.clients import ClientAdmin, SeenClients
from senderscore_policy.monitoring.decisions import DecisionHistory
from senderscore_policy.monitoring.log import LogWriter
from senderscore_policy.monitoring.statistics import Evictions, Metrics, RecentTraffic
from senderscore_policy.policy.clients import Client, parse_address
from senderscore_policy.policy.decision import Decision
from senderscore_policy.policy.engine import Engine
from senderscore_policy.policy.ports import Charge, Usage
from senderscore_policy.policy.protocol import Request
from senderscore_policy.policy.reputation import UNKNOWN, CachedScore, Refused, Reputation, Scored, Unavailable
from senderscore_policy.reputation.budget import QueryBudget
from senderscore_policy.reputation.guard import LookupResult
from senderscore_policy.reputation.source import ScoreSource
from senderscore_policy.server.state import StateDirectory
from senderscore_policy.web.status import ServiceStatus, Status, StatusCollector

START = 1_000_200.0
"""Wall-clock time at which each test begins: the start of a bucket of 300 seconds."""
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

FOREVER = 1e12
MINUTE = 60.0
HOUR = 3600.0
DAY = 86400.0


class FakeClock:
    """Both clocks, which move when a test moves them."""

    def __init__(self, now: float = START) -> None:
        self.now = now
        self.uptime = 5000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.uptime

    def pass_time(self, seconds: float) -> None:
        """Move both clocks."""
        self.now += seconds
        self.uptime += seconds


class FakeRequest:
    """A pending request that keeps its answer."""

    def __init__(self, **attributes: object) -> None:
        lines = "".join(f"{name}={value}\n" for name, value in attributes.items())
        self.request = Request(f"\nrequest=smtpd_access_policy\n{lines}".encode())
        self.action: str | None = None
        self.error: BaseException | None = None

    def answer(self, action: str) -> None:
        assert self.action is None
        self.action = action

    def fail(self, error: Exception) -> None:
        self.error = error


class FakeStore:
    """Counts in a dictionary without a window."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.batches: list[int] = []

    async def charge(self, charges: Sequence[Charge], refunds: Sequence[Charge]) -> None:
        self.batches.append(len(charges))
        for refund in refunds:
            self.counts[str(refund.receipt)] -= refund.amount
        for charge in charges:
            self.counts[charge.key] = charge.count = self.counts.get(charge.key, 0) + charge.amount
            charge.receipt = charge.key

    async def read(self, clients: Sequence[str]) -> list[Usage]:
        return [Usage(self.counts.get(client, 0), {}) for client in clients]

    async def reset(self, clients: Sequence[str]) -> list[str]:
        for client in clients:
            self.counts.pop(client, None)
        return []


class FakeSource:
    """Reputations from a dictionary: `at_hand` at once, `by_lookup` after a wait."""

    def __init__(self) -> None:
        self.at_hand: dict[str, Reputation] = {}
        self.by_lookup: dict[str, Reputation] = {}
        self.started: list[str] = []
        self.fresh_until = FOREVER

    def known(self, address: str) -> CachedScore | None:
        reputation = self.at_hand.get(address)
        return reputation and CachedScore(reputation, 0, self.fresh_until, "dns")

    def start(self, address: str) -> None:
        self.started.append(address)

    async def lookup(self, address: str) -> Reputation:
        return self.by_lookup.get(address, Unavailable("timeout"))


class Recorder:
    """An observer that keeps every decision."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []

    def decided(self, decisions: Sequence[Decision]) -> None:
        self.decisions.extend(decisions)


class EngineBench:
    """An engine with fakes around it."""

    def __init__(self, toml: str = "") -> None:
        self.clock = FakeClock()
        self.store = FakeStore()
        self.source = FakeSource()
        self.seen = Recorder()
        self.engine = Engine(policy_of(parse(toml, "test.toml")), self.store, self.source, self.clock, [self.seen])

    async def ask(self, *requests: FakeRequest) -> list[str | None]:
        """Submit these in one batch and wait for every answer."""
        for request in requests:
            self.engine.submit(request)
        self.engine.stop()
        await self.engine.run()
        return [request.action for request in requests]

    async def one(self, address: str = "192.0.2.75", **attributes: object) -> str | None:
        """The answer to one request."""
        return (await self.ask(FakeRequest(client_address=address, **attributes)))[0]


class FakeZone:
    """A resolver that knows its answers; each question is taken from the budget.

    Attributes:
        outcomes: by address; a number is a score.
        otherwise: the outcome of all other addresses.
        asked: the addresses asked for, in order.
    """

    def __init__(self, budget: QueryBudget, outcomes: Mapping[str, int | Reputation] | None = None) -> None:
        self.budget = budget
        self.outcomes = dict(outcomes or {})
        self.otherwise: Reputation = UNKNOWN
        self.asked: list[str] = []
        self.zone = ""
        self.moved = False
        self._open = asyncio.Event()
        self._open.set()

    def hold(self) -> None:
        """Answer nothing from now on."""
        self._open.clear()

    def release(self) -> None:
        """Answer all that wait, and all that come."""
        self._open.set()

    async def query_raw(self, address: str) -> LookupResult:
        """The outcome for the address."""
        if not self.budget.spend():
            return LookupResult(Refused("query budget spent"), (), None, 0.0, None, 0)
        self.asked.append(address)
        await self._open.wait()
        found = self.outcomes.get(address, self.otherwise)
        outcome = Scored(found) if isinstance(found, int) else found
        raw = (outcome.detail,) if isinstance(outcome, Refused) else ()
        return LookupResult(outcome, raw, "NOERROR", 0.01, "192.0.2.53:53", 1)

    def reconfigure(self, settings: ReputationSettings) -> None:
        """Ask another zone from now on."""
        self.zone = settings.zone

    def changed(self, _now: float) -> bool:
        """Whether a test has given the system other nameservers since the last call."""
        changed, self.moved = self.moved, False
        return changed


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
class ScoreSite:
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


def score_site(
    settings: ReputationSettings | None = None, clock: FakeClock | None = None, *, shared: FakeShared | None = None
) -> ScoreSite:
    """A source over fakes; without `shared` the daemon is alone."""
    settings = settings or ReputationSettings()
    clock = clock or FakeClock()
    budget = QueryBudget(settings.query_budget, clock)
    zone = FakeZone(budget)
    record = LookupRecord()
    source = ScoreSource(settings, zone, budget, clock, record, shared)
    return ScoreSite(clock, zone, shared or FakeShared(), record, source)


class StoreRecord:
    """A store's observer that counts what it sees."""

    def __init__(self) -> None:
        self.commands: list[int] = []
        self.failures = 0
        self.invalid = 0

    def round_trip(self, seconds: float, commands: int, ok: bool) -> None:
        assert seconds >= 0
        if ok:
            self.commands.append(commands)
        else:
            self.failures += 1

    def invalid_key(self) -> None:
        self.invalid += 1


class FakeMemcached:
    """The commands that counters need, on a dictionary, as protocol.txt describes them.

    Attributes:
        full: whether it has no memory for new items.
        unknown: commands that no daemon sends.
    """

    def __init__(self) -> None:
        self.items: dict[bytes, bytes] = {}
        self.exptimes: dict[bytes, int] = {}
        self.full = False
        self.unknown = 0

    def answer(self, commands: bytes) -> bytes:
        """The replies to whole commands."""
        lines = iter(commands.split(b"\r\n")[:-1])
        return b"".join(self._replies(lines))

    def _replies(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        for line in lines:
            name, *arguments = line.split(b" ")
            if name in {b"add", b"set", b"cas"}:
                yield self._store(name, arguments, next(lines)) + b"\r\n"
            elif name in {b"incr", b"decr"}:
                yield self._count(name, *arguments) + b"\r\n"
            elif name == b"delete":
                yield (b"NOT_FOUND" if self.items.pop(arguments[0], None) is None else b"DELETED") + b"\r\n"
            elif name in {b"get", b"gets"}:
                for key in arguments:
                    if key in self.items:
                        token = b" %d" % self._token(key) if name == b"gets" else b""
                        yield b"VALUE %b 0 %d%b\r\n%b\r\n" % (key, len(self.items[key]), token, self.items[key])
                yield b"END\r\n"
            else:
                self.unknown += 1
                yield b"ERROR\r\n"

    def _store(self, name: bytes, arguments: list[bytes], data: bytes) -> bytes:
        key, flags, exptime, size, *token = arguments
        assert flags == b"0"
        assert len(data) == int(size)
        if name == b"add" and key in self.items:
            return b"NOT_STORED"
        if name == b"cas" and key not in self.items:
            return b"NOT_FOUND"
        if name == b"cas" and [b"%d" % self._token(key)] != token:
            return b"EXISTS"
        if self.full:
            return b"SERVER_ERROR out of memory storing object"
        self.items[key] = data
        self.exptimes[key] = int(exptime)
        return b"STORED"

    def _token(self, key: bytes) -> int:
        """Another one for each value."""
        return crc32(self.items[key])

    def _count(self, name: bytes, key: bytes, amount: bytes) -> bytes:
        old = self.items.get(key)
        if old is None:
            return b"NOT_FOUND"
        if not old.strip(b" ").isdigit():
            return b"CLIENT_ERROR cannot increment or decrement non-numeric value"
        number = max(0, int(old) + (int(amount) if name == b"incr" else -int(amount)))
        # A smaller number is written over the old one and blanks behind it.
        self.items[key] = (b"%d" % number).ljust(len(old))
        return b"%d" % number

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A script for `listening`."""
        while data := await reader.read(1 << 20):
            while not data.endswith(b"\r\n"):
                data += await reader.read(1 << 20)
            writer.write(self.answer(data))


@contextlib.asynccontextmanager
async def listening(script: Script, path: Path | None = None) -> AsyncIterator[Unix | Inet]:
    """A server at the path, or at a free port of 127.0.0.1, that treats each connection by the script and closes it."""
    connections: set[asyncio.Task[None]] = set()

    async def treat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await script(reader, writer)
        except ConnectionError:
            writer.transport.abort()
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.create_task(treat(reader, writer)))

    if path is None:
        server = await asyncio.start_server(connected, "127.0.0.1", 0)
    else:
        server = await asyncio.start_unix_server(connected, path)
    try:
        yield Unix(str(path)) if path else Inet("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        if path is not None:
            path.unlink(missing_ok=True)  # noqa: ASYNC240 - asyncio itself does so from Python 3.13 on


class DaemonSite:
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
        self.metrics = Metrics()
        self.counting = CounterBackend(config.counters, self.clock, self.metrics)
        budget = QueryBudget(config.reputation.query_budget, self.clock)
        self.zone = FakeZone(budget, scores or {})
        self.source = ScoreSource(config.reputation, self.zone, budget, self.clock, self.metrics, None)
        self.seen = SeenClients(config.counters.window_of_time(), lambda: self.counting.now)
        self.history = DecisionHistory()
        observers = [self.metrics, self.seen, self.history]
        self.engine = Engine(policy_of(config), self.counting.store, self.source, self.clock, observers)
        self.state = StateDirectory(directory, {"counters": self.counting.local, "scores": self.source})
        self.traffic = RecentTraffic(self.metrics, self.clock)
        self.admin = ClientAdmin(self.engine, self.source, self.seen, self.clock, shared=False)
        evictions = Evictions(self.counting)
        self.started_at = self.clock.time()
        self.collector = StatusCollector(
            self.admin, self.metrics, self.traffic, self.source, self.counting, evictions, self.history, self.report
        )

    def report(self) -> ServiceStatus:
        """The daemon itself, as the composition root reports it."""
        states = [self.counting.state, self.source.state, self.state.state]
        degraded = [state.removeprefix("degraded: ") for state in states if state != "ok"]
        return ServiceStatus(
            version="0.0",
            mode="observe" if self.engine.policy.observe else "enforce",
            window=self.engine.policy.window,
            counted="messages",
            generation=1,
            reload_failed=False,
            started_at=self.started_at,
            connections=3,
            accepted=8,
            closed={"idle": 2, "max_connections": 0},
            malformed=0,
            failed=0,
            log_dropped=0,
            state=self.state.state,
            saved_at=self.state.saved_at,
            health=f"degraded: {'; '.join(degraded)}" if degraded else "ready",
        )

    async def send(self, address: str, messages: int = 1, **attributes: Any) -> list[str | None]:
        """The answers to a number of messages from a client, all in one batch."""
        requests = [FakeRequest(client_address=address, **attributes) for _ in range(messages)]
        for request in requests:
            self.engine.submit(request)
            self.metrics.latency.observe(0.0004)
        self.engine.stop()
        await self.engine.run()
        return [request.action for request in requests]

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and each minute begin that begins meanwhile."""
        end = self.clock.uptime + seconds
        while (left := end - self.clock.uptime) > 0:
            step = min(left, 60 - self.clock.time() % 60)
            self.clock.pass_time(step)
            if self.clock.time() % 60 == 0:
                self.traffic.begin()

    def client(self, text: str) -> Client:
        """The client at an address."""
        address = parse_address(text)
        assert address is not None
        return self.admin.client(address)

    async def status(self) -> Status:
        """The status now, also if the one before is not old."""
        return await self.collector._collect()

    async def close(self) -> None:
        """End the background tasks."""
        await self.source.close()
        self.writer.close()


@contextlib.asynccontextmanager
async def site(
    directory: Path, toml: str = "", scores: Mapping[str, int | Reputation] | None = None
) -> AsyncIterator[DaemonSite]:
    """A daemon, ended at the end."""
    opened = DaemonSite(directory, toml, scores)
    try:
        yield opened
    finally:
        await opened.close()
        await asyncio.sleep(0)
