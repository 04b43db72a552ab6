"""Clients' counters and scores without a daemon: directly from memcached and DNS."""

import asyncio
import logging
import time
from contextlib import AbstractContextManager
from typing import Any

from senderscore_policy.config.model import Config, policy_of
from senderscore_policy.counters.backend import CounterBackend
from senderscore_policy.errors import BackendError, InputError
from senderscore_policy.monitoring.clients import ClientAdmin, SeenClients
from senderscore_policy.monitoring.statistics import Metrics
from senderscore_policy.policy.clients import Client
from senderscore_policy.policy.engine import Engine
from senderscore_policy.policy.status import status_of
from senderscore_policy.reputation.cache import from_text
from senderscore_policy.reputation.source import open_source


class DirectAccess(AbstractContextManager["DirectAccess"]):
    """The calls of `ControlClient` with their errors, while no daemon runs.

    Its queries are not charged to the daemon's budget, and their scores are kept in memcached only. With the memory
    store only `score` is useful, as only a daemon has its counters.
    """

    def __init__(self, config: Config) -> None:
        # Without a log: a server that is down becomes an error of one line, or another server counts instead.
        logging.getLogger("senderscore_policy").addHandler(logging.NullHandler())
        metrics = Metrics()
        self._backend = CounterBackend(config.counters, time, metrics)
        self._source = open_source(config.reputation, time, metrics, self._backend.shared)
        engine = Engine(policy_of(config), self._backend.store, self._source, time, ())
        seen = SeenClients(config.counters.window_of_time(), time.time)
        self._admin = ClientAdmin(engine, self._source, seen, time, shared=self._backend.shared is not None)
        self._runner = asyncio.Runner()

    def __exit__(self, *_: object) -> None:
        with self._runner as runner:
            runner.run(self._source.close())
            runner.run(self._backend.close())

    def client(self, address: str) -> dict[str, Any]:
        return self._runner.run(self._status(self._named(address)))

    def score(self, address: str) -> dict[str, Any]:
        return self._runner.run(self._admin.score(self._named(address)))

    def increment(self, address: str, by: int) -> dict[str, Any]:
        self.client(address)  # only while a server is up
        self._runner.run(self._admin.increment(self._named(address), by))
        return self.client(address)

    def reset(self, address: str) -> list[dict[str, Any]]:
        self.client(address)
        note = self._runner.run(self._admin.reset([self._named(address)]))
        note = f"{note}; repeat the command once they are back" if "not reached" in note else note
        return [self.client(address) | {"note": note}]

    def _named(self, address: str) -> Client:
        try:
            return self._admin.client_named(address)
        except ValueError as error:
            raise InputError(str(error)) from error

    async def _status(self, client: Client) -> dict[str, Any]:
        """The client's status, from the servers that turn out to be up.

        While all of them are down, only a daemon can count: what a command counted would be lost.
        """
        assert self._backend.memcached is not None
        cluster, scores = self._backend.memcached.cluster, self._backend.memcached.scores
        while servers := cluster.live:
            [usage] = await self._backend.store.read([client.key])
            if cluster.live == servers:
                text = await scores.get(client.address) if client.address else None
                found = from_text(text or "", self._source.settings.zone)
                return status_of(self._admin.engine.policy, client, found and found[0], usage.count).as_json()
        raise BackendError(f"no daemon is running, nor memcached: {cluster.state.removeprefix('degraded: memcached ')}")
