"""Counters in memcached, with the daemon's own as their stand-in."""

from collections.abc import Iterable, Sequence
from typing import Final

from senderscore_policy.config.model import CounterSettings
from senderscore_policy.counters.memcached.batch import Batch, ClientBuckets, CountedAt
from senderscore_policy.counters.memcached.cluster import Cluster
from senderscore_policy.counters.memcached.connection import Server
from senderscore_policy.counters.memcached.protocol import BucketKeys, Pipeline, delete, expiry, number_in
from senderscore_policy.counters.memory import MemoryStore
from senderscore_policy.policy.bounded import BoundedCache
from senderscore_policy.policy.ports import Charge, Clock, StoreObserver, Usage
from senderscore_policy.policy.window import View

CLOSED_FOR: Final = 60.0
"""Seconds for which the counts of closed buckets are believed."""
MAX_ACCOUNTS: Final = 40_000
"""Clients whose closed buckets are kept, about 400 bytes each."""


class MemcachedCounters:
    """Implements `ports.CounterStore`.

    A charge that no server could count is decided on `local` at once: with all servers down, in the
    very batch in which its server fails, where its key holds no number or memcached is out of
    memory, and for a client that cannot be part of a key. What was counted there is not merged back.

    Args:
        settings: servers, replicas, window, timeout.
        local: the daemon's own counters.
        clock: time; buckets go by the wall clock, which the hosts of a site share.
        observer: told of round trips and poisoned keys.
        probe_interval: seconds between two attempts to reach a server that is down.

    Attributes:
        cluster: the servers; see there for their state.
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
        self._accounts: BoundedCache[str, ClientBuckets] = BoundedCache(MAX_ACCOUNTS)
        self._accounts_held_for: object = None

    @property
    def state(self) -> str:
        """Either "ok", or "degraded: " with each server that is down and the reason."""
        return self.cluster.state

    async def evictions(self) -> int | None:
        """See `Cluster.evictions`."""
        return await self.cluster.evictions()

    async def close(self) -> None:
        """Close all connections; nothing may be counted any more."""
        await self.cluster.close()

    async def charge(self, charges: Sequence[Charge], refunds: Sequence[Charge]) -> None:
        """See `ports.CounterStore.charge`."""
        now = self._clock.time()
        view = self._window.view(now)
        batch = Batch(view, self._keys, expiry(self._window.ttl, now))
        local_refunds = []
        for refund in refunds:
            if isinstance(refund.receipt, CountedAt):
                batch.refund(refund.receipt, refund.amount)
            else:
                local_refunds.append(refund)
        self._forget_unless_valid(view)
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
                uncounted.append(charge)
        if uncounted or local_refunds:
            await self._local.charge(uncounted, local_refunds)

    async def _exchange(self, batch: Batch) -> None:
        """Ask the servers, and keep the accounts that were read."""
        held_for = self._accounts_held_for
        second = batch.take(await self.cluster.exchange(batch.orders()))
        if second:
            batch.take_again(await self.cluster.exchange(second))
        for _ in range(batch.poisoned):
            self._observer.poisoned_key()
        for account in batch.doubtful:
            self._accounts.pop(account.client)
        if self._accounts_held_for is held_for:
            for account in batch.fresh:
                if batch.counted(account):
                    self._accounts.put(account.client, account)

    async def read(self, clients: Sequence[str]) -> list[Usage]:
        """See `ports.CounterStore.read`."""
        view = self._window.view(self._clock.time())
        indexes = (view.current, *view.open, *view.closed)
        names = {client: self._names(client, indexes) for client in clients}
        homes = {client: self.cluster.homes(client) if names[client] else () for client in clients}
        wanted: dict[Server, list[bytes]] = {}
        for client, servers in homes.items():
            for server in servers:
                wanted.setdefault(server, []).extend(names[client])
        replies = await self.cluster.exchange({server: Pipeline([], names) for server, names in wanted.items()})
        unanswered = [client for client in clients if not any(server in replies for server in homes[client])]
        stand_ins = iter(await self._local.read(unanswered))
        usages = []
        for client in clients:
            answers = [replies[server].values for server in homes[client] if server in replies]
            if answers:
                buckets = _buckets(dict(zip(indexes, names[client], strict=True)), answers)
                usages.append(Usage(view.total(buckets), buckets))
            else:
                usages.append(next(stand_ins))
        return usages

    async def reset(self, clients: Sequence[str]) -> None:
        """See `ports.CounterStore.reset`; on all servers that are up, wherever the clients belong now."""
        current = self._window.view(self._clock.time()).current
        indexes = range(current - self._window.buckets, current + 2)
        commands = [delete(name) for client in clients for name in self._names(client, indexes)]
        if commands:
            await self.cluster.exchange({server: Pipeline(commands, []) for server in self.cluster.live})
        await self._local.reset(clients)
        self._accounts_held_for = None

    def _forget_unless_valid(self, view: View) -> None:
        """Accounts hold for the same buckets on the same servers."""
        held_for = (view.current, view.closed, self.cluster.live)
        if self._accounts_held_for != held_for:
            self._accounts.clear()
            self._accounts_held_for = held_for

    def _enter(self, charges: Sequence[Charge], batch: Batch, view: View, now: float) -> list[ClientBuckets | None]:
        """Enter the charges into the batch, summed up by account; the account of each charge, None without a key."""
        accounts: list[ClientBuckets | None] = []
        amounts: dict[ClientBuckets, int] = {}
        known = self._accounts.young.get
        fresh: dict[str, ClientBuckets] = {}
        for charge in charges:
            key = charge.key
            account = known(key) or self._accounts.get(key)
            if account is None or account.until <= now:
                account = fresh.get(key)
                if account is None:
                    names = self._names(key, [view.current])
                    if not names:
                        accounts.append(None)
                        continue
                    account = fresh[key] = ClientBuckets(key, CountedAt(names[0], self.cluster.homes(key)))
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
