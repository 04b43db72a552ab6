"""The decisions made last, for `explain` and `doctor`: bounded, and cheap for the requests they are about."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from typing import Any, Final

from senderscore_policy.policy.decision import Decision, Reason
from senderscore_policy.policy.protocol import Request

MAX_DECISIONS: Final = 10_000
"""Remembered of the messages above their limit, and as many of all others, so that a deferral can
be explained long after a busy site's next thousand messages."""
LARGEST_REQUEST: Final = 8 * 1024
"""Bytes of a request that is remembered; Postfix's have less than 1 KiB, rarely 4."""
TRIAL: Final = "ask."
"""What the `instance` of a request begins with that a command sends and not Postfix."""

_TRIAL: Final = f"\ninstance={TRIAL}".encode()
_FIELDS: Final = len(Decision._fields)

_Row = tuple[Any, ...]
"""The fields of a decision: first its request, as bytes, then the client; the time is the last."""


class DecisionHistory:
    """Remembers decisions (`ports.Observer`), the oldest forgotten first.

    Their fields lie in a row, decision after decision: objects that outlive their batch would cost
    the garbage collector a microsecond for each message, several times what remembering takes.

    Args:
        most: decisions of each of the two kinds.
    """

    def __init__(self, most: int = MAX_DECISIONS) -> None:
        self._over_limit: deque[Any] = deque(maxlen=most * _FIELDS)
        self._others: deque[Any] = deque(maxlen=most * _FIELDS)

    def decided(self, decisions: Sequence[Decision]) -> None:
        """Remember a batch."""
        over_limit, others = self._over_limit.extend, self._others.extend
        for request, *rest in decisions:
            raw = request.raw
            if len(raw) <= LARGEST_REQUEST:
                remember = over_limit if rest[1] is Reason.OVER_LIMIT else others
                remember((raw, *rest))

    def of_client(self, key: str) -> list[Decision]:
        """The decisions about a client (`Client.key`), oldest first."""
        return self._select(lambda row: row[1] is not None and row[1].key == key)

    def of_message(self, queue_id: str) -> list[Decision]:
        """The decisions about the message with this queue ID, oldest first."""
        line = b"\nqueue_id=" + queue_id.encode("utf-8", "surrogateescape") + b"\n"
        return self._select(lambda row: line in row[0])

    def _select(self, wanted: Callable[[_Row], bool]) -> list[Decision]:
        kinds = (filter(wanted, _rows(iter(kind))) for kind in (self._over_limit, self._others))
        return [Decision(Request(row[0]), *row[1:]) for row in merge(*kinds, key=lambda row: row[-1])]

    def since(self, *, over_limit: bool) -> float | None:
        """The time from which on all decisions of a kind are remembered (seconds since the epoch).

        Args:
            over_limit: of messages above their limit, or of all others.

        Returns:
            None: from the start, nothing was forgotten.
        """
        kind = self._over_limit if over_limit else self._others
        return kind[_FIELDS - 1] if len(kind) == kind.maxlen else None

    @property
    def last_request(self) -> float | None:
        """When somebody asked last, the trials of commands aside (seconds since the epoch); None: nobody did."""
        kinds = (_rows(reversed(kind)) for kind in (self._over_limit, self._others))
        times = [next((row[0] for row in rows if _TRIAL not in row[-1]), 0.0) for rows in kinds]
        return max(times) or None


def _rows(fields: Iterator[Any]) -> Iterator[_Row]:
    """The fields, as many at a time as a decision has."""
    return zip(*[fields] * _FIELDS, strict=True)
