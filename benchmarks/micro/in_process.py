"""A daemon's parts in this process, from received bytes to written bytes, without sockets and without memcached."""

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from senderscore_policy.config.load import parse
from senderscore_policy.config.model import policy_of
from senderscore_policy.counters.memcached.connection import Server
from senderscore_policy.counters.memcached.protocol import Pipeline, Replies
from senderscore_policy.counters.memcached.store import MemcachedCounters
from senderscore_policy.counters.memory import MemoryStore
from senderscore_policy.monitoring.clients import SeenClients
from senderscore_policy.monitoring.decisions import DecisionHistory
from senderscore_policy.monitoring.log import DecisionLog, LogWriter
from senderscore_policy.monitoring.statistics import Metrics
from senderscore_policy.policy.engine import Engine
from senderscore_policy.policy.ports import CounterStore, Observer
from senderscore_policy.policy.reputation import CachedScore, Reputation, Scored
from senderscore_policy.server.connections import PolicyConnection, PolicyServer

_REQUEST = b"""\
request=smtpd_access_policy
protocol_state=END-OF-MESSAGE
protocol_name=ESMTP
client_address=11.0.%d.%d
client_name=mail-out.example.net
client_port=43210
reverse_client_name=mail-out.example.net
server_address=192.0.2.25
server_port=25
helo_name=mail-out.example.net
sender=bounce+4711-user=example.org@news.example.net
recipient=user@example.org
recipient_count=1
queue_id=%010X
instance=1A2B.%010X.0
size=12345
etrn_domain=
stress=
sasl_method=
sasl_username=
sasl_sender=
ccert_subject=
ccert_issuer=
ccert_fingerprint=
ccert_pubkey_fingerprint=
encryption_protocol=TLSv1.3
encryption_cipher=TLS_AES_256_GCM_SHA384
encryption_keysize=256
policy_context=
compatibility_level=3.6
mail_version=3.7.11

"""


def encode(client: int, number: int) -> bytes:
    """A request of the client with this number below 65,536, as message `number`."""
    return _REQUEST % (client >> 8, client & 255, number, number)


class InProcess:
    """Connections, engine, store and observers as the daemon puts them together.

    Args:
        store: "memory" or "memcached"; the latter is a dictionary that answers in the place of the servers.
        connections: how many there are.
        limit: of every client, as TOML.
    """

    def __init__(self, store: str, connections: int, limit: str = '"unlimited"') -> None:
        config = parse(f'[counters]\nstore = "{store}"\n[[tier]]\nscores = "0-100"\nlimit = {limit}\n', "benchmark")
        clock, metrics = time, Metrics()
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._writer = LogWriter(lambda _level, _lines: None)
        window = config.counters.window_of_time()
        self.store: CounterStore = MemoryStore(window, clock)
        if store == "memcached":
            counters = MemcachedCounters(config.counters, MemoryStore(window, clock), clock, metrics)
            counters.cluster = _Memcached(counters.cluster.live)  # type: ignore[assignment]
            self.store = counters
        observers: list[Observer] = [
            DecisionLog(self._writer),
            metrics,
            SeenClients(window, clock.time),
            DecisionHistory(),
        ]
        self.engine = Engine(policy_of(config), self.store, _Scores(), clock, observers)
        # From now on `run` returns when it has nothing left to decide.
        self.engine.stop()
        server = PolicyServer(self.engine.submit, metrics.latency, connections, 1000)
        self.engine.answered = server.send_replies
        self._loop.run_until_complete(self._connect(server, connections))

    async def _connect(self, server: PolicyServer, connections: int) -> None:
        self.connections = [PolicyConnection(server) for _ in range(connections)]
        for connection in self.connections:
            connection.connection_made(_Transport())

    def receive(self, batch: Sequence[bytes]) -> None:
        """Each connection receives a request."""
        for connection, data in zip(self.connections, batch, strict=True):
            connection.data_received(data)

    def decide(self, batch: Sequence[bytes]) -> None:
        """Each connection receives a request, and all are answered."""
        self.receive(batch)
        self.run(self.engine.run())

    def run(self, coroutine: Any) -> Any:
        """Run to its end."""
        return self._loop.run_until_complete(coroutine)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        self._loop.close()
        asyncio.set_event_loop(None)


class _Transport(asyncio.Transport):
    """A connection that drops its replies."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass


class _Scores:
    """Every client has a score of 75."""

    _known = CachedScore(Scored(75), 0, float("inf"), "dns")

    def known(self, _address: str) -> CachedScore:
        return self._known

    def start(self, address: str) -> None:
        pass

    async def lookup(self, _address: str) -> Reputation:
        return self._known.reputation


class _Memcached:
    """Answers pipelines from a dictionary, instead of `Cluster`."""

    complete = True

    def __init__(self, live: tuple[Server, ...]) -> None:
        self.servers = self.live = live
        self._counts: dict[bytes, int] = {}

    def servers_for(self, _client: str) -> tuple[Server, ...]:
        return self.live

    async def exchange(self, pipelines: dict[Server, Pipeline]) -> dict[Server, Replies]:
        return {server: Replies([self._line(c) for c in each.commands], {}, {}) for server, each in pipelines.items()}

    def _line(self, command: bytes) -> bytes:
        name, key, amount = command.split(b" ", 2)
        if name == b"add":
            self._counts.setdefault(key, 0)
            return b"STORED"
        self._counts[key] += int(amount) if name == b"incr" else -int(amount)
        return b"%d" % self._counts[key]
