"""Bounded tables with cheap eviction."""

from collections.abc import ItemsView
from hashlib import blake2b
from typing import Final, Generic, Protocol, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """Keeps between `size / 2` and `size` of the entries used last (2 at least), in a young and an old generation.

    An entry that is used moves to the young generation; when that is half of `size`, the cache drops the old one.
    This is nearly least-recently-used eviction, at one or two dictionary operations for each use.
    A hot path may look into `young` first.
    """

    __slots__ = ("_half", "_old", "young")

    def __init__(self, size: int) -> None:
        self._half = size // 2
        self.young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        value = self.young.get(key)
        if value is None and self._old:
            value = self._old.pop(key, None)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        self.young[key] = value
        if len(self.young) >= self._half:
            self._old, self.young = self.young, {}

    def pop(self, key: K) -> None:
        self.young.pop(key, None)
        self._old.pop(key, None)

    def clear(self) -> None:
        self.young, self._old = {}, {}

    def items(self) -> ItemsView[K, V]:
        """A copy of the entries, those used longest ago first; two merged dictionaries copy faster than pairs."""
        return (self._old | self.young).items()

    def __len__(self) -> int:
        return len(self.young) + len(self._old.keys() - self.young.keys())


LIFETIME: Final = 60.0
"""Seconds in which the same instance and client address are the same message."""
MAX_ENTRIES: Final = 40_000
"""Messages remembered at most; in a flood the table drops the oldest half early, and its repeats count again."""
LONGEST_KEY: Final = 128
"""Bytes of instance and client address that are a key as such; Postfix's have about 40."""


class Begun(Protocol):
    """A message with the monotonic time at which it was first seen."""

    begun_at: float


M = TypeVar("M", bound=Begun)


class RepeatTable(Generic[M]):
    """Messages of the last minute by instance and client address.

    Postfix sends a request again after a lost connection, and a check at RCPT once for each recipient.
    """

    def __init__(self) -> None:
        self._messages: BoundedCache[bytes, M] = BoundedCache(MAX_ENTRIES)

    def first(self, key: bytes, message: M) -> M | None:
        """The message seen first under this key; None if `message` is the first, which the table then keeps."""
        if len(key) > LONGEST_KEY:
            key = blake2b(key).digest()
        earlier = self._messages.get(key)
        if earlier is not None and message.begun_at - earlier.begun_at <= LIFETIME:
            return earlier
        self._messages.put(key, message)
        return None
