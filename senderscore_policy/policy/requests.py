"""Requests on their way to an answer, and the clients that the engine remembers."""

from dataclasses import dataclass
from typing import Protocol

from senderscore_policy.policy.clients import Client
from senderscore_policy.policy.ports import Charge
from senderscore_policy.policy.protocol import Request
from senderscore_policy.policy.reply import PERMIT
from senderscore_policy.policy.reputation import Reputation
from senderscore_policy.policy.tiers import Limit


class PendingRequest(Protocol):
    """A request whose reply is due."""

    request: Request

    def answer(self, action: str) -> None:
        """Keep the action for Postfix; the engine says when the replies of a batch may be sent."""

    def fail(self, error: Exception) -> None:
        """End the connection without a reply: the program did not foresee this error."""


@dataclass(slots=True)
class CachedClient:
    """A client as the engine remembers it."""

    client: Client
    limit: Limit  # the limit that holds for it
    reputation: Reputation | None  # the reputation that the limit comes from
    until: float  # monotonic seconds up to which both are valid


class CountedRequest(Charge):
    """A request that is being counted."""

    __slots__ = ("action", "begun_at", "cached", "pending")

    def __init__(self, pending: PendingRequest, cached: CachedClient, amount: int, begun_at: float) -> None:
        # Instead of `super().__init__`, which takes as long as all of this.
        self.key = cached.client.key
        self.amount = amount
        self.cached = cached
        self.begun_at = begun_at  # monotonic seconds
        # The request itself, then those that repeat the same message; empty once they are answered.
        self.pending: tuple[PendingRequest, ...] = (pending,)
        self.action: str | None = None  # the answer, once there is one

    def fail(self, error: Exception) -> None:
        """Fail all its requests; a later repeat is permitted, because it must not wait for ever."""
        pending, self.pending, self.action = self.pending, (), PERMIT
        for each in pending:
            each.fail(error)
