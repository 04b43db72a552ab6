"""What an answer of the score zone means."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from senderscore_policy.policy.reputation import UNKNOWN, Refused, Reputation, Scored, Unavailable

_SCORES: Final = IPv4Network("127.0.4.0/24")
_REFUSALS: Final = IPv4Network("127.255.255.0/24")
_BEST_SCORE: Final = 100


@dataclass(frozen=True, slots=True)
class Probe:
    """What came of asking the zone about one client.

    Args:
        outcome: what it means.
        addresses: the A records of the answer as they came; empty without an answer.
        rcode: "NOERROR", "NXDOMAIN", "SERVFAIL" …; None: no response that could be read.
        elapsed: seconds.
        nameserver: the one asked last, "192.0.2.53:53"; None: none was asked.
        questions: how many were sent, retries and TCP included.
    """

    outcome: Reputation
    addresses: tuple[str, ...]
    rcode: str | None
    elapsed: float
    nameserver: str | None
    questions: int

    @property
    def refused_by_zone(self) -> bool:
        """Whether it was the zone that refused, not our own query budget."""
        return isinstance(self.outcome, Refused) and bool(self.addresses)


def reputation_of(addresses: Sequence[str]) -> Reputation:
    """The reputation that the A records of an answer stand for.

    Only 127.0.4.0 to 127.0.4.100 is a score: resolvers that rewrite NXDOMAIN, and expired zones with
    a wildcard, answer for every client. The zone refuses by an address in 127.255.255.0/24.

    Args:
        addresses: IPv4 addresses; none of them means that the name exists without an A record.
    """
    if not addresses:
        return UNKNOWN
    answer = [IPv4Address(address) for address in addresses]
    if any(address in _REFUSALS for address in answer):
        return Refused(", ".join(addresses))
    scores = [address.packed[3] for address in answer if address in _SCORES and address.packed[3] <= _BEST_SCORE]
    if scores:
        return Scored(min(scores))
    return Unavailable(f"{', '.join(addresses)} is no score")
