"""What the engine needs from the world, as narrow protocols; adapters and test fakes are written to them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from senderscore_policy.policy.decision import Decision
from senderscore_policy.policy.reputation import CachedScore, Reputation


class Charge:
    """One message to be counted, and what the counter says to it.

    Args:
        key: that the client is counted under (`Client.key`).
        amount: 1, or the number of recipients.

    Attributes:
        count: once counted, the messages of the client in the window, this charge included. Of several
            charges of one client in a batch each sees those before it: concurrent messages get distinct counts.
        receipt: where it was counted (bucket, servers): the store's own affair, for a refund.
    """

    __slots__ = ("amount", "count", "key", "receipt")

    def __init__(self, key: str, amount: int) -> None:
        self.key = key
        self.amount = amount
        self.count = 0
        self.receipt: object = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What is counted for a client now.

    Args:
        count: messages in the window.
        buckets: messages of each bucket that is not empty, by index (see `Window.view`).
    """

    count: int
    buckets: Mapping[int, int]


class CounterStore(Protocol):
    """Counters of messages per client and bucket. No method raises for a broken back end."""

    async def charge(self, charges: Sequence[Charge], refunds: Sequence[Charge]) -> None:
        """Take back `refunds`, which were counted before, then count `charges`: one round trip."""

    async def read(self, clients: Sequence[str]) -> list[Usage]:
        """The counters of these clients as they stand, in order; nothing is counted."""

    async def reset(self, clients: Sequence[str]) -> None:
        """Forget every bucket of the window for these clients."""


class ReputationSource(Protocol):
    """Reputations by IPv4 address (canonical text, such as "192.0.2.75")."""

    def known(self, address: str) -> CachedScore | None:
        """What can be said at once: a fresh or stale entry, or the failure while asking is pointless."""

    def start(self, address: str) -> None:
        """Begin a lookup in the background, unless one is under way or asking is pointless."""

    async def lookup(self, address: str) -> Reputation:
        """The reputation, waited for at most the configured deadline; `Unavailable` when it passes."""


class Clock(Protocol):
    """Time as an argument."""

    def time(self) -> float:
        """Seconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start that never go back."""


class Observer(Protocol):
    """Told of every decision: the log, the metrics, the memory of recent decisions."""

    def decided(self, decisions: Sequence[Decision]) -> None:
        """A batch of decisions was made. Must not raise and must not wait."""


class LookupObserver(Protocol):
    """Told of score lookups."""

    def looked_up(self, outcome: str, seconds: float) -> None:
        """A lookup over DNS ended: "scored", "unknown", "refused" or "unavailable", and how long it took."""

    def cache(self, result: str) -> None:
        """A score was wanted: "hit", "stale", "shared" (found in memcached) or "miss"."""


class StoreObserver(Protocol):
    """Told of round trips to memcached."""

    def round_trip(self, seconds: float, commands: int, ok: bool) -> None:
        """One pipelined exchange with one server ended."""

    def poisoned_key(self) -> None:
        """A key held something that is no counter; it was deleted."""


class SharedCache(Protocol):
    """Small texts shared by the daemons of a site (memcached). No method raises for a broken back end."""

    async def get(self, key: str) -> str | None:
        """The text kept under the key (printable ASCII without spaces), or None."""

    async def put(self, key: str, text: str, ttl: int) -> None:
        """Keep the text for `ttl` seconds; best effort."""


class Persistent(Protocol):
    """Something that outlives a restart in the state directory."""

    def snapshot(self) -> Iterator[str]:
        """Lines (without line feeds) that `restore` understands.

        The call itself is quick and copies what it needs; the iterator is consumed in another
        thread, a piece at a time, while the daemon goes on.
        """

    def restore(self, lines: Iterable[str]) -> None:
        """Take up what an earlier process saved.

        Raises:
            ValueError: the lines are malformed; nothing is taken up.
        """
