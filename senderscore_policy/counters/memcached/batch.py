"""One batch of charges and refunds on all servers, in one round trip or two. No I/O."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from math import inf
from typing import NamedTuple, TypeVar

from senderscore_policy.counters.memcached.connection import Server
from senderscore_policy.counters.memcached.protocol import (
    NOT_FOUND,
    STORED,
    BucketKeys,
    Pipeline,
    Replies,
    add,
    decr,
    delete,
    incr,
    is_poisoned,
    number_in,
)
from senderscore_policy.policy.window import View


class CountedAt(NamedTuple):
    """Where a charge was counted.

    Args:
        key: the counter of the client's bucket.
        servers: those that counted it.
    """

    key: bytes
    servers: tuple[Server, ...]


class ClientBuckets:
    """A client while one view of the window holds.

    Args:
        client: its key.
        receipt: its counter in the current bucket, on all servers that are to count it.

    Attributes:
        increment: the command that counts one message.
        closed: messages in the closed buckets.
        until: the monotonic time up to which `closed` is valid; -inf: it was never read.
    """

    __slots__ = ("client", "closed", "increment", "receipt", "until")

    def __init__(self, client: str, receipt: CountedAt) -> None:
        self.client = client
        self.receipt = receipt
        self.increment = incr(receipt.key, 1)
        self.closed = 0
        self.until = -inf


class ServerBatch:
    """What one server does for a batch.

    Attributes:
        numbers: the accounts that it counted, with their new numbers.
        values: the buckets that it has of those to be read.
        made: accounts whose counter did not exist before.
        missing: accounts whose counter was not there to be incremented.
        poisoned: keys that hold no number.
        fresh: accounts whose counter may not exist yet.
    """

    __slots__ = (
        "_accounts", "_increments", "_keys", "_refunds", "fresh", "made", "missing", "numbers", "poisoned", "values",
    )  # fmt: skip

    def __init__(self) -> None:
        self._refunds: dict[bytes, int] = {}
        self._accounts: list[ClientBuckets] = []
        self._increments: list[bytes] = []
        self._keys: list[bytes] = []
        self.fresh: list[ClientBuckets] = []
        self.numbers: dict[ClientBuckets, int] = {}
        self.values: dict[bytes, int] = {}
        self.made: list[ClientBuckets] = []
        self.missing: list[ClientBuckets] = []
        self.poisoned: set[bytes] = set()

    @property
    def unsettled(self) -> bool:
        """Whether the replies may leave something to be done."""
        return bool(self.fresh or self.missing or self.poisoned)

    def refund(self, key: bytes, amount: int) -> None:
        """Take messages back."""
        self._refunds[key] = self._refunds.get(key, 0) + amount

    def charge(self, account: ClientBuckets, increment: bytes) -> None:
        """Count by the command `increment`."""
        self._accounts.append(account)
        self._increments.append(increment)

    def read(self, keys: Sequence[bytes]) -> None:
        """Read buckets."""
        self._keys += keys

    def order(self, exptime: int) -> Pipeline:
        """All of it in one round trip.

        Refunds come first. A counter that this daemon has not seen yet is made by an `add` of 0,
        which leaves an existing one alone, so that new clients need no second round trip.
        """
        commands = self._increments
        if self._refunds or self.fresh:
            refunds = [decr(key, amount) for key, amount in self._refunds.items()]
            commands = refunds + [add(account.receipt.key, 0, exptime) for account in self.fresh] + commands
        return Pipeline(commands, self._keys)

    def take(self, replies: Replies) -> None:
        """Sort the replies to `order`."""
        lines = replies.lines
        if self._refunds or self.fresh:
            adds = len(self._refunds)
            increments = adds + len(self.fresh)
            self.poisoned.update(key for key, line in zip(self._refunds, lines, strict=False) if is_poisoned(line))
            added = zip(self.fresh, lines[adds:increments], strict=True)
            self.made = [account for account, line in added if line == STORED]
            lines = lines[increments:]
        self._take_numbers(self._accounts, lines)
        for key, value in replies.values.items():
            number = number_in(value)
            if number is None:
                self.poisoned.add(key)
            else:
                self.values[key] = number

    def take_again(self, replies: Replies) -> None:
        """Sort the replies to an order that ended with an increment for each of `missing`."""
        if accounts := self.missing:
            self.missing = []
            self._take_numbers(accounts, replies.lines[-len(accounts) :])

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
            elif is_poisoned(line):
                self.poisoned.add(account.receipt.key)


K = TypeVar("K")


class Batch:
    """Charges, summed up by client, and refunds.

    Args:
        view: the buckets that count.
        keys: names of the counters.
        exptime: of counters that are made.

    Attributes:
        fresh: accounts of which the closed buckets are read for the first time.
        poisoned: how many keys that held no number are deleted.
        doubtful: accounts whose counter a server has lost since their account was read: by a
            restart, an eviction, or a `reset` through another daemon. Their closed buckets are to be read anew.
    """

    def __init__(self, view: View, keys: BucketKeys, exptime: int) -> None:
        self._view = view
        self._keys = keys
        self._exptime = exptime
        self._open = [b"%d" % index for index in view.open] if view.open else []
        self._amounts: dict[ClientBuckets, int] = {}
        self._parts: dict[Server, ServerBatch] = {}
        self._numbers: dict[ClientBuckets, int] = {}
        self._values: dict[bytes, int] = {}
        self.fresh: list[ClientBuckets] = []
        self.poisoned = 0
        self.doubtful: list[ClientBuckets] = []

    @cached_property
    def _closed(self) -> list[bytes]:
        return [b"%d" % index for index in self._view.closed]

    def refund(self, receipt: CountedAt, amount: int) -> None:
        """Take a charge back where it was counted."""
        for server in receipt.servers:
            self._parts.setdefault(server, ServerBatch()).refund(receipt.key, amount)

    def charge(self, account: ClientBuckets, amount: int) -> None:
        """Count the amount, once for each account; of an account not read yet, read the closed buckets too."""
        self._amounts[account] = amount
        key, servers = account.receipt
        increment = account.increment if amount == 1 else incr(key, amount)
        fresh = account.until == -inf
        if fresh:
            self.fresh.append(account)
        for server in servers:
            part = self._parts.get(server)
            if part is None:
                part = self._parts[server] = ServerBatch()
            part.charge(account, increment)
            if fresh:
                part.fresh.append(account)
                part.read(self._names(account, self._open + self._closed))
            elif self._open:
                part.read(self._names(account, self._open))

    def orders(self) -> dict[Server, Pipeline]:
        """What to ask first."""
        return {server: part.order(self._exptime) for server, part in self._parts.items()}

    def take(self, replies: Mapping[Server, Replies]) -> dict[Server, Pipeline]:
        """Sort the replies to `orders`; a server that failed is absent. What to ask then, usually nothing."""
        for server, reply in replies.items():
            part = self._parts[server]
            part.take(reply)
            self.doubtful += [account for account in part.missing if account.until != -inf]
        self._merge()
        orders = {}
        for server in replies:
            part = self._parts[server]
            if part.unsettled:
                self.poisoned += len(part.poisoned)
                if commands := self._remainder(part):
                    orders[server] = Pipeline(commands, [])
        return orders

    def take_again(self, replies: Mapping[Server, Replies]) -> None:
        """Sort the replies to what `take` asked."""
        for server, reply in replies.items():
            self._parts[server].take_again(reply)
        self._merge()

    def counted(self, account: ClientBuckets) -> bool:
        """Whether a server has counted for it."""
        return account in self._numbers

    def counted_before(self, until: float) -> dict[ClientBuckets, int]:
        """Of each account that a server counted: its messages without this batch.

        Accounts that were read now may be believed up to `until`.
        """
        before = {}
        numbers, values = self._numbers, self._values
        for account, amount in self._amounts.items():
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

    def _merge(self) -> None:
        """Of several servers that have the same counter the larger number decides."""
        parts = self._parts.values()
        if len(parts) == 1:
            [part] = parts
            self._numbers, self._values = part.numbers, part.values
        else:
            self._numbers = _largest([part.numbers for part in parts])
            self._values = _largest([part.values for part in parts])

    def _remainder(self, part: ServerBatch) -> list[bytes]:
        """What is left to be done on the part's server; the last commands increment what was missing."""
        commands = [delete(key) for key in part.poisoned]
        commands += self._catching_up(part)
        increments = []
        for account in part.missing:
            amount = self._amounts[account]
            # Beside the other server's number, our own share of it still to come; right also when the `add` loses.
            seed = max(0, self._numbers.get(account, 0) - amount)
            commands.append(add(account.receipt.key, seed, self._exptime))
            increments.append(incr(account.receipt.key, amount))
        return commands + increments

    def _catching_up(self, part: ServerBatch) -> Iterable[bytes]:
        """Commands that give the server what the other one of its accounts has counted more."""
        for account in part.made:
            behind = self._numbers.get(account, 0) - part.numbers.get(account, 0)
            if behind > 0:
                yield incr(account.receipt.key, behind)
        if self._values:
            for account in part.fresh:
                if len(account.receipt.servers) == 1:
                    continue
                for key in self._names(account, self._closed):
                    if key in self._values and key not in part.values:
                        yield add(key, self._values[key], self._exptime)

    def _sum(self, account: ClientBuckets, indexes: Iterable[bytes]) -> int:
        return sum([self._values.get(name, 0) for name in self._names(account, indexes)])

    def _names(self, account: ClientBuckets, indexes: Iterable[bytes]) -> list[bytes]:
        stem = self._keys.stem(account.client)
        return [stem + index for index in indexes]

    def receipt(self, account: ClientBuckets) -> CountedAt:
        """Where the account was counted: its receipt without the servers that failed."""
        key, servers = account.receipt
        if len(servers) == 1:
            return account.receipt
        return CountedAt(key, tuple(server for server in servers if account in self._parts[server].numbers))


def _largest(counts: list[dict[K, int]]) -> dict[K, int]:
    merged: dict[K, int] = {}
    for each in counts:
        for key, count in each.items():
            if count >= merged.get(key, 0):
                merged[key] = count
    return merged
