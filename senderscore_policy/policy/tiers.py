"""Tiers: which limit a reputation earns."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from senderscore_policy.policy.reputation import Reputation, Scored, Unknown

UNLIMITED: Final = math.inf

Limit = float
"""Messages per window: a whole number from 0, or `UNLIMITED`. A count above it is over the limit."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A limit with the name under which logs, metrics and commands show it.

    Args:
        name: "71-80" for a tier, or "unscored", "unavailable", "not-asked", "override".
        limit: messages per window.
        reply: template of the answer above the limit; None: the general one.
    """

    name: str
    limit: Limit
    reply: str | None = None


@dataclass(frozen=True, slots=True)
class Tier:
    """The rule for the scores from `low` to `high`, both included."""

    low: int
    high: int
    rule: Rule


class TierTable:
    """The rule for every outcome of a lookup.

    `not_asked` is the rule for a client whose score nobody has needed yet: the smallest limit of all.

    Args:
        tiers: contiguous over 0-100, in any order (the configuration has checked it).
        unscored: for clients that the zone has no score for.
        unavailable: for clients whose score could not be read.
    """

    def __init__(self, tiers: Sequence[Tier], unscored: Rule, unavailable: Rule) -> None:
        self.tiers = tuple(sorted(tiers, key=lambda tier: tier.low))
        self.unscored = unscored
        self.unavailable = unavailable
        self._by_score = [tier.rule for tier in self.tiers for _ in range(tier.low, tier.high + 1)]
        self.not_asked = Rule("not-asked", min(rule.limit for rule in self.rules))

    @property
    def rules(self) -> list[Rule]:
        """Every rule of the table, the tiers first, from the worst score up."""
        return [tier.rule for tier in self.tiers] + [self.unscored, self.unavailable]

    def rule_for(self, reputation: Reputation) -> Rule:
        """The rule that a client of this reputation is held to."""
        if isinstance(reputation, Scored):
            return self._by_score[reputation.score]
        if isinstance(reputation, Unknown):
            return self.unscored
        return self.unavailable

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TierTable) and self.rules == other.rules and self.tiers == other.tiers

    def __hash__(self) -> int:
        return hash(self.tiers)
