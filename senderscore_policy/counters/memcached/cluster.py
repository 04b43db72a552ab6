"""The memcached servers of a site: which are up, which of them a client belongs to, and asking several at once."""

import asyncio
import logging
import time
from collections.abc import Mapping
from hashlib import blake2b
from typing import Final

from senderscore_policy.config.model import CounterSettings
from senderscore_policy.counters.memcached.connection import Server
from senderscore_policy.counters.memcached.protocol import Pipeline, Replies, add, delete, expiry, incr, key_named, put
from senderscore_policy.errors import BackendError
from senderscore_policy.policy.ports import Clock, StoreObserver

_PROBE_TTL: Final = 60

log = logging.getLogger(__name__)


class Cluster:
    """All servers of a site, those that are up in `live`; one that is down is probed each `probe_interval` seconds."""

    def __init__(self, observer: StoreObserver, probe_interval: float) -> None:
        self._observer = observer
        self._probe_interval = probe_interval
        self._watch: asyncio.Task[None] | None = None
        self.servers: tuple[Server, ...] = ()
        self.beside: dict[Server, Server] = {}  # to each server a second connection, for what mail does not wait for

    def configure(self, settings: CounterSettings) -> None:
        """Use these servers from now on; the connections of before are closed once they are idle."""
        self._probe_key = key_named(f"{settings.key_prefix}probe")
        for server in (*self.servers, *self.beside.values()):
            server.retire()
        owed = {server.name: server.owed for server in self.servers}
        self.settings = settings
        self.servers = self.live = tuple(Server(each, settings, owed.get(str(each))) for each in settings.servers)
        self.beside = {server: Server(server.endpoint, settings) for server in self.servers}

    @property
    def state(self) -> str:
        """Either "ok", or "degraded: memcached " with each server that is down and the reason."""
        faults = [f"{server.name} {server.fault}" for server in self.servers if server not in self.live]
        return f"degraded: memcached {', '.join(faults)}" if faults else "ok"

    @property
    def complete(self) -> bool:
        return len(self.live) == len(self.servers)

    @property
    def up(self) -> dict[str, bool]:
        """Each server's address, and whether it is up."""
        return {server.name: server in self.live for server in self.servers}

    def servers_for(self, client: str) -> tuple[Server, ...]:
        """The live servers that count this client, `replicas` of them, or fewer if fewer are up.

        Rendezvous hashing: each daemon of a site comes to the same answer, and a server that leaves
        or comes back moves no clients but its own.
        """
        if len(self.live) <= self.settings.replicas:
            return self.live

        def weight(server: Server) -> bytes:
            return blake2b(f"{server.name} {client}".encode(), digest_size=8).digest()

        return tuple(sorted(self.live, key=weight)[: self.settings.replicas])

    async def exchange(self, pipelines: Mapping[Server, Pipeline]) -> dict[Server, Replies]:
        """Send each server its pipeline, all at once; one that fails is down then, and absent in the result."""
        asked = [self._ask(server, pipeline) for server, pipeline in pipelines.items()]
        # One server needs no task of its own.
        answers = [await asked[0]] if len(asked) == 1 else await asyncio.gather(*asked)
        return {server: replies for server, replies in zip(pipelines, answers, strict=True) if replies is not None}

    async def evictions(self) -> int | None:
        """Items that the live servers have evicted since they started; None if no server says."""
        answers = await asyncio.gather(*(server.evictions() for server in self.live))
        counts = [answer for answer in answers if answer is not None]
        return sum(counts) if counts else None

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        for server in (*self.servers, *self.beside.values()):
            server.close()
        # The event loop closes the sockets.
        await asyncio.sleep(0)

    async def _ask(self, server: Server, pipeline: Pipeline) -> Replies | None:
        """Return the replies; without a reply return None, and the server is down."""
        if server.fault is not None:
            pipeline.unanswered(None)
            return None
        started = time.perf_counter()
        try:
            replies = await server.exchange(pipeline)
        except BackendError:
            replies = None
            self._lost(server)
        commands = len(pipeline.commands) + bool(pipeline.keys)
        self._observer.round_trip(time.perf_counter() - started, commands, replies is not None)
        return replies

    async def _probe(self, server: Server) -> None:
        """Count a message under the probe's own key, with the commands that count for clients."""
        key = self._probe_key
        try:
            await server.exchange(Pipeline([add(key, 0, _PROBE_TTL), incr(key, 1)], [key]), probe=True)
            await server.exchange(Pipeline([delete(key)], []), probe=True)
        except BackendError:
            self._lost(server)
            return
        server.works()
        if server in self.servers and server not in self.live:
            self.live = tuple(other for other in self.servers if other is server or other in self.live)
            log.warning("memcached %s is back", server.name)

    def _lost(self, server: Server) -> None:
        if server not in self.live:
            return
        self.live = tuple(other for other in self.live if other is not server)
        log.warning("memcached %s: %s; counting without it until it is back", server.name, server.fault)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._probe_until_up())

    async def _probe_until_up(self) -> None:
        while down := [server for server in self.servers if server not in self.live]:
            await asyncio.sleep(self._probe_interval)
            await asyncio.gather(*(self._probe(server) for server in down))


class SharedScores:
    """Implements `ports.SharedCache` over connections of its own, so that scores never queue in front of mail.

    A server that is down has nothing.
    """

    def __init__(self, cluster: Cluster, clock: Clock) -> None:
        self._cluster = cluster
        self._clock = clock

    async def get(self, key: str) -> str | None:
        name = self._name(key)
        for values in await self._ask(key, Pipeline([], [name])) if name else ():
            text = values.get(name, b"")
            if text.isascii() and (found := text.decode()).isprintable() and found:
                return found
        return None

    async def put(self, key: str, text: str, ttl: int) -> None:
        if name := self._name(key):
            await self._ask(key, Pipeline([put(name, text.encode("ascii"), expiry(ttl, self._clock.time()))], []))

    def _name(self, key: str) -> bytes:
        """Empty if memcached has no such keys."""
        try:
            return key_named(f"{self._cluster.settings.key_prefix}s:{key}")
        except ValueError:
            return b""

    async def _ask(self, key: str, pipeline: Pipeline) -> list[dict[bytes, bytes]]:
        servers = [self._cluster.beside[server] for server in self._cluster.servers_for(key)]
        # A probe: the counters' own connection shows whether the server is up.
        exchanges = [server.exchange(pipeline, probe=True) for server in servers]
        answers = await asyncio.gather(*exchanges, return_exceptions=True)
        return [answer.values for answer in answers if isinstance(answer, Replies)]
