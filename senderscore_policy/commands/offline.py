"""Clients' counters and scores without a daemon: straight from memcached and DNS."""

import asyncio
import logging
import time
from typing import Any, Self

from senderscore_policy.config.model import Config, policy_of
from senderscore_policy.counters.memcached.cluster import SharedScores
from senderscore_policy.counters.memcached.store import MemcachedCounters
from senderscore_policy.counters.memory import MemoryStore
from senderscore_policy.errors import BackendError, InputError
from senderscore_policy.monitoring.clients import ClientAdmin, SeenClients
from senderscore_policy.policy.clients import Client
from senderscore_policy.policy.engine import Engine
from senderscore_policy.policy.status import status_of
from senderscore_policy.reputation.cache import from_text
from senderscore_policy.reputation.source import open_source


class _Unobserved:
    """Nobody measures a command (`ports.LookupObserver`, `ports.StoreObserver`)."""

    def looked_up(self, outcome: str, seconds: float) -> None:
        """Nothing."""

    def cache(self, result: str) -> None:
        """Nothing."""

    def round_trip(self, seconds: float, commands: int, ok: bool) -> None:
        """Nothing."""

    def poisoned_key(self) -> None:
        """Nothing."""


class DirectAccess:
    """Does what `ControlClient` does while no daemon runs; a context manager.

    What it asks of the zone is not charged to the daemon's budget, and is kept only in memcached.

    Args:
        config: where to look. With the memory store only `score` makes sense: there are no counters
            but a daemon's.
    """

    def __init__(self, config: Config) -> None:
        # A server that is down becomes an error of one line, or another server counts in its place.
        logging.getLogger("senderscore_policy").addHandler(logging.NullHandler())
        self._rules = policy_of(config)
        self._zone = config.reputation.zone
        window = config.counters.window_of_time()
        local = MemoryStore(window, time)
        self._counters: MemcachedCounters | None = None
        self._shared: SharedScores | None = None
        if config.counters.store == "memcached":
            self._counters = MemcachedCounters(config.counters, local, time, _Unobserved())
            self._shared = SharedScores(
                self._counters.cluster, config.counters.key_prefix, config.counters.timeout, time
            )
        self._source = open_source(config.reputation, time, _Unobserved(), self._shared)
        engine = Engine(self._rules, self._counters or local, self._source, time, ())
        seen = SeenClients(window, time.time)
        self._desk = ClientAdmin(engine, self._source, seen, time, shared=self._shared is not None)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._runner as runner:
            runner.run(self._source.close())
            if self._counters is not None:
                runner.run(self._counters.close())

    def client(self, address: str) -> dict[str, Any]:
        """How a client stands: the object of `get --json`.

        Raises:
            BackendError: no memcached server is up (also of `increment` and `reset`).
        """
        return self._runner.run(self._stand(self._client(address)))

    def score(self, address: str) -> dict[str, Any]:
        """A client's score: the object of `score --json`."""
        return self._runner.run(self._desk.score(self._client(address)))

    def increment(self, address: str, by: int) -> dict[str, Any]:
        """Count messages for a client; how it stands then."""
        return self._runner.run(self._increment(self._client(address), by))

    def reset(self, address: str) -> dict[str, Any]:
        """Forget a client's messages; how it stands then, with a "note"."""
        return self._runner.run(self._reset(self._client(address)))

    def _client(self, address: str) -> Client:
        try:
            return self._desk.client_named(address)
        except ValueError as error:
            raise InputError(str(error)) from error

    async def _increment(self, client: Client, by: int) -> dict[str, Any]:
        await self._messages(client)
        await self._desk.increment(client, by)
        return await self._stand(client)

    async def _reset(self, client: Client) -> dict[str, Any]:
        await self._messages(client)
        await self._desk.reset(client)
        return await self._stand(client) | {"note": self._desk.reset_note}

    async def _stand(self, client: Client) -> dict[str, Any]:
        messages = await self._messages(client)
        found = None
        if self._shared is not None and client.address is not None:
            found = from_text(await self._shared.get(client.address) or "", self._zone)
        reputation = None if found is None else found[0]
        return status_of(self._rules, client, reputation, messages).as_json()

    async def _messages(self, client: Client) -> int:
        """The client's messages, from servers that are up: which ones are is found out by asking.

        A daemon counts by itself while all of them are down; what a command counted so would be lost.
        """
        assert self._counters is not None
        while servers := self._counters.cluster.live:
            [usage] = await self._counters.read([client.key])
            if self._counters.cluster.live == servers:
                return usage.count
        raise BackendError(f"no daemon is running, nor memcached: {self._counters.state.removeprefix('degraded: ')}")
