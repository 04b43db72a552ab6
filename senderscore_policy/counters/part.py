"""One memcached's part of a batch of charges: what it is asked, and its replies sorted. No I/O."""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

from senderscore_policy.counters.memcached import Server
from senderscore_policy.counters.pipeline import (
    NOT_FOUND,
    STORED,
    Order,
    Replies,
    add,
    decr,
    incr,
    is_poisoned,
    number_in,
)


class Receipt(NamedTuple):
    """Where a charge was counted.

    Args:
        key: the counter of the client's bucket.
        servers: those that counted it.
    """

    key: bytes
    servers: tuple[Server, ...]


class Account:
    """A client while one view of the window holds.

    Args:
        client: its key.
        receipt: its counter in the current bucket, on all servers that are to count it.

    Attributes:
        increment: the command that counts one message.
        closed: messages in the closed buckets but the oldest.
        oldest: messages in the oldest bucket.
        until: the monotonic time up to which these two may be believed; -inf: they were never read.
    """

    __slots__ = ("client", "closed", "increment", "oldest", "receipt", "until")

    def __init__(self, client: str, receipt: Receipt) -> None:
        self.client = client
        self.receipt = receipt
        self.increment = incr(receipt.key, 1)
        self.closed = 0
        self.oldest = 0
        self.until = -inf


class Part:
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
        self._accounts: list[Account] = []
        self._increments: list[bytes] = []
        self._keys: list[bytes] = []
        self.fresh: list[Account] = []
        self.numbers: dict[Account, int] = {}
        self.values: dict[bytes, int] = {}
        self.made: list[Account] = []
        self.missing: list[Account] = []
        self.poisoned: set[bytes] = set()

    @property
    def unsettled(self) -> bool:
        """Whether the replies may leave something to be done."""
        return bool(self.fresh or self.missing or self.poisoned)

    def refund(self, key: bytes, amount: int) -> None:
        """Take messages back."""
        self._refunds[key] = self._refunds.get(key, 0) + amount

    def charge(self, account: Account, increment: bytes) -> None:
        """Count by the command `increment`."""
        self._accounts.append(account)
        self._increments.append(increment)

    def read(self, keys: Sequence[bytes]) -> None:
        """Read buckets."""
        self._keys += keys

    def order(self, exptime: int) -> Order:
        """All of it in one round trip.

        Refunds come first. A counter that this daemon has not seen yet is made by an `add` of 0,
        which leaves an existing one alone, so that new clients need no second round trip.
        """
        commands = self._increments
        if self._refunds or self.fresh:
            refunds = [decr(key, amount) for key, amount in self._refunds.items()]
            commands = refunds + [add(account.receipt.key, 0, exptime) for account in self.fresh] + commands
        return Order(commands, self._keys)

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

    def _take_numbers(self, accounts: Sequence[Account], lines: Sequence[bytes]) -> None:
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
