"""Requests on their way to an answer, and the clients that the engine remembers."""

from math import inf
from typing import Final, Protocol

from senderscore_policy.policy.clients import Client
from senderscore_policy.policy.decision import Reason
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


class CachedClient:
    """A client as the engine remembers it.

    Attributes:
        uncounted: the reason why its messages are not counted; None: they are counted.
        limit: the limit that holds for it; None while each message has to find it out.
        reputation: the reputation that the limit comes from.
        until: monotonic seconds up to which both are valid.
    """

    __slots__ = ("client", "limit", "reputation", "uncounted", "until")

    def __init__(self, client: Client, uncounted: Reason | None = None) -> None:
        self.client = client
        self.uncounted = uncounted
        self.limit: Limit | None = None
        self.reputation: Reputation | None = None
        self.until = -inf

    def cache_limit(self, limit: Limit, reputation: Reputation | None, until: float) -> None:
        self.limit, self.reputation, self.until = limit, reputation, until


NO_CLIENT: Final = CachedClient(Client(""), Reason.NO_ADDRESS)
"""The client of a request without a usable client_address."""


class CountedRequest(Charge):
    """A request that is being counted.

    Attributes:
        pending: the request itself, then those that repeat the same message. Empty once they are answered.
        action: the answer, once there is one.
        begun_at: monotonic seconds.
    """

    __slots__ = ("action", "begun_at", "cached", "pending")

    def __init__(self, pending: PendingRequest, cached: CachedClient, amount: int, begun_at: float) -> None:
        # Instead of `super().__init__`, which takes as long as all of this.
        self.key = cached.client.key
        self.amount = amount
        self.pending: tuple[PendingRequest, ...] = (pending,)
        self.cached = cached
        self.begun_at = begun_at
        self.action: str | None = None

    def fail(self, error: Exception) -> None:
        """Fail all its requests; a later repeat is permitted, because it must not wait for ever."""
        pending, self.pending, self.action = self.pending, (), PERMIT
        for each in pending:
            each.fail(error)
