"""Tiers: which limit a reputation earns."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from senderscore_policy.policy.reputation import Reputation, Scored, Unknown

UNLIMITED: Final = math.inf
"""Messages per window of a client without a limit."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit with the name under which logs, metrics and commands show it."""

    name: str  # "71-80" for a tier, or "unscored", "unavailable", "not-asked", "override"
    messages: float  # per window, a whole number from 0, or `UNLIMITED`; a larger count is over the limit
    reply: str | None = None  # template of the answer above the limit; None: the general one


@dataclass(frozen=True, slots=True)
class Tier:
    """The limit for the scores from `low` to `high`, both included."""

    low: int
    high: int
    limit: Limit


class TierTable:
    """The limit for every outcome of a lookup; the tiers are contiguous over 0-100, in any order."""

    def __init__(self, tiers: Sequence[Tier], unscored: Limit, unavailable: Limit) -> None:
        self.tiers = tuple(sorted(tiers, key=lambda tier: tier.low))
        self.unscored = unscored
        self.unavailable = unavailable
        self._by_score = [tier.limit for tier in self.tiers for _ in range(tier.low, tier.high + 1)]
        # For a client whose score was not needed yet: the smallest limit of all.
        self.not_asked = Limit("not-asked", min(limit.messages for limit in self.limits))

    @property
    def limits(self) -> list[Limit]:
        """Every limit of the table, the tiers first, from the worst score up."""
        return [tier.limit for tier in self.tiers] + [self.unscored, self.unavailable]

    def limit_for(self, reputation: Reputation) -> Limit:
        if isinstance(reputation, Scored):
            return self._by_score[reputation.score]
        if isinstance(reputation, Unknown):
            return self.unscored
        return self.unavailable

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TierTable) and self.limits == other.limits and self.tiers == other.tiers

    def __hash__(self) -> int:
        return hash(self.tiers)
