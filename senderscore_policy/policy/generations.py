"""A bounded mapping with cheap eviction: two dictionaries, a young and an old generation."""

from collections.abc import ItemsView
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class GenerationalCache(Generic[K, V]):
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
