"""One batch of charges and refunds on all servers, in one round trip or two. No I/O."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from typing import NamedTuple, TypeVar

from senderscore_policy.counters.memcached.connection import Server
from senderscore_policy.counters.memcached.protocol import (
    NOT_FOUND,
    BucketKeys,
    Pipeline,
    Replies,
    add,
    decr,
    delete,
    incr,
    is_invalid,
    number_in,
)
from senderscore_policy.policy.window import View

K = TypeVar("K")


class ClientBuckets:
    """A client while one view of the window holds.

    Attributes:
        key: its counter in the current bucket.
        servers: all that are to count it.
        increment: the command that counts one message.
        closed: messages in the closed buckets.
        until: the monotonic time up to which `closed` is valid; -inf: it was never read.
    """

    __slots__ = ("client", "closed", "increment", "key", "servers", "until")

    def __init__(self, client: str, key: bytes, servers: tuple[Server, ...]) -> None:
        self.client = client
        self.key = key
        self.servers = servers
        self.increment = incr(key, 1)
        self.closed = 0
        self.until = -inf


@dataclass(eq=False, slots=True)
class Delivery:
    """Whether a server has executed its part of a batch.

    Attributes:
        executed: None as long as its answer may still come.
        refunds: refunds of charges that it has counted if it has executed its part.
    """

    server: Server
    executed: bool | None = None
    refunds: dict[bytes, int] = field(default_factory=dict)


class CountedAt(NamedTuple):
    """Where a charge was counted, or may have been.

    Args:
        key: the counter of the client's bucket.
        local: the receipt of the daemon's own counters, if the charge was decided there.
    """

    key: bytes
    deliveries: tuple[Delivery, ...]
    local: object = None


class ServerBatch:
    """What one server does for a batch.

    Attributes:
        refunds: messages to take back, by key.
        accounts, increments: what to count, and the command that counts it.
        unread: accounts whose counter may not exist yet.
        keys, values: the buckets to be read, and what the server has in them.
        deliveries: the delivery, as a receipt has it.
        numbers: the accounts that it counted, with their new numbers.
        missing: accounts whose counter did not exist.
        invalid: keys that hold no number.
    """

    __slots__ = (
        "accounts", "deliveries", "delivery", "increments", "invalid", "keys", "missing", "numbers", "refunds",
        "unread", "values",
    )  # fmt: skip

    def __init__(self, server: Server) -> None:
        # What could not be sent before goes first.
        self.refunds, server.owed = server.owed, Counter()
        self.accounts: list[ClientBuckets] = []
        self.increments: list[bytes] = []
        self.keys: list[bytes] = []
        self.delivery = Delivery(server)
        self.deliveries = (self.delivery,)
        self.unread: list[ClientBuckets] = []
        self.numbers: dict[ClientBuckets, int] = {}
        self.values: dict[bytes, int] = {}
        self.missing: list[ClientBuckets] = []
        self.invalid: set[bytes] = set()

    def pipeline(self, exptime: int) -> Pipeline:
        """All of it in one round trip.

        Refunds come first. A counter that this daemon has not seen yet is made by an `add` of 0,
        which leaves an existing one alone, so that new clients need no second round trip.
        """
        commands = self.increments
        if self.refunds or self.unread:
            refunds = [decr(key, amount) for key, amount in self.refunds.items()]
            commands = refunds + [add(account.key, 0, exptime) for account in self.unread] + commands
        return Pipeline(commands, self.keys)

    def take(self, replies: Replies) -> None:
        self.delivery.executed = True
        lines = replies.lines
        if self.refunds or self.unread:
            self.invalid.update(key for key, line in zip(self.refunds, lines, strict=False) if is_invalid(line))
            lines = lines[len(self.refunds) + len(self.unread) :]
        self._take_numbers(self.accounts, lines)
        for key, value in replies.values.items():
            number = number_in(value)
            if number is None:
                self.invalid.add(key)
            else:
                self.values[key] = number

    def take_again(self, replies: Replies) -> None:
        """Sort the replies to a pipeline that ended with an increment for each of `missing`."""
        if accounts := self.missing:
            self.missing = []
            self._take_numbers(accounts, replies.lines[-len(accounts) :])

    def unanswered(self, replies: Replies | None) -> None:
        """Keep the refunds that the server still has to execute, once it has answered late (None: never)."""
        delivery = self.delivery
        refunds: dict[bytes, int] = self.refunds
        if replies is not None:
            self.take(replies)
            counted = {account.key for account in self.numbers}
            refunds = {key: amount for key, amount in delivery.refunds.items() if key in counted}
        delivery.executed = replies is not None
        delivery.server.owed.update(refunds)

    def _take_numbers(self, accounts: Sequence[ClientBuckets], lines: Sequence[bytes]) -> None:
        numbers = self.numbers
        if b"".join(lines).isdigit():
            # Nearly always.
            numbers.update(zip(accounts, map(int, lines), strict=True))
            return
        for account, line in zip(accounts, lines, strict=True):
            if line.isdigit():
                numbers[account] = int(line)
            elif line == NOT_FOUND:
                self.missing.append(account)
            elif is_invalid(line):
                self.invalid.add(account.key)


class _Parts(dict[Server, ServerBatch]):
    """What each server does; made when it is first asked for."""

    def __missing__(self, server: Server) -> ServerBatch:
        part = self[server] = ServerBatch(server)
        return part


class Batch:
    """Charges, summed up by client, and refunds; those owed to `servers` are sent in any case.

    Attributes:
        amounts: messages to count, by account.
        numbers: of the accounts that a server has counted.
        unread: accounts whose closed buckets are read for the first time.
        invalid: how many keys that held no number are deleted.
        evicted: accounts whose counter a server has lost since their account was read: by a
            restart, an eviction, or a `reset` through another daemon. Their closed buckets are to be read again.
        lagging: clients whose servers disagree, for the moment or because one of them was away.
    """

    def __init__(self, view: View, keys: BucketKeys, exptime: int, servers: Iterable[Server] = ()) -> None:
        self._view = view
        self._keys = keys
        self._exptime = exptime
        self._open = [b"%d" % index for index in view.open] if view.open else []
        self.amounts: dict[ClientBuckets, int] = {}
        self.numbers: dict[ClientBuckets, int] = {}
        self._values: dict[bytes, int] = {}
        self.parts = _Parts()
        self.unread: list[ClientBuckets] = []
        self.invalid = 0
        self.evicted: list[ClientBuckets] = []
        self.lagging: list[str] = []
        for server in servers:
            if server.owed:
                self.parts[server] = ServerBatch(server)

    @cached_property
    def _closed(self) -> list[bytes]:
        return [b"%d" % index for index in self._view.closed]

    def refund(self, receipt: CountedAt, amount: int) -> None:
        """Take a charge back where it was counted."""
        key = receipt.key
        for delivery in receipt.deliveries:
            if delivery.executed is not False:
                refunds = delivery.refunds if delivery.executed is None else self.parts[delivery.server].refunds
                refunds[key] = refunds.get(key, 0) + amount

    def charge(self, account: ClientBuckets, amount: int) -> None:
        """Count the amount, once for each account; of an account not read yet, read the closed buckets too."""
        self.amounts[account] = amount
        increment = account.increment if amount == 1 else incr(account.key, amount)
        unread = account.until == -inf
        if unread:
            self.unread.append(account)
        for server in account.servers:
            part = self.parts[server]
            part.accounts.append(account)
            part.increments.append(increment)
            if unread:
                part.unread.append(account)
                part.keys += self._names(account, self._open + self._closed)
            elif self._open:
                part.keys += self._names(account, self._open)

    def pipelines(self) -> dict[Server, Pipeline]:
        return {server: part.pipeline(self._exptime) for server, part in self.parts.items()}

    def take(self, replies: Mapping[Server, Replies]) -> dict[Server, Pipeline]:
        """Sort the replies to `pipelines`; a server that failed is absent. What to send then, usually nothing."""
        pipelines = {}
        for server, reply in replies.items():
            part = self.parts[server]
            part.take(reply)
            if part.missing or part.invalid:
                self.evicted += [account for account in part.missing if account.until != -inf]
                self.invalid += len(part.invalid)
                pipelines[server] = Pipeline(self._remainder(part), [])
        self._merge()
        return pipelines

    def take_again(self, replies: Mapping[Server, Replies]) -> None:
        """Sort the replies to what `take` returned."""
        for server, reply in replies.items():
            self.parts[server].take_again(reply)
        self._merge()

    def counted_before(self, until: float) -> dict[ClientBuckets, int]:
        """Of each account that a server counted: its messages without this batch.

        What was read of the closed buckets is valid up to `until`.
        """
        before = {}
        numbers, values = self.numbers, self._values
        for account, amount in self.amounts.items():
            number = numbers.get(account)
            if number is None:
                continue
            if account.until == -inf:
                account.until = until
                if values:
                    account.closed = self._sum(account, self._closed)
            messages = number - amount + account.closed
            if values and self._open:
                messages += self._sum(account, self._open)
            before[account] = messages
        return before

    def receipt(self, account: ClientBuckets, local: object = None) -> CountedAt:
        """Where the account was counted, or may have been: all its servers but those that certainly have not."""
        if local is None and len(account.servers) == 1:
            return CountedAt(account.key, self.parts[account.servers[0]].deliveries)
        parts = [self.parts[server] for server in account.servers]
        deliveries = [part.delivery for part in parts if account in part.numbers or part.delivery.executed is None]
        return CountedAt(account.key, tuple(deliveries), local)

    def _merge(self) -> None:
        """If several servers have the same counter, the larger number decides."""
        parts = self.parts.values()
        if len(parts) == 1:
            [part] = parts
            self.numbers, self._values = part.numbers, part.values
            return
        self.numbers = _largest([part.numbers for part in parts])
        self._values = _largest([part.values for part in parts])
        self.lagging = []
        for account in self.amounts:
            if len(account.servers) > 1:
                one, other = (self.parts[server] for server in account.servers)
                names = self._names(account, self._open + self._closed) if account.until == -inf else ()
                if one.numbers.get(account) != other.numbers.get(account) or any(
                    one.values.get(name) != other.values.get(name) for name in names
                ):
                    self.lagging.append(account.client)

    def _remainder(self, part: ServerBatch) -> list[bytes]:
        """What is left to be done on the part's server; the last commands increment what was missing."""
        commands = [delete(key) for key in part.invalid]
        commands += [add(account.key, 0, self._exptime) for account in part.missing]
        return commands + [incr(account.key, self.amounts[account]) for account in part.missing]

    def _sum(self, account: ClientBuckets, indexes: Iterable[bytes]) -> int:
        return sum([self._values.get(name, 0) for name in self._names(account, indexes)])

    def _names(self, account: ClientBuckets, indexes: Iterable[bytes]) -> list[bytes]:
        stem = self._keys.stem(account.client)
        return [stem + index for index in indexes]


