"""A lookup's result, and the resolver that is imported when the first lookup needs it."""

import asyncio
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Final

from senderscore_policy.config.model import ReputationSettings
from senderscore_policy.policy.reputation import UNKNOWN, Refused, Reputation, Scored, Unavailable
from senderscore_policy.reputation.budget import QueryBudget

if TYPE_CHECKING:
    from senderscore_policy.reputation.resolver import ScoreResolver

_SCORES: Final = IPv4Network("127.0.4.0/24")
_REFUSALS: Final = IPv4Network("127.255.255.0/24")
_BEST_SCORE: Final = 100


@dataclass(frozen=True, slots=True)
class LookupResult:
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


class LazyResolver:
    """A `ScoreResolver` that costs nothing until it is used.

    Importing dnspython takes 30 to 100 ms. That is too long for a daemon that must be ready in half
    a second, and too long to hold up its event loop later; from a thread it does so for 8 ms at most.

    Args:
        settings: the zone and its nameservers.
        budget: asked before every question.
    """

    def __init__(self, settings: ReputationSettings, budget: QueryBudget) -> None:
        self._settings = settings
        self._budget = budget
        self._loading = asyncio.Lock()
        self._resolver: ScoreResolver | None = None

    async def query_raw(self, address: str) -> LookupResult:
        """What came of asking for an IPv4 address."""
        resolver = self._resolver or await self._load()
        return await resolver.query_raw(address)

    def reconfigure(self, settings: ReputationSettings) -> None:
        """Go by other settings from the next lookup on."""
        self._settings = settings
        if self._resolver is not None:
            self._resolver.reconfigure(settings)

    async def _load(self) -> "ScoreResolver":
        async with self._loading:
            if self._resolver is None:
                module = await asyncio.to_thread(importlib.import_module, "senderscore_policy.reputation.resolver")
                resolver: ScoreResolver = module.ScoreResolver(self._settings, self._budget)
                self._resolver = resolver
            return self._resolver
