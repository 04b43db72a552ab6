"""What is known of a client's reputation: four outcomes of a lookup, never a sentinel number."""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Scored:
    """The zone has a score for the client: 0 (worst) to 100 (best); 0 is a real score."""

    score: int
    name = "scored"


@dataclass(frozen=True, slots=True)
class Unknown:
    """The zone has no score for the client: NXDOMAIN, no data, or an IPv6 client."""

    name = "unknown"


@dataclass(frozen=True, slots=True)
class Refused:
    """The zone does not answer us: an address in 127.255.255.0/24, or our own query budget is spent (`detail`)."""

    detail: str
    name = "refused"


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The lookup failed: timeout, SERVFAIL, REFUSED, garbage, or an address that is not a score (`detail`)."""

    detail: str
    name = "unavailable"


Reputation = Scored | Unknown | Refused | Unavailable
UNKNOWN = Unknown()


class CachedScore(NamedTuple):
    """A reputation at hand, with its times in seconds since the epoch."""

    reputation: Reputation
    fetched_at: float  # when the zone said so
    fresh_until: float  # from then on it is stale: served, while a new lookup runs
    source: str  # "dns" when this daemon asked, "cache" when it came from memcached or the state file
