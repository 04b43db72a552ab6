"""A client's status: what `get`, `score`, the status page and `top` show."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from senderscore_policy.policy.clients import Client
from senderscore_policy.policy.policy import Policy, within
from senderscore_policy.policy.reputation import Refused, Reputation, Scored, Unavailable
from senderscore_policy.policy.tiers import UNLIMITED, Limit

NEAR: Final = 0.8
"""The share of its limit from which a client is near it."""


class LimitState(StrEnum):
    """Where a client is on the way to its limit. The value is the word that people are shown."""

    LIMITED = "limited"
    NEAR = "near"
    WITHIN = "within"
    UNLIMITED = "unlimited"


def limit_as_json(limit: float) -> int | str:
    """A limit as JSON shows it: a whole number or "unlimited"."""
    return "unlimited" if limit == UNLIMITED else int(limit)


@dataclass(frozen=True, slots=True)
class ClientStatus:
    """A client's counter against its limit."""

    client: Client
    reputation: Reputation | None  # as known; None: not asked
    limit: Limit  # in force, as far as is known
    count: int = 0  # messages counted in the window
    deferred: int = 0  # messages above the limit in the window, as this daemon has seen them
    deferring: bool = False  # whether messages were deferred lately

    @property
    def score(self) -> int | None:
        return self.reputation.score if isinstance(self.reputation, Scored) else None

    @property
    def reputation_name(self) -> str:
        """scored, unknown, refused, unavailable, not-asked or override."""
        if self.client.overridden:
            return "override"
        return "not-asked" if self.reputation is None else self.reputation.name

    @property
    def state(self) -> LimitState:
        """Where the client is on the way to its limit.

        While its score is not known, the limit is the smallest one, and above it the daemon looks the score up.
        Messages leave the window bucket by bucket: a client that goes on sending gets one through now and then, and is
        limited nevertheless.
        """
        limit = self.limit.messages
        if limit == UNLIMITED:
            return LimitState.UNLIMITED
        near = self.count >= NEAR * limit
        asked = self.reputation_name != "not-asked"
        if asked and ((near and self.deferring) or not within(limit, self.count + 1, 1)):
            return LimitState.LIMITED
        return LimitState.NEAR if near else LimitState.WITHIN

    def as_json(self) -> dict[str, Any]:
        """The object of `get --json` and of /api/clients."""
        counts = {"client": self.client.key, "count": self.count, "deferred": self.deferred}
        return counts | self._limit_as_json() | {"left": limit_as_json(max(0, self.limit.messages - self.count))}

    def score_as_json(self, source: str, age: float) -> dict[str, Any]:
        """The object of `score --json`; `age` is in seconds.

        `source` is "override", "cache" or "dns"; "none" for an address that the zone is not asked for.
        """
        detail = self.reputation.detail if isinstance(self.reputation, Refused | Unavailable) else ""
        times = {"source": source, "age": max(0, round(age)), "detail": detail}
        return {"client": self.client.key} | self._limit_as_json() | times

    def _limit_as_json(self) -> dict[str, Any]:
        return {
            "score": self.score,
            "reputation": self.reputation_name,
            "tier": self.limit.name,
            "limit": limit_as_json(self.limit.messages),
        }


def status_of(
    policy: Policy,
    client: Client,
    reputation: Reputation | None,
    count: int = 0,
    deferred: int = 0,
    *,
    deferring: bool = False,
) -> ClientStatus:
    """A client's status by the policy in force; an override goes before the reputation that the zone has given."""
    reputation = client.reputation or reputation
    limit = policy.limit_for(client, reputation)
    return ClientStatus(client, reputation, limit, count, deferred, deferring)
