"""One batch of charges and refunds on all servers, in one round trip or two. No I/O."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from math import inf
from typing import TypeVar

from senderscore_policy.counters.keys import BucketKeys
from senderscore_policy.counters.memcached import Server
from senderscore_policy.counters.part import Account, Part, Receipt
from senderscore_policy.counters.pipeline import Order, Replies, add, delete, incr
from senderscore_policy.policy.window import View

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
        self._amounts: dict[Account, int] = {}
        self._parts: dict[Server, Part] = {}
        self._numbers: dict[Account, int] = {}
        self._values: dict[bytes, int] = {}
        self.fresh: list[Account] = []
        self.poisoned = 0
        self.doubtful: list[Account] = []

    @cached_property
    def _closed(self) -> list[bytes]:
        return [b"%d" % index for index in self._view.closed if index != self._view.oldest]

    @cached_property
    def _oldest(self) -> list[bytes]:
        return [] if self._view.oldest is None else [b"%d" % self._view.oldest]

    def refund(self, receipt: Receipt, amount: int) -> None:
        """Take a charge back where it was counted."""
        for server in receipt.servers:
            self._parts.setdefault(server, Part()).refund(receipt.key, amount)

    def charge(self, account: Account, amount: int) -> None:
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
                part = self._parts[server] = Part()
            part.charge(account, increment)
            if fresh:
                part.fresh.append(account)
                part.read(self._names(account, self._open + self._closed + self._oldest))
            elif self._open:
                part.read(self._names(account, self._open))

    def orders(self) -> dict[Server, Order]:
        """What to ask first."""
        return {server: part.order(self._exptime) for server, part in self._parts.items()}

    def take(self, replies: Mapping[Server, Replies]) -> dict[Server, Order]:
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
                    orders[server] = Order(commands, [])
        return orders

    def take_again(self, replies: Mapping[Server, Replies]) -> None:
        """Sort the replies to what `take` asked."""
        for server, reply in replies.items():
            self._parts[server].take_again(reply)
        self._merge()

    def counted(self, account: Account) -> bool:
        """Whether a server has counted for it."""
        return account in self._numbers

    def counted_before(self, until: float) -> dict[Account, int]:
        """Of each account that a server counted: its messages without this batch.

        Accounts that were read now may be believed up to `until`.
        """
        before = {}
        view, numbers, values = self._view, self._numbers, self._values
        for account, amount in self._amounts.items():
            number = numbers.get(account)
            if number is None:
                continue
            if account.until == -inf:
                account.until = until
                if values:
                    account.closed = self._sum(account, self._closed)
                    account.oldest = self._sum(account, self._oldest)
            messages = number - amount + account.closed
            if account.oldest:
                messages += view.partial(account.oldest)
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

    def _remainder(self, part: Part) -> list[bytes]:
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

    def _catching_up(self, part: Part) -> Iterable[bytes]:
        """Commands that give the server what the other one of its accounts has counted more."""
        for account in part.made:
            behind = self._numbers.get(account, 0) - part.numbers.get(account, 0)
            if behind > 0:
                yield incr(account.receipt.key, behind)
        if self._values:
            for account in part.fresh:
                if len(account.receipt.servers) == 1:
                    continue
                for key in self._names(account, self._closed + self._oldest):
                    if key in self._values and key not in part.values:
                        yield add(key, self._values[key], self._exptime)

    def _sum(self, account: Account, indexes: Iterable[bytes]) -> int:
        return sum([self._values.get(name, 0) for name in self._names(account, indexes)])

    def _names(self, account: Account, indexes: Iterable[bytes]) -> list[bytes]:
        stem = self._keys.stem(account.client)
        return [stem + index for index in indexes]

    def receipt(self, account: Account) -> Receipt:
        """Where the account was counted: its receipt without the servers that failed."""
        key, servers = account.receipt
        if len(servers) == 1:
            return account.receipt
        return Receipt(key, tuple(server for server in servers if account in self._parts[server].numbers))


def _largest(counts: list[dict[K, int]]) -> dict[K, int]:
    merged: dict[K, int] = {}
    for each in counts:
        for key, count in each.items():
            if count >= merged.get(key, 0):
                merged[key] = count
    return merged
