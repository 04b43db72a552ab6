"""The engine's ports: narrow protocols for counters, scores, time and observers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from senderscore_policy.policy.decision import Decision
from senderscore_policy.policy.reputation import CachedScore, Reputation


@dataclass(slots=True, eq=False)
class Charge:
    """A message to be counted. Several charges of one client in a batch get distinct counts."""

    key: str  # `Client.key`
    amount: int  # 1, or the number of recipients
    count: int = 0  # once counted, the client's messages in the window, this one included
    receipt: object = None  # the place where the store counted it (bucket, servers), for a refund


@dataclass(frozen=True, slots=True)
class Usage:
    """A client's messages in the window, and in each of its buckets that is not empty, by index (see `Window.view`)."""

    count: int
    buckets: Mapping[int, int]


class CounterStore(Protocol):
    """Counters of messages per client and bucket. No method raises for a broken back end."""

    async def charge(self, charges: Sequence[Charge], refunds: Sequence[Charge]) -> None:
        """Take back `refunds`, which were counted before, then count `charges`: one round trip."""

    async def read(self, clients: Sequence[str]) -> list[Usage]:
        """Read the counters of each client, in order."""

    async def reset(self, clients: Sequence[str]) -> list[str]:
        """Forget every bucket of the window for these clients; the servers that could not be reached, by name."""


class ReputationSource(Protocol):
    """Reputations by IPv4 address (canonical text, such as "192.0.2.75")."""

    def known(self, address: str) -> CachedScore | None:
        """The cached score, fresh or stale, or the failure while the zone must not be asked."""

    def start(self, address: str) -> None:
        """Start a lookup in the background, unless one is under way or the zone must not be asked."""

    async def lookup(self, address: str) -> Reputation:
        """The reputation, after at most the configured deadline; `Unavailable` when that passes."""


class Clock(Protocol):
    """Time as an argument, in seconds: since the epoch, and from an arbitrary start without going back."""

    def time(self) -> float: ...
    def monotonic(self) -> float: ...


class Observer(Protocol):
    """Receives every decision: the log, the metrics, the clients, the history."""

    def decided(self, decisions: Sequence[Decision]) -> None:
        """Record a batch of decisions. Must not raise and must not wait."""


class LookupObserver(Protocol):
    """Receives score lookups."""

    def looked_up(self, outcome: str, seconds: float) -> None:
        """Record a lookup over DNS: "scored", "unknown", "refused" or "unavailable", and its duration."""

    def cache(self, result: str) -> None:
        """Record a use of the cache: "hit", "stale", "shared" (found in memcached) or "miss"."""


class StoreObserver(Protocol):
    """Receives pipelined round trips to a memcached, and keys that did not hold a counter and were deleted."""

    def round_trip(self, seconds: float, commands: int, ok: bool) -> None: ...
    def invalid_key(self) -> None: ...


class SharedCache(Protocol):
    """Small texts shared by the daemons of a site (memcached). No method raises for a broken back end.

    A key is printable ASCII without spaces, `ttl` is in seconds, and `put` is best effort.
    """

    async def get(self, key: str) -> str | None: ...
    async def put(self, key: str, text: str, ttl: int) -> None: ...


class Persistent(Protocol):
    """Something that outlives a restart in the state directory."""

    def snapshot(self) -> Iterator[str]:
        """Lines (without line feeds) that `restore` understands.

        The call itself is quick and copies what it needs; the iterator is consumed in another
        thread, a piece at a time, while the daemon goes on.
        """

    def restore(self, lines: Iterable[str]) -> None:
        """Load what an earlier process saved; ValueError: the lines are malformed, and nothing is loaded."""
