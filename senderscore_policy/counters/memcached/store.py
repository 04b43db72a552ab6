"""Counters in memcached; the daemon's own counters decide while memcached cannot."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Final, Self, TypeVar

from senderscore_policy.config.model import CounterSettings
from senderscore_policy.counters.memcached.batch import Batch, ClientBuckets, CountedAt, LaggingClient, ServerBatch
from senderscore_policy.counters.memcached.cluster import Cluster, SharedScores
from senderscore_policy.counters.memcached.connection import Server
from senderscore_policy.counters.memcached.protocol import (
    BucketKeys,
    Pipeline,
    Replies,
    add,
    cas,
    delete,
    expiry,
    number_in,
)
from senderscore_policy.counters.memory import MemoryStore
from senderscore_policy.policy.bounded import BoundedCache
from senderscore_policy.policy.ports import Charge, Clock, StoreObserver, Usage
from senderscore_policy.policy.window import View

T = TypeVar("T")

CLOSED_FOR: Final = 60.0
"""Seconds for which the counts of closed buckets are believed."""
MAX_ACCOUNTS: Final = 40_000
"""Clients whose closed buckets are kept, about 400 bytes each."""
MAX_LAGGING: Final = 40_000
"""Clients whose counters are compared after one of their servers was away; those seen longest ago are dropped first."""
MAX_RESETS: Final = 1000
"""Resets that are repeated once an absent server is back; the oldest are dropped first."""
_OBSERVATIONS: Final = 6
"""Comparisons that must show a difference before it is corrected. They last longer than all daemons of
a site take to notice that a server is back, and than any increment is under way."""
_AT_ONCE: Final = 100
"""Clients that are compared in one round trip: about 60 kilobytes, and two milliseconds."""


class MemcachedCounters:
    """Implements `ports.CounterStore`.

    A charge that no server could count is decided on `local` at once: with all servers down, in the
    very batch in which its server fails, where its key holds no number or memcached is out of
    memory, and for a client that cannot be part of a key. What was counted there is not merged back.

    Args:
        settings: servers, replicas, window, timeout.
        local: the daemon's own counters.
        clock: time; buckets go by the wall clock, which the hosts of a site share.
        observer: notified of round trips and invalid keys.
        probe_interval: seconds between two attempts to reach a server that is down; four times
            as often it is looked whether a server that was away has to catch up.
    """

    def __init__(
        self,
        settings: CounterSettings,
        local: MemoryStore,
        clock: Clock,
        observer: StoreObserver,
        probe_interval: float = 1.0,
    ) -> None:
        self._window = settings.window_of_time()
        self._keys = BucketKeys(settings.key_prefix, self._window)
        self._local = local
        self._clock = clock
        self._observer = observer
        self.cluster = Cluster(settings, observer, probe_interval)
        self.scores = SharedScores(self.cluster, settings.key_prefix, clock)
        self._accounts: BoundedCache[str, ClientBuckets] = BoundedCache(MAX_ACCOUNTS)
        self._accounts_held_for: object = None
        self._replicas = settings.replicas
        self._lagging: dict[str, LaggingClient] = {}
        self._resets: dict[str, float] = {}
        self._interval = probe_interval / 4
        self._catching_up: asyncio.Task[None] | None = None

    @property
    def state(self) -> str:
        return self.cluster.state

    @property
    def lagging(self) -> int:
        """Clients whose servers are compared with each other, because one of them may have to catch up."""
        return len(self._lagging)

    async def evictions(self) -> int | None:
        return await self.cluster.evictions()

    async def close(self) -> None:
        await self._stop()
        await self.cluster.close()

    async def retire(self, successor: Self) -> None:
        """Let `successor`, which counts from now on, do what is left to be done, and close connections once idle."""
        await self._stop()
        await self.cluster.retire(successor.cluster)
        successor._lagging |= self._lagging
        successor._resets |= self._resets
        successor._catch_up_later()

    async def _stop(self) -> None:
        if self._catching_up is not None:
            self._catching_up.cancel()
            await asyncio.wait([self._catching_up])

    async def charge(self, charges: Sequence[Charge], refunds: Sequence[Charge]) -> None:
        now = self._clock.time()
        view = self._window.view(now)
        batch = Batch(view, self._keys, expiry(self._window.ttl, now), self.cluster.live)
        local_refunds = _refund(batch, refunds)
        # Accounts hold for the same buckets on the same servers.
        held_for = (view.current, view.closed, self.cluster.live)
        if self._accounts_held_for != held_for:
            self._accounts.clear()
            self._accounts_held_for = held_for
        monotonic = self._clock.monotonic()
        accounts = self._enter(charges, batch, view, monotonic)
        await self._exchange(batch)
        uncounted = []
        before = batch.counted_before(monotonic + CLOSED_FOR)
        for charge, account in zip(charges, accounts, strict=True):
            if account is not None and account in before:
                charge.count = before[account] = before[account] + charge.amount
                charge.receipt = batch.receipt(account)
            else:
                uncounted.append((charge, account))
        if uncounted or local_refunds:
            await self._local.charge([charge for charge, _ in uncounted], local_refunds)
            for charge, account in uncounted:
                if account is not None:
                    charge.receipt = batch.receipt(account, charge.receipt)

    async def _exchange(self, batch: Batch) -> None:
        held_for = self._accounts_held_for
        unanswered = {server: partial(self._unanswered, part) for server, part in batch.parts.items()}
        second = batch.take(await self.cluster.exchange(batch.pipelines(), unanswered))
        if second:
            batch.take_again(await self.cluster.exchange(second))
        for _ in range(batch.invalid):
            self._observer.invalid_key()
        for account in batch.evicted:
            self._accounts.pop(account.client)
        if self._accounts_held_for is held_for:
            for account in batch.unread:
                if account in batch.numbers:
                    self._accounts.put(account.client, account)
        if self._replicas > 1:
            for client in batch.lagging if self.cluster.complete else [account.client for account in batch.amounts]:
                self._lagging.setdefault(client, LaggingClient())
            _keep_newest(self._lagging, MAX_LAGGING)
        if self._lagging:
            self._catch_up_later()

    def _unanswered(self, part: ServerBatch, replies: Replies | None) -> None:
        part.unanswered(replies)
        self._catch_up_later()

    async def read(self, clients: Sequence[str]) -> list[Usage]:
        view = self._window.view(self._clock.time())
        indexes = (view.current, *view.open, *view.closed)
        names = {client: self._names(client, indexes) for client in clients}
        servers, replies = await self._read(names)
        usages = []
        for client in clients:
            if answers := [replies[server].values for server in servers[client] if server in replies]:
                buckets = _buckets(dict(zip(indexes, names[client], strict=True)), answers)
                usages.append(Usage(view.total(buckets), buckets))
            else:
                usages += await self._local.read([client])
        return usages

    async def _read(
        self, names: Mapping[str, Sequence[bytes]], *, tokens: bool = False
    ) -> tuple[dict[str, tuple[Server, ...]], dict[Server, Replies]]:
        """The servers of each client, and what they have under its names."""
        servers = {client: self.cluster.servers_for(client) if names[client] else () for client in names}
        wanted: dict[Server, list[bytes]] = {}
        for client, its_servers in servers.items():
            for server in its_servers:
                wanted.setdefault(server, []).extend(names[client])
        pipelines = {server: Pipeline([], keys, tokens) for server, keys in wanted.items()}
        return servers, await self.cluster.exchange(pipelines)

    async def reset(self, clients: Sequence[str]) -> list[str]:
        """Delete the counters on all servers that are up, wherever the clients belong now.

        It is repeated for all servers once those that are away have returned: until then another daemon
        may have seen a counter that was not deleted, and have raised others to it.
        """
        current = self._window.view(self._clock.time()).current
        indexes = range(current - self._window.buckets, current + 2)
        commands = [delete(name) for client in clients for name in self._names(client, indexes)]
        if commands:
            await self.cluster.exchange({server: Pipeline(commands, []) for server in self.cluster.live})
        await self._local.reset(clients)
        self._accounts_held_for = None
        absent = [name for name, up in self.cluster.up.items() if not up]
        if commands and absent:
            self._resets |= dict.fromkeys(clients, self._clock.time())
            _keep_newest(self._resets, MAX_RESETS)
            self._catch_up_later()
        return absent

    def _catch_up_later(self) -> None:
        if self._catching_up is None or self._catching_up.done():
            self._catching_up = asyncio.get_running_loop().create_task(self._catch_up())

    async def _catch_up(self) -> None:
        """Once all servers are up, send to those that were away what they have missed."""
        while self._resets or self._lagging or any(server.owed for server in self.cluster.servers):
            await asyncio.sleep(self._interval)
            if self.cluster.complete:
                await self.charge([], [])
                if self._resets:
                    oldest = self._clock.time() - self._window.ttl
                    resets, self._resets = self._resets, {}
                    await self.reset([client for client, since in resets.items() if since > oldest])
                clients = list(self._lagging)
                for start in range(0, len(clients), _AT_ONCE):
                    await self._compare(clients[start : start + _AT_ONCE])

    async def _compare(self, clients: Sequence[str]) -> None:
        """Raise the counters that are lower on one of their servers, by compare-and-swap, once the difference lasts."""
        now = self._clock.time()
        view, exptime = self._window.view(now), expiry(self._window.ttl, now)
        names = {client: self._names(client, (view.current, *view.open, *view.closed)) for client in clients}
        servers, replies = await self._read(names, tokens=True)
        if replies.keys() != set().union(*servers.values()):
            return
        commands: dict[Server, list[bytes]] = {}
        for client in clients:
            lagging = self._lagging[client]
            values = {server: replies[server].values for server in servers[client]}
            if not lagging.observe(names[client], values):
                del self._lagging[client]
            for (server, name), lag in lagging.lasting(_OBSERVATIONS).items():
                token = replies[server].tokens.get(name)
                number = number_in(values[server].get(name, b"")) or 0
                command = cas(name, number + lag, exptime, token) if token else add(name, lag, exptime)
                commands.setdefault(server, []).append(command)
        if commands:
            await self.cluster.exchange({server: Pipeline(lines, []) for server, lines in commands.items()})

    def _enter(self, charges: Sequence[Charge], batch: Batch, view: View, now: float) -> list[ClientBuckets | None]:
        """Enter the charges into the batch, summed up by account; the account of each charge, None without a key."""
        accounts: list[ClientBuckets | None] = []
        amounts: dict[ClientBuckets, int] = {}
        known = self._accounts.young.get
        unread: dict[str, ClientBuckets] = {}
        for charge in charges:
            key = charge.key
            account = known(key) or self._accounts.get(key)
            if account is None or account.until <= now:
                account = unread.get(key)
                if account is None:
                    names = self._names(key, [view.current])
                    if not names:
                        accounts.append(None)
                        continue
                    account = unread[key] = ClientBuckets(key, names[0], self.cluster.servers_for(key))
            accounts.append(account)
            amounts[account] = amounts.get(account, 0) + charge.amount
        for account, amount in amounts.items():
            batch.charge(account, amount)
        return accounts

    def _names(self, client: str, indexes: Iterable[int]) -> list[bytes]:
        """The client's counters; none for a client that cannot be part of a key."""
        try:
            stem = self._keys.stem(client)
        except ValueError:
            return []
        return [stem + b"%d" % index for index in indexes]


def _buckets(names: dict[int, bytes], answers: list[dict[bytes, bytes]]) -> dict[int, int]:
    """The buckets that are not empty, from the values of all servers that answered; the larger one decides."""
    largest = {index: max(number_in(values.get(name, b"")) or 0 for values in answers) for index, name in names.items()}
    return {index: count for index, count in largest.items() if count}


def _keep_newest(entries: dict[str, T], most: int) -> None:
    while len(entries) > most:
        del entries[next(iter(entries))]


def _refund(batch: Batch, refunds: Sequence[Charge]) -> list[Charge]:
    """Enter the refunds into the batch; those of charges that the daemon itself has decided."""
    local = []
    for refund in refunds:
        receipt = refund.receipt
        if isinstance(receipt, CountedAt):
            batch.refund(receipt, refund.amount)
            receipt = refund.receipt = receipt.local
        if receipt is not None:
            local.append(refund)
    return local
