"""The history of decisions, for `explain`, `doctor` and the page of a client: bounded, and cheap for each request."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from typing import Any, Final

from senderscore_policy.policy.decision import Decision, Reason
from senderscore_policy.policy.protocol import Request
from senderscore_policy.policy.reputation import CachedScore, Refused, Scored, Unavailable
from senderscore_policy.policy.status import limit_as_json

MAX_DECISIONS: Final = 10_000
"""Decisions about messages above their limit that are remembered, and of all others the same number, so that
a deferral can be explained long after a busy site's next thousand messages."""
LARGEST_REQUEST: Final = 8 * 1024
"""Bytes of a request that is remembered; Postfix's have less than 1 KiB, rarely 4."""
TRIAL: Final = "ask."
"""The beginning of `instance` in a request that a command sends and not Postfix."""

_TRIAL: Final = f"\ninstance={TRIAL}".encode()
_FIELDS: Final = len(Decision._fields)
_ATTRIBUTES: Final = (
    "queue_id", "instance", "client_address", "client_name", "sender", "recipient_count", "sasl_username",
    "protocol_state",
)  # fmt: skip
_LONGEST_TEXT: Final = 512
_WAIT: Final = 60.0
"""Seconds after a decision in which its score may have arrived: longer than `deadline` can be."""

_Row = tuple[Any, ...]
"""The fields of a decision: first its request, as bytes, then the client; the time is the last."""


class DecisionHistory:
    """Remembers decisions (`ports.Observer`), the oldest forgotten first.

    Their fields lie in a row, decision after decision: objects that outlive their batch would cost
    the garbage collector a microsecond for each message, several times what remembering takes.
    Any thread may search.
    """

    def __init__(self, most: int = MAX_DECISIONS) -> None:
        self._over_limit: deque[Any] = deque(maxlen=most * _FIELDS)
        self._others: deque[Any] = deque(maxlen=most * _FIELDS)

    def decided(self, decisions: Sequence[Decision]) -> None:
        over_limit, others = self._over_limit.extend, self._others.extend
        for request, *rest in decisions:
            if len(request.raw) <= LARGEST_REQUEST:
                remember = over_limit if rest[1] is Reason.OVER_LIMIT else others
                remember((request.raw, *rest))

    def of_client(self, key: str) -> list[Decision]:
        """The decisions about a client (`Client.key`), oldest first."""
        return self._select(lambda row: row[1] is not None and row[1].key == key)

    def of_message(self, queue_id: str) -> list[Decision]:
        """The decisions about the message with this queue ID, oldest first."""
        line = b"\nqueue_id=" + queue_id.encode() + b"\n"
        return self._select(lambda row: line in row[0])

    def _select(self, wanted: Callable[[_Row], bool]) -> list[Decision]:
        # Decisions of one batch have one time, and a client exceeds its limit with the last of them.
        kinds = (filter(wanted, _rows(iter(list(kind)))) for kind in (self._others, self._over_limit))
        return [Decision(Request(row[0]), *row[1:]) for row in merge(*kinds, key=lambda row: row[-1])]

    def since(self, *, over_limit: bool) -> float | None:
        """The seconds since the epoch from which on all decisions of a kind are remembered; None: since the start."""
        kind = self._over_limit if over_limit else self._others
        return kind[_FIELDS - 1] if len(kind) == kind.maxlen else None

    @property
    def last_request(self) -> float | None:
        """The time of the last request from Postfix, not from a command (seconds since the epoch); None: none came."""
        kinds = (_rows(reversed(kind)) for kind in (self._over_limit, self._others))
        times = [next((row[0] for row in rows if _TRIAL not in row[-1]), 0.0) for rows in kinds]
        return max(times) or None


def _rows(fields: Iterator[Any]) -> Iterator[_Row]:
    return zip(*[fields] * _FIELDS, strict=True)


def as_json(decision: Decision, known: CachedScore | None) -> dict[str, Any]:
    """A decision with attributes of its request, sender and user among them; `known`: its client's score now.

    The source of the decision's score, and its age then, in seconds, are None where they are no longer known.
    """
    client, reputation = decision.client, decision.reputation
    name = "not-asked" if reputation is None else reputation.name
    source = age = None
    if client is not None and reputation is not None:
        if client.address is None:
            source = "none"
        elif known is not None and known.reputation == reputation and known.fetched_at <= decision.time + _WAIT:
            source, age = known.source, max(0, round(decision.time - known.fetched_at))
    return {
        "time": round(decision.time, 3),
        "reason": decision.reason,
        "action": decision.action,
        "client": None if client is None else client.key,
        **{name: decision.request.text(name)[:_LONGEST_TEXT] for name in _ATTRIBUTES},
        "score": reputation.score if isinstance(reputation, Scored) else None,
        "reputation": "override" if client is not None and client.overridden else name,
        "detail": reputation.detail if isinstance(reputation, Refused | Unavailable) else "",
        "source": source,
        "age": age,
        "tier": decision.tier,
        "limit": limit_as_json(decision.limit),
        "count": decision.count,
    }
