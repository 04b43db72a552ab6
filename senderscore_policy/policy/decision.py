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
    """What was decided for one request. A NamedTuple: one is made for every message."""

    request: Request
    client: Client | None  # None without a usable client_address
    reason: Reason
    action: str  # the answer, as sent: "DUNNO", or the rendered reply
    # Messages counted in the window, this one included; 0 when it was not counted.
    count: int  # type: ignore[assignment] # a field goes before tuple.count
    # Name of the limit applied: "71-80", "unscored", "unavailable", "override"; "not-asked" while the score could not
    # matter; "none" when nothing was counted.
    tier: str
    limit: float  # its messages per window; for "not-asked" the smallest limit there is
    reputation: Reputation | None  # as known; None: not asked
    time: float  # seconds since the epoch
