"""The site's policy as one value: replaced whole at a reload, so that no request sees half of each."""

from dataclasses import dataclass
from typing import Final

from senderscore_policy.policy.clients import Client, ClientDirectory
from senderscore_policy.policy.protocol import Request
from senderscore_policy.policy.reply import PERMIT, ReplyTemplate
from senderscore_policy.policy.reputation import Reputation, Scored
from senderscore_policy.policy.tiers import UNLIMITED, Limit, TierTable

EXEMPT: Final = Limit("exempt", UNLIMITED)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the engine decides by.

    Args:
        over_limit: the general reply above a limit.
        tier_replies: replies of tiers that have one of their own, by the template's text (`Limit.reply`).
        window: the window in words, for replies.
        ask_from: from this count on a lookup starts in the background.
        observe: decide and count, but always permit.
        exempt_authenticated: SASL-authenticated clients are not counted.
        count_recipients: a message counts once for each recipient.
    """

    tiers: TierTable
    directory: ClientDirectory
    over_limit: ReplyTemplate
    tier_replies: dict[str, ReplyTemplate]
    window: str
    ask_from: float
    observe: bool
    exempt_authenticated: bool
    count_recipients: bool

    def limit_for(self, client: Client, reputation: Reputation | None) -> Limit:
        """The client's limit: an exemption or a limit of its own goes before its reputation (None: not asked)."""
        if client.exempt:
            return EXEMPT
        if client.limit is not None:
            return client.limit
        return self.tiers.not_asked if reputation is None else self.tiers.limit_for(reputation)

    def action(self, limit: Limit, reputation: Reputation | None, messages: int, request: Request) -> str:
        if self.observe:
            return PERMIT
        template = self.over_limit if limit.reply is None else self.tier_replies[limit.reply]
        score = reputation.score if isinstance(reputation, Scored) else None
        key = (score, limit.name, limit.messages)
        text = template.rendered.get(key)
        if text is None:
            text = template.render(*key, messages, self.window, request.text("client_address"))
            if not template.individual:
                template.rendered[key] = text
        return text


def within(limit: float, messages: int, amount: int) -> bool:
    """Whether a message is within the limit.

    Args:
        limit: messages per window.
        messages: counted in the window, the message included.
        amount: 1, or the number of its recipients; a message with more recipients than the limit passes
            alone in an empty window, or it could never pass at all.
    """
    return messages <= limit or (messages == amount and limit > 0)
