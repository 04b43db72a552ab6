"""One batch of charges and refunds on all servers, in one round trip or two. No I/O."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import inf
from typing import NamedTuple, TypeVar

from senderscore_policy.counters.memcached.connection import Server
from senderscore_policy.counters.memcached.protocol import (
    INVALID,
    NOT_FOUND,
    Pipeline,
    Replies,
    add,
    count_in,
    decr,
    delete,
    incr,
    number_in,
)
from senderscore_policy.policy.window import View

K = TypeVar("K")


@dataclass(eq=False, slots=True)
class ClientBuckets:
    """A client while one view of the window holds."""

    client: str
    key: bytes  # its counter in the current bucket
    servers: tuple[Server, ...]  # all that are to count it
    closed: int = 0  # messages in the closed buckets
    until: float = -inf  # the monotonic time up to which `closed` is valid; -inf: it was never read
    increment: bytes = field(init=False)  # the command that counts one message

    def __post_init__(self) -> None:
        self.increment = incr(self.key, 1)


@dataclass(eq=False, slots=True)
class Delivery:
    """Whether a server has executed its part of a batch."""

    server: Server
    executed: bool | None = None  # None as long as its answer may still come
    refunds: dict[bytes, int] = field(default_factory=dict)  # of charges that it has counted if it executed its part


class CountedAt(NamedTuple):
    """Where a charge was counted, or may have been."""

    key: bytes  # the counter of the client's bucket
    deliveries: tuple[Delivery, ...]
    local: object = None  # the receipt of the daemon's own counters, if the charge was decided there

    def refund(self, amount: int) -> None:
        """Let the servers that have counted the charge take the amount back with the next batch."""
        for delivery in self.deliveries:
            if delivery.executed is not False:
                refunds = delivery.refunds if delivery.executed is None else delivery.server.owed
                refunds[self.key] = refunds.get(self.key, 0) + amount


class ServerBatch:
    """What one server does for a batch, with the refunds that it owes."""

    def __init__(self, server: Server) -> None:
        self.delivery = Delivery(server)
        self.deliveries = (self.delivery,)  # as a receipt has it
        self.refunds = dict(server.owed)  # messages to take back, by key
        server.owed.clear()
        self.first = [decr(key, amount) for key, amount in self.refunds.items()]  # the commands before those that count
        self.increments: dict[ClientBuckets, bytes] = {}  # the command that counts, by account
        self.keys: list[bytes] = []  # the buckets to be read
        self.values: dict[bytes, int] = {}  # what the server has in them
        self.numbers: dict[ClientBuckets, int] = {}  # the accounts that it counted, with their new numbers
        self.missing: list[ClientBuckets] = []  # accounts whose counter did not exist
        self.invalid: set[bytes] = set()  # keys that hold no number

    def take(self, replies: Replies) -> None:
        self.delivery.executed = True
        if self.refunds:
            refunded = zip(self.refunds, replies.lines, strict=False)
            self.invalid.update(key for key, line in refunded if line.startswith(INVALID))
        self._take_numbers(self.increments, replies.lines)
        for key, value in replies.values.items():
            number = number_in(value)
            if number is None:
                self.invalid.add(key)
            else:
                self.values[key] = number

    def remainder(self, exptime: int) -> Pipeline:
        """What is left to be done after `take`."""
        commands = [delete(key) for key in self.invalid]
        commands += [add(account.key, 0, exptime) for account in self.missing]
        return Pipeline(commands + [self.increments[account] for account in self.missing], [])

    def take_again(self, replies: Replies) -> None:
        """Sort the replies to `remainder`."""
        accounts, self.missing = self.missing, []
        self._take_numbers(accounts, replies.lines)

    def unanswered(self, replies: Replies | None) -> None:
        """Keep the refunds that the server still has to execute, once it has answered late (None: never)."""
        delivery, refunds = self.delivery, self.refunds
        if replies is not None:
            self.take(replies)
            counted = {account.key for account in self.numbers}
            refunds = {key: amount for key, amount in delivery.refunds.items() if key in counted}
        delivery.executed = replies is not None
        delivery.server.owed.update(refunds)

    def _take_numbers(self, accounts: Collection[ClientBuckets], lines: list[bytes]) -> None:
        """Sort the last lines, one for each account."""
        lines = lines[len(lines) - len(accounts) :]
        if b"".join(lines).isdigit():
            # Nearly always.
            self.numbers.update(zip(accounts, map(int, lines), strict=True))
            return
        for account, line in zip(accounts, lines, strict=True):
            if line.isdigit():
                self.numbers[account] = int(line)
            elif line == NOT_FOUND:
                self.missing.append(account)
            elif line.startswith(INVALID):
                self.invalid.add(account.key)


class Batch:
    """Charges, summed up by client; what `servers` owe is taken back in any case."""

    def __init__(self, view: View, exptime: int, servers: Iterable[Server] = ()) -> None:
        self._view = view
        self._exptime = exptime
        self._current = b"%d" % view.current
        self._open = [b"%d" % index for index in view.open]
        self.parts = {server: ServerBatch(server) for server in servers if server.owed}
        self.amounts: dict[ClientBuckets, int] = {}  # messages to count, by account
        self.unread: list[ClientBuckets] = []  # accounts whose closed buckets are read for the first time
        self.invalid = 0  # how many keys that held no number are deleted
        self.lagging: list[str] = []  # clients whose servers disagree, for the moment or because one of them was away

    @cached_property
    def _closed(self) -> list[bytes]:
        return [b"%d" % index for index in self._view.closed]

    def charge(self, account: ClientBuckets, amount: int) -> None:
        """Count the amount, once for each account; of an account not read yet, read the closed buckets too.

        A counter that this daemon has not seen yet is made by an `add` of 0, which leaves an existing one alone,
        so that new clients need no second round trip.
        """
        self.amounts[account] = amount
        increment = account.increment if amount == 1 else incr(account.key, amount)
        unread = account.until == -inf
        if unread:
            self.unread.append(account)
        for server in account.servers:
            part = self.parts.get(server)
            if part is None:
                part = self.parts[server] = ServerBatch(server)
            part.increments[account] = increment
            if unread:
                part.first.append(add(account.key, 0, self._exptime))
                part.keys += self._names(account, self._open + self._closed)
            elif self._open:
                part.keys += self._names(account, self._open)

    def pipelines(self, unanswered: Callable[[ServerBatch, Replies | None], None]) -> dict[Server, Pipeline]:
        """What each server does in one round trip; `unanswered` is called for a part without an answer in time."""
        return {
            server: Pipeline([*part.first, *part.increments.values()], part.keys, unanswered=partial(unanswered, part))
            for server, part in self.parts.items()
        }

    def take(self, replies: Mapping[Server, Replies]) -> dict[Server, Pipeline]:
        """Sort the replies to `pipelines`; a server that failed is absent. What to send then, usually nothing."""
        pipelines = {}
        for server, reply in replies.items():
            part = self.parts[server]
            part.take(reply)
            if part.missing or part.invalid:
                for account in part.missing:
                    # By a restart, an eviction, or a `reset` through another daemon: read its closed buckets again.
                    account.until = min(account.until, 0.0)
                self.invalid += len(part.invalid)
                pipelines[server] = part.remainder(self._exptime)
        return pipelines

    def take_again(self, replies: Mapping[Server, Replies]) -> None:
        """Sort the replies to what `take` returned."""
        for server, reply in replies.items():
            self.parts[server].take_again(reply)

    def counted_before(self, until: float) -> dict[ClientBuckets, int]:
        """Of each account that a server counted: its messages without this batch.

        What was read of the closed buckets is valid up to `until`.
        """
        before = {}
        parts = self.parts.values()
        if len(parts) > 1:
            replicated = (account for account in self.amounts if len(account.servers) > 1)
            self.lagging = [account.client for account in replicated if self._disagree(account)]
        numbers, values = _largest([part.numbers for part in parts]), _largest([part.values for part in parts])
        for account, amount in self.amounts.items():
            number = numbers.get(account)
            if number is None:
                continue
            if account.until == -inf:
                account.until = until
                account.closed = self._sum(values, account, self._closed)
            before[account] = number - amount + account.closed
            if self._open:
                before[account] += self._sum(values, account, self._open)
        return before

    def receipt(self, account: ClientBuckets, local: object = None) -> CountedAt:
        """Where the account was counted, or may have been: all its servers but those that certainly have not."""
        if local is None and len(account.servers) == 1:
            return CountedAt(account.key, self.parts[account.servers[0]].deliveries)
        parts = [self.parts[server] for server in account.servers]
        deliveries = [part.delivery for part in parts if account in part.numbers or part.delivery.executed is None]
        return CountedAt(account.key, tuple(deliveries), local)

    def _disagree(self, account: ClientBuckets) -> bool:
        """Whether the account's two servers have different numbers, current or just read."""
        one, other = (self.parts[server] for server in account.servers)
        names = self._names(account, self._open + self._closed) if account.until == -inf else ()
        return one.numbers.get(account) != other.numbers.get(account) or any(
            one.values.get(name) != other.values.get(name) for name in names
        )

    def _sum(self, values: Mapping[bytes, int], account: ClientBuckets, indexes: Iterable[bytes]) -> int:
        return sum([values.get(name, 0) for name in self._names(account, indexes)]) if values else 0

    def _names(self, account: ClientBuckets, indexes: Iterable[bytes]) -> list[bytes]:
        stem = account.key.removesuffix(self._current)
        return [stem + index for index in indexes]


def _largest(counts: list[dict[K, int]]) -> dict[K, int]:
    """If several servers have the same counter, the larger number decides."""
    if len(counts) == 1:
        return counts[0]
    merged: dict[K, int] = {}
    for each in counts:
        for key, count in each.items():
            if count >= merged.get(key, 0):
                merged[key] = count
    return merged


Lags = dict[tuple[Server, bytes], tuple[int, int]]
"""In how many comparisons in a row a server's counter was lower than that of the client's other server, and by how much
at least. Increments under way make them differ for a moment. A difference that lasts is that of a server that was away.
"""


def compare(before: Lags, names: Collection[bytes], replies: Mapping[Server, Replies]) -> Lags:
    """Compare what a client's servers have under these names; `before` is the result of the comparison before."""
    lags = {}
    for name in names:
        counts = {server: count_in(reply.values, name) for server, reply in replies.items()}
        for server, count in counts.items():
            if lag := max(counts.values()) - count:
                times, least = before.get((server, name), (0, lag))
                lags[server, name] = (times + 1, min(least, lag))
    return lags
