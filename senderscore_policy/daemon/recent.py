"""The decisions made last, for `explain` and `doctor`: bounded, and cheap for the requests they are about."""

from collections import deque
from collections.abc import Callable, Sequence
from heapq import merge
from typing import Final

from senderscore_policy.daemon.clients import LARGEST_REQUEST
from senderscore_policy.policy.decision import Decision, Reason

MAX_DECISIONS: Final = 10_000
"""Remembered of the messages above their limit, and as many of all others, so that a deferral can
be explained long after a busy site's next thousand messages."""
TRIAL: Final = "ask."
"""What the `instance` of a request begins with that a command sends and not Postfix."""

_TRIAL: Final = f"\ninstance={TRIAL}".encode()


class RecentDecisions:
    """Remembers decisions (`ports.Observer`), the oldest forgotten first.

    Args:
        most: decisions of each of the two kinds.
    """

    def __init__(self, most: int = MAX_DECISIONS) -> None:
        self._over_limit: deque[Decision] = deque(maxlen=most)
        self._others: deque[Decision] = deque(maxlen=most)

    def decided(self, decisions: Sequence[Decision]) -> None:
        """Remember a batch."""
        over_limit, others = self._over_limit.append, self._others.append
        for decision in decisions:
            if len(decision.request.raw) <= LARGEST_REQUEST:
                if decision.reason is Reason.OVER_LIMIT:
                    over_limit(decision)
                else:
                    others(decision)

    def of_client(self, key: str) -> list[Decision]:
        """The decisions about a client (`Client.key`), oldest first."""
        return self._select(lambda decision: decision.client is not None and decision.client.key == key)

    def of_message(self, queue_id: str) -> list[Decision]:
        """The decisions about the message with this queue ID, oldest first."""
        line = b"\nqueue_id=" + queue_id.encode("utf-8", "surrogateescape") + b"\n"
        return self._select(lambda decision: line in decision.request.raw)

    def _select(self, wanted: Callable[[Decision], bool]) -> list[Decision]:
        everything = merge(self._over_limit, self._others, key=lambda decision: decision.time)
        return [decision for decision in everything if wanted(decision)]

    def since(self, *, over_limit: bool) -> float | None:
        """The time from which on all decisions of a kind are remembered (seconds since the epoch).

        Args:
            over_limit: of messages above their limit, or of all others.

        Returns:
            None: from the start, nothing was forgotten.
        """
        kind = self._over_limit if over_limit else self._others
        return kind[0].time if len(kind) == kind.maxlen else None

    @property
    def last_request(self) -> float | None:
        """When somebody asked last, the trials of commands aside (seconds since the epoch); None: nobody did."""
        kinds = (self._over_limit, self._others)
        times = (next((d.time for d in reversed(kind) if _TRIAL not in d.request.raw), 0.0) for kind in kinds)
        return max(times) or None
