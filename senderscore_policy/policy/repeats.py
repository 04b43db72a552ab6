"""One message counts once: Postfix repeats a request after a lost connection, and at RCPT for each recipient."""

from hashlib import blake2b
from typing import Final, Generic, TypeVar

from senderscore_policy.policy.generations import GenerationalCache

LIFETIME: Final = 60.0
"""Seconds in which the same instance and client address are the same message."""
MAX_ENTRIES: Final = 100_000
"""Messages remembered at most; in a flood the oldest half is forgotten early, and its repeats count again."""

LONGEST_KEY: Final = 128
"""Bytes of instance and client address that tell a message; Postfix's have about 40."""

M = TypeVar("M")


class RepeatTable(Generic[M]):
    """Messages of the last minute by instance and client address, bounded."""

    def __init__(self) -> None:
        self._entries: GenerationalCache[bytes, tuple[float, M]] = GenerationalCache(MAX_ENTRIES)
        self._aged_at = 0.0

    def first(self, key: bytes, message: M, now: float) -> M | None:
        """The message seen first under this key; None when `message` is, and it is remembered.

        Args:
            key: instance and client address.
            message: remembered if there is none yet.
            now: monotonic seconds.
        """
        if len(key) > LONGEST_KEY:
            key = blake2b(key).digest()
        if now - self._aged_at > LIFETIME:
            self._aged_at = now
            self._entries.age()
        entry = self._entries.get(key)
        if entry is not None and now - entry[0] <= LIFETIME:
            return entry[1]
        self._entries.put(key, (now, message))
        return None

    def __len__(self) -> int:
        return len(self._entries)
