"""How a client stands: what `get`, `score`, the status page and `top` show of it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from senderscore_policy.policy.clients import Client
from senderscore_policy.policy.policy import Rules, within
from senderscore_policy.policy.reputation import Reputation, Scored
from senderscore_policy.policy.tiers import UNLIMITED, Limit, Rule

EXEMPT = Rule("exempt", UNLIMITED)
NEAR: Final = 0.8
"""The share of its limit from which a client is near it."""


class Place(StrEnum):
    """Where a client is on the way to its limit. The value is the word that people are shown."""

    LIMITED = "limited"
    NEAR = "near"
    WITHIN = "within"
    UNLIMITED = "unlimited"


def place(limit: Limit, messages: int, *, asked: bool, deferring: bool) -> Place:
    """Where a client is on the way to its limit.

    Args:
        limit: of its rule.
        messages: counted in the window.
        asked: whether its score is known or does not matter. While it is not, nobody is limited: the
            limit is the smallest one, and above it the score is asked.
        deferring: whether messages of it were deferred lately. As messages leave the window one by
            one, a client that goes on sending is let in now and then, and limited all the same.
    """
    if limit == UNLIMITED:
        return Place.UNLIMITED
    near = messages >= NEAR * limit
    if asked and ((near and deferring) or not within(limit, messages + 1, 1)):
        return Place.LIMITED
    return Place.NEAR if near else Place.WITHIN


def limit_as_json(limit: Limit) -> int | str:
    """A limit as JSON shows it: a whole number or "unlimited"."""
    return "unlimited" if limit == UNLIMITED else int(limit)


@dataclass(frozen=True, slots=True)
class Standing:
    """A client's counter against its limit.

    Args:
        client: with its override, if it has one.
        reputation: as known; None: not asked.
        rule: that it is held to as far as is known.
        messages: counted in the window.
        deferred: above the limit in the window, as this daemon has seen them.
        deferring: whether there were any of these lately.
    """

    client: Client
    reputation: Reputation | None
    rule: Rule
    messages: int = 0
    deferred: int = 0
    deferring: bool = False

    @property
    def score(self) -> int | None:
        """The score, 0 to 100, or None."""
        return self.reputation.score if isinstance(self.reputation, Scored) else None

    @property
    def reputation_name(self) -> str:
        """scored, unknown, refused, unavailable, not-asked or override."""
        if self.client.overridden:
            return "override"
        return "not-asked" if self.reputation is None else self.reputation.name

    @property
    def place(self) -> Place:
        """Where the client is on the way to its limit."""
        asked = self.reputation_name != "not-asked"
        return place(self.rule.limit, self.messages, asked=asked, deferring=self.deferring)

    def as_json(self) -> dict[str, Any]:
        """The object of `get --json` and of /api/clients."""
        limit = self.rule.limit
        return {
            "client": self.client.key,
            "count": self.messages,
            "deferred": self.deferred,
            "score": self.score,
            "reputation": self.reputation_name,
            "tier": self.rule.name,
            "limit": limit_as_json(limit),
            "left": limit_as_json(max(0, limit - self.messages)),
        }

    def score_as_json(self, source: str, age: float) -> dict[str, Any]:
        """The object of `score --json`.

        Args:
            source: "override", "cache" or "dns"; "none" for an address that the zone is not asked for.
            age: of the score, in seconds.
        """
        return {
            "client": self.client.key,
            "score": self.score,
            "reputation": self.reputation_name,
            "tier": self.rule.name,
            "limit": limit_as_json(self.rule.limit),
            "source": source,
            "age": max(0, round(age)),
        }


def standing(
    rules: Rules,
    client: Client,
    reputation: Reputation | None,
    messages: int = 0,
    deferred: int = 0,
    *,
    deferring: bool = False,
) -> Standing:
    """A client's standing by the rules in force.

    Args:
        rules: the site's policy.
        client: from the rules' directory.
        reputation: what the zone said, None if it has not been asked; an override goes before it.
        messages: counted in the window.
        deferred: above the limit in the window.
        deferring: whether there were any of these lately.
    """
    reputation = client.reputation or reputation
    if client.exempt:
        rule = EXEMPT
    elif client.rule is not None:
        rule = client.rule
    elif reputation is None:
        rule = rules.tiers.not_asked
    else:
        rule = rules.tiers.rule_for(reputation)
    return Standing(client, reputation, rule, messages, deferred, deferring)
