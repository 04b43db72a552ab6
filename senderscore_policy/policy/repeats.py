"""One message counts once: Postfix repeats a request after a lost connection, and at RCPT for each recipient."""

from hashlib import blake2b
from typing import Final, Generic, Protocol, TypeVar

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
