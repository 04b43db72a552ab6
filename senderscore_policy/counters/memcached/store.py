"""Counters in memcached; the daemon's own counters decide while memcached cannot."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

from senderscore_policy.config.model import CounterSettings
from senderscore_policy.counters.memcached.batch import Batch, ClientBuckets, CountedAt, Lags, ServerBatch, compare
from senderscore_policy.counters.memcached.cluster import Cluster, SharedScores
from senderscore_policy.counters.memcached.connection import Server
from senderscore_policy.counters.memcached.protocol import (
    BucketKeys,
    Pipeline,
    Replies,
    add,
    cas,
    count_in,
    delete,
    expiry,
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
_COMPARISONS: Final = 6
"""Comparisons that must show a difference before it is corrected. They last longer than all daemons of
a site take to notice that a server is back, and than any increment is under way."""
_AT_ONCE: Final = 100
"""Clients that are compared in one round trip: about 60 kilobytes, and two milliseconds."""


class MemcachedCounters:
    """Implements `ports.CounterStore`.

    A charge that no server could count is decided on `local` at once: with all servers down, in the
    very batch in which its server fails, where its key holds no number or memcached is out of
    memory, and for a client that cannot be part of a key. What was counted there is not merged back.

    Buckets go by the wall clock, which the hosts of a site share. Each `probe_interval` seconds a server that is
    down is probed; four times as often the daemon looks whether a server that was away has to catch up.
    """

    def __init__(
        self,
        settings: CounterSettings,
        local: MemoryStore,
        clock: Clock,
        observer: StoreObserver,
        probe_interval: float = 1.0,
    ) -> None:
        self._local = local
        self._clock = clock
        self._observer = observer
        self.cluster = Cluster(observer, probe_interval)
        self.scores = SharedScores(self.cluster, clock)
        self._accounts: BoundedCache[str, ClientBuckets] = BoundedCache(MAX_ACCOUNTS)
        self._accounts_held_for: object = None
        self.lagging: dict[str, Lags] = {}  # clients whose servers are compared, as one may have to catch up
        self._resets: dict[str, float] = {}
        self._interval = probe_interval / 4
        self._catching_up: asyncio.Task[None] | None = None
        self.configure(settings)

    def configure(self, settings: CounterSettings) -> None:
        """Go by these settings from now on; their servers get what is left to be done."""
        self._window = settings.window_of_time()
        self._keys = BucketKeys(settings.key_prefix, self._window)
        self._replicas = settings.replicas
        self.cluster.configure(settings)

    async def close(self) -> None:
        if self._catching_up is not None:
            self._catching_up.cancel()
            await asyncio.wait([self._catching_up])
        await self.cluster.close()

    async def charge(self, charges: Sequence[Charge], refunds: Sequence[Charge]) -> None:
        now, monotonic = self._clock.time(), self._clock.monotonic()
        view = self._window.view(now)
        # Accounts hold for the same buckets on the same servers.
        held_for = (view.current, view.closed, self.cluster.live)
        if self._accounts_held_for != held_for:
            self._accounts, self._accounts_held_for = BoundedCache(MAX_ACCOUNTS), held_for
        known = self._accounts
        local_refunds = _refund(refunds)
        batch = Batch(view, expiry(self._window.ttl, now), self.cluster.live)
        accounts = self._enter(charges, batch, view.current, monotonic)
        second = batch.take(await self.cluster.exchange(batch.pipelines(self._unanswered)))
        if second:
            batch.take_again(await self.cluster.exchange(second))
        before = batch.counted_before(monotonic + CLOSED_FOR)
        for account in batch.unread:
            if account in before:
                known.put(account.client, account)
        self._look_after(batch)
        uncounted = []
        for charge, account in zip(charges, accounts, strict=True):
            if account in before:
                charge.count = before[account] = before[account] + charge.amount
                charge.receipt = batch.receipt(account)
            else:
                uncounted.append((charge, account))
        if uncounted or local_refunds:
            await self._local.charge([charge for charge, _ in uncounted], local_refunds)
            for charge, account in uncounted:
                charge.receipt = batch.receipt(account, charge.receipt)

    def _look_after(self, batch: Batch) -> None:
        """Report what was wrong with the counters, and begin to correct it."""
        for _ in range(batch.invalid):
            self._observer.invalid_key()
        if self._replicas > 1:
            if not self.cluster.complete:
                self.lagging |= {account.client: {} for account in batch.amounts}
            for client in batch.lagging:
                self.lagging.setdefault(client, {})
            _keep_newest(self.lagging, MAX_LAGGING)
        if self.lagging or any(server.owed for server in self.cluster.servers):
            self._catch_up_later()

    def _unanswered(self, part: ServerBatch, replies: Replies | None) -> None:
        part.unanswered(replies)
        self._catch_up_later()

    async def read(self, clients: Sequence[str]) -> list[Usage]:
        view = self._window.view(self._clock.time())
        found = await self._read(clients, view)
        usages = []
        for client in clients:
            names, replies = found[client]
            if replies:
                values = [reply.values for reply in replies.values()]
                counts = {index: max(count_in(each, name) for each in values) for index, name in names.items()}
                buckets = {index: count for index, count in counts.items() if count}
                usages.append(Usage(view.total(buckets), buckets))
            else:
                usages += await self._local.read([client])
        return usages

    async def _read(
        self, clients: Sequence[str], view: View, *, tokens: bool = False
    ) -> dict[str, tuple[dict[int, bytes], dict[Server, Replies]]]:
        """The names of each client's counters, and what those of its servers that answered have under them."""
        names = {client: self._names(client, (view.current, *view.open, *view.closed)) for client in clients}
        servers = {client: self.cluster.servers_for(client) if names[client] else () for client in clients}
        wanted = defaultdict[Server, list[bytes]](list)
        for client, its_names in names.items():
            for server in servers[client]:
                wanted[server] += its_names.values()
        replies = await self.cluster.exchange({each: Pipeline([], keys, tokens) for each, keys in wanted.items()})
        return {
            client: (names[client], {server: replies[server] for server in servers[client] if server in replies})
            for client in names
        }

    async def reset(self, clients: Sequence[str]) -> list[str]:
        """Delete the counters on all servers that are up, wherever the clients belong now.

        It is repeated for all servers once those that are away have returned: until then another daemon
        may have seen a counter that was not deleted, and have raised others to it.
        """
        current = self._window.view(self._clock.time()).current
        indexes = range(current - self._window.buckets, current + 2)
        commands = [delete(name) for client in clients for name in self._names(client, indexes).values()]
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
        while self._resets or self.lagging or any(server.owed for server in self.cluster.servers):
            await asyncio.sleep(self._interval)
            if self.cluster.complete:
                await self.charge([], [])
                if self._resets:
                    oldest = self._clock.time() - self._window.ttl
                    resets, self._resets = self._resets, {}
                    await self.reset([client for client, since in resets.items() if since > oldest])
                clients = list(self.lagging)
                for start in range(0, len(clients), _AT_ONCE):
                    await self._compare(clients[start : start + _AT_ONCE])

    async def _compare(self, clients: Sequence[str]) -> None:
        """Raise the counters that are lower on one of their servers, by compare-and-swap, once the difference lasts."""
        now = self._clock.time()
        found = await self._read(clients, self._window.view(now), tokens=True)
        commands = defaultdict[Server, list[bytes]](list)
        for client, (names, replies) in found.items():
            if names and len(replies) < self._replicas:
                # A server has failed meanwhile.
                continue
            lags = self.lagging[client] = compare(self.lagging.get(client, {}), names.values(), replies)
            if not lags:
                del self.lagging[client]
            for (server, name), (times, lag) in lags.items():
                if times >= _COMPARISONS:
                    exptime, token = expiry(self._window.ttl, now), replies[server].tokens.get(name)
                    number = count_in(replies[server].values, name) + lag
                    commands[server].append(cas(name, number, exptime, token) if token else add(name, lag, exptime))
        await self.cluster.exchange({server: Pipeline(lines, []) for server, lines in commands.items()})

    def _enter(self, charges: Sequence[Charge], batch: Batch, current: int, now: float) -> list[ClientBuckets]:
        """Enter the charges into the batch, summed up by account; the account of each charge."""
        accounts = []
        amounts: dict[ClientBuckets, int] = {}
        known = self._accounts.young.get
        unread: dict[str, ClientBuckets] = {}
        for charge in charges:
            key = charge.key
            account = known(key) or self._accounts.get(key)
            if account is None or account.until <= now:
                account = unread.get(key)
                if account is None:
                    name = self._names(key, [current]).get(current, b"")
                    servers = self.cluster.servers_for(key) if name else ()
                    account = unread[key] = ClientBuckets(key, name, servers)
            accounts.append(account)
            amounts[account] = amounts.get(account, 0) + charge.amount
        for account, amount in amounts.items():
            batch.charge(account, amount)
        return accounts

    def _names(self, client: str, indexes: Iterable[int]) -> dict[int, bytes]:
        """The client's counters by bucket; none for a client that cannot be part of a key."""
        stem = self._keys.stem(client)
        return {index: stem + b"%d" % index for index in indexes} if stem else {}


def _keep_newest(entries: dict[str, T], most: int) -> None:
    while len(entries) > most:
        del entries[next(iter(entries))]


def _refund(refunds: Sequence[Charge]) -> list[Charge]:
    """Refund charges to the servers that counted them; return those that the daemon itself counted."""
    for refund in refunds:
        receipt = refund.receipt
        assert isinstance(receipt, CountedAt)
        receipt.refund(refund.amount)
        refund.receipt = receipt.local
    return [refund for refund in refunds if refund.receipt is not None]
