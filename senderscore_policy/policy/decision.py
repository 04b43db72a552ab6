"""The record of one decision; the log line, the metrics, `explain` and the status page all read it."""

from enum import StrEnum
from typing import NamedTuple

from senderscore_policy.policy.clients import Client
from senderscore_policy.policy.protocol import Request
from senderscore_policy.policy.reputation import Reputation


class Reason(StrEnum):
    """Why a request got its answer. The value is the word that logs and metrics show."""

    WITHIN_LIMIT = "within-limit"
    OVER_LIMIT = "over-limit"
    EXEMPT = "exempt"
    AUTHENTICATED = "authenticated"
    NO_ADDRESS = "no-address"
    REPEAT = "repeat"

    # A member is equal to its value. Enum's own hash, in Python, takes longer than all else when decisions are counted.
    __hash__ = str.__hash__


class Decision(NamedTuple):
    """What was decided for one request. A NamedTuple: one is made for every message.

    Args:
        client: None without a usable client_address.
        action: the answer, as sent: "DUNNO", or the rendered reply.
        count: messages counted in the window, this one included; 0 when it was not counted.
        tier: name of the limit applied: "71-80", "unscored", "unavailable", "override"; "not-asked"
            while the score could not matter; "none" when nothing was counted.
        limit: its messages per window; for "not-asked" the smallest limit there is.
        reputation: as known; None: not asked.
        time: seconds since the epoch.
    """

    request: Request
    client: Client | None
    reason: Reason
    action: str
    count: int  # type: ignore[assignment] # a field goes before tuple.count
    tier: str
    limit: float
    reputation: Reputation | None
    time: float
