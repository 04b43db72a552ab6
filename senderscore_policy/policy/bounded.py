"""A bounded mapping with cheap eviction: two dictionaries, a young and an old generation."""

from collections.abc import ItemsView
from hashlib import blake2b
from typing import Final, Generic, Protocol, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """Keeps between `size / 2` and `size` of the entries used last.

    Each operation is one or two dictionary operations; an entry that is used moves to the young
    generation, and when that is half of `size` the old one is dropped whole. That is nearly as good
    as least-recently-used eviction without a linked list to keep in order for every request.

    Args:
        size: most entries kept; at least 2.

    Attributes:
        young: the generation used last. What is found in it need not be moved: a hot path may look here first.
    """

    __slots__ = ("_half", "_old", "young")

    def __init__(self, size: int) -> None:
        self._half = size // 2
        self.young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        """The value kept for the key, or None."""
        value = self.young.get(key)
        if value is None and self._old:
            value = self._old.pop(key, None)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        """Keep `value` under `key`, as the entry used last."""
        self.young[key] = value
        if len(self.young) >= self._half:
            self._old, self.young = self.young, {}

    def pop(self, key: K) -> None:
        """Forget the key."""
        self.young.pop(key, None)
        self._old.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        self.young = {}
        self._old = {}

    def items(self) -> ItemsView[K, V]:
        """The entries of a copy, those used longest ago first; of a key in both generations only the younger.

        The copy is two dictionaries merged, a few milliseconds for 100,000 entries; a list of pairs
        would take ten times as long.
        """
        return (self._old | self.young).items()

    def __len__(self) -> int:
        return len(self.young) + len(self._old.keys() - self.young.keys())


LIFETIME: Final = 60.0
"""Seconds in which the same instance and client address are the same message."""
MAX_ENTRIES: Final = 40_000
"""Messages remembered at most; in a flood the oldest half is forgotten early, and its repeats count again."""

LONGEST_KEY: Final = 128
"""Bytes of instance and client address that tell a message; Postfix's have about 40."""


class Begun(Protocol):
    """What the table remembers.

    Attributes:
        begun_at: monotonic seconds.
    """

    begun_at: float


M = TypeVar("M", bound=Begun)


class RepeatTable(Generic[M]):
    """Messages of the last minute by instance and client address, bounded.

    They are kept in two generations: when the young one is a minute old, or half of what may be
    remembered, the old one is dropped.
    """

    def __init__(self) -> None:
        self._young: dict[bytes, M] = {}
        self._old: dict[bytes, M] = {}
        self._aged_at = 0.0

    def first(self, key: bytes, message: M) -> M | None:
        """The message seen first under this key; None when `message` is, and it is remembered.

        Args:
            key: instance and client address.
            message: remembered if there is none yet.
        """
        if len(key) > LONGEST_KEY:
            key = blake2b(key).digest()
        now = message.begun_at
        if now - self._aged_at > LIFETIME or len(self._young) >= MAX_ENTRIES // 2:
            self._old, self._young, self._aged_at = self._young, {}, now
        earlier = self._young.get(key) or self._old.get(key)
        if earlier is not None and now - earlier.begun_at <= LIFETIME:
            return earlier
        self._young[key] = message
        return None

    def __len__(self) -> int:
        return len(self._young) + len(self._old.keys() - self._young.keys())
