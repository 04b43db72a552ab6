"""The site's policy as one value: replaced whole at a reload, so that no request sees half of each."""

from dataclasses import dataclass

from senderscore_policy.policy.clients import Client, ClientDirectory
from senderscore_policy.policy.protocol import Request
from senderscore_policy.policy.reply import PERMIT, ReplyTemplate
from senderscore_policy.policy.reputation import Reputation, Scored
from senderscore_policy.policy.tiers import UNLIMITED, Limit, TierTable


@dataclass(frozen=True, slots=True)
class Policy:
    """What the engine decides by."""

    tiers: TierTable
    directory: ClientDirectory
    over_limit: ReplyTemplate  # the general reply above a limit
    tier_replies: dict[str, ReplyTemplate]  # of tiers with one of their own, by the template's text (`Limit.reply`)
    window: str  # in words, for replies
    ask_from: float  # the count from which on a lookup starts in the background
    observe: bool  # decide and count, but always permit
    exempt_authenticated: bool  # SASL-authenticated clients are not counted
    count_recipients: bool  # a message counts once for each recipient

    def limit_for(self, client: Client, reputation: Reputation | None) -> Limit:
        """The client's limit: an exemption or a limit of its own goes before its reputation (None: not asked)."""
        if client.exempt:
            return Limit("exempt", UNLIMITED)
        if client.limit is not None:
            return client.limit
        return self.tiers.not_asked if reputation is None else self.tiers.limit_for(reputation)

    def action(self, limit: Limit, reputation: Reputation | None, count: int, request: Request) -> str:
        """The reply to a client above this limit."""
        if self.observe:
            return PERMIT
        template = self.over_limit if limit.reply is None else self.tier_replies[limit.reply]
        key = (reputation.score if isinstance(reputation, Scored) else None, limit.name, limit.messages)
        text = template.rendered.get(key)
        if text is None:
            text = template.render(*key, count, self.window, request.text("client_address"))
            if not template.individual:
                template.rendered[key] = text
        return text


def within(limit: float, count: int, amount: int) -> bool:
    """Whether a message of this amount (1, or its recipients) is within the limit; `count` includes it.

    A message with more recipients than the limit passes alone in an empty window, or it could never pass at all.
    """
    return count <= limit or (count == amount and limit > 0)
