"""What the engine decides: questions, the messages that they are about, and who sent these."""

from math import inf
from types import TracebackType
from typing import Final, Protocol

from senderscore_policy.policy.clients import Client
from senderscore_policy.policy.decision import Reason
from senderscore_policy.policy.ports import Charge
from senderscore_policy.policy.protocol import Request
from senderscore_policy.policy.reply import PERMIT
from senderscore_policy.policy.reputation import Reputation
from senderscore_policy.policy.tiers import Limit


class PendingRequest(Protocol):
    """A request with somebody who waits for its answer.

    The engine works on it inside `with question:`; what nobody foresaw there ends this question
    alone, without an answer.
    """

    request: Request

    def answer(self, action: str) -> None:
        """Send the action to Postfix."""

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Take an exception over, so that the engine goes on with the next question."""


class CachedClient:
    """A client as the engine remembers it.

    Args:
        client: who it is.
        uncounted: why its messages are not counted; None: they are.

    Attributes:
        limit: what it is held to; None as long as that has to be found out for each message.
        reputation: that the limit comes from.
        until: monotonic seconds up to which both may be believed.
    """

    __slots__ = ("client", "limit", "reputation", "uncounted", "until")

    def __init__(self, client: Client, uncounted: Reason | None = None) -> None:
        self.client = client
        self.uncounted = uncounted
        self.limit: Limit | None = None
        self.reputation: Reputation | None = None
        self.until = -inf

    def hold_to(self, limit: Limit, reputation: Reputation | None, until: float) -> None:
        """Hold its messages to the limit."""
        self.limit, self.reputation, self.until = limit, reputation, until


NOBODY: Final = CachedClient(Client(""), Reason.NO_ADDRESS)
"""Behind whatever is no address."""


class CountedRequest(Charge):
    """A counted message on its way to a decision; `with message:` is `with question:` for all who ask for it.

    Attributes:
        questions: who asked first, then those whose request repeats the same message. Empty once
            there is an answer.
        action: the answer, once there is one.
        begun_at: monotonic seconds.
    """

    __slots__ = ("action", "begun_at", "questions", "sender")

    def __init__(self, question: PendingRequest, sender: CachedClient, amount: int, begun_at: float) -> None:
        # Instead of `super().__init__`, which takes as long as all of this.
        self.key = sender.client.key
        self.amount = amount
        self.questions: tuple[PendingRequest, ...] = (question,)
        self.sender = sender
        self.begun_at = begun_at
        self.action: str | None = None

    def __enter__(self) -> None:
        """Begin work on the message."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Let its questions take an exception over; a later repeat is permitted, it must not wait for ever."""
        if error is None:
            return False
        questions, self.questions, self.action = self.questions, (), PERMIT
        taken_over = True
        for question in questions:
            taken_over &= question.__exit__(kind, error, trace)
        return taken_over