def _largest(counts: list[dict[K, int]]) -> dict[K, int]:
    merged: dict[K, int] = {}
    for each in counts:
        for key, count in each.items():
            if count >= merged.get(key, 0):
                merged[key] = count
    return merged


Lags = dict[tuple[Server, bytes], int]
"""By how much a server's counter is lower than the counter of the same name on the client's other server."""


class LaggingClient:
    """A client of two servers whose counters differ.

    Increments under way make them differ for a moment. A difference that lasts is that of a server that was away.
    """

    __slots__ = ("_lags",)

    def __init__(self) -> None:
        self._lags: list[Lags] = []

    def observe(self, names: Sequence[bytes], values: Mapping[Server, Mapping[bytes, bytes]]) -> bool:
        """Compare what each server has under these names; return whether they differ."""
        lags: Lags = {}
        for name in names:
            numbers = {server: number_in(found.get(name, b"")) or 0 for server, found in values.items()}
            largest = max(numbers.values())
            lags |= {(server, name): largest - number for server, number in numbers.items() if number < largest}
        self._lags.append(lags)
        return bool(lags)

    def lasting(self, observations: int) -> Lags:
        """The differences that each of the last `observations` has shown, at their smallest."""
        if len(self._lags) < observations:
            return {}
        del self._lags[:-observations]
        smallest = {each: min(lags.get(each, 0) for lags in self._lags) for each in self._lags[-1]}
        return {each: lag for each, lag in smallest.items() if lag}
