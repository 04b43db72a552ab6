"""A bounded table with cheap eviction."""

from collections.abc import ItemsView
from typing import Generic, TypeVar

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
