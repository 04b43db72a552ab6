"""Clients' counters and scores without a daemon: directly from memcached and DNS."""

import asyncio
import logging
import time
from typing import Any, Self

from senderscore_policy.config.model import Config, policy_of
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
    """A command measures nothing (`ports.LookupObserver`, `ports.StoreObserver`)."""

    def _ignore(self, *args: object, **kwargs: object) -> None: ...

    looked_up = cache = round_trip = invalid_key = _ignore


class DirectAccess:
    """The calls of `ControlClient` with their errors, while no daemon runs; a context manager.

    Its queries are not charged to the daemon's budget, and their scores are kept in memcached only. With the memory
    store only `score` is useful, as only a daemon has its counters.
    """

    def __init__(self, config: Config) -> None:
        # Without a log: a server that is down becomes an error of one line, or another server counts instead.
        logging.getLogger("senderscore_policy").addHandler(logging.NullHandler())
        self._policy = policy_of(config)
        self._zone = config.reputation.zone
        window = config.counters.window_of_time()
        local = MemoryStore(window, time)
        self._counters: MemcachedCounters | None = None
        if config.counters.store == "memcached":
            self._counters = MemcachedCounters(config.counters, local, time, _Unobserved())
        self._shared = None if self._counters is None else self._counters.scores
        self._source = open_source(config.reputation, time, _Unobserved(), self._shared)
        engine = Engine(self._policy, self._counters or local, self._source, time, ())
        seen = SeenClients(window, time.time)
        self._admin = ClientAdmin(engine, self._source, seen, time, shared=self._shared is not None)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._runner as runner:
            runner.run(self._source.close())
            if self._counters is not None:
                runner.run(self._counters.close())

    def client(self, address: str) -> dict[str, Any]:
        return self._runner.run(self._status(self._client(address)))

    def score(self, address: str) -> dict[str, Any]:
        return self._runner.run(self._admin.score(self._client(address)))

    def increment(self, address: str, by: int) -> dict[str, Any]:
        return self._runner.run(self._increment(self._client(address), by))

    def reset(self, address: str) -> dict[str, Any]:
        return self._runner.run(self._reset(self._client(address)))

    async def _increment(self, client: Client, by: int) -> dict[str, Any]:
        await self._count(client)
        await self._admin.increment(client, by)
        return await self._status(client)

    async def _reset(self, client: Client) -> dict[str, Any]:
        await self._count(client)
        note = await self._admin.reset(client)
        note = f"{note}; repeat the command once they are back" if "not reached" in note else note
        return await self._status(client) | {"note": note}

    def _client(self, address: str) -> Client:
        try:
            return self._admin.client_named(address)
        except ValueError as error:
            raise InputError(str(error)) from error

    async def _status(self, client: Client) -> dict[str, Any]:
        count = await self._count(client)
        found = None
        if self._shared is not None and client.address is not None:
            found = from_text(await self._shared.get(client.address) or "", self._zone)
        return status_of(self._policy, client, found and found[0], count).as_json()

    async def _count(self, client: Client) -> int:
        """The client's messages, from the servers that turn out to be up.

        While all of them are down, only a daemon can count: what a command counted would be lost.
        """
        assert self._counters is not None
        while servers := self._counters.cluster.live:
            [usage] = await self._counters.read([client.key])
            if self._counters.cluster.live == servers:
                return usage.count
        faults = self._counters.cluster.state.removeprefix("degraded: memcached ")
        raise BackendError(f"no daemon is running, nor memcached: {faults}")
