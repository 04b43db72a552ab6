"""The decision about one counted message, as a function of values."""

from typing import NamedTuple

from senderscore_policy.policy.clients import Client
from senderscore_policy.policy.policy import Policy, within
from senderscore_policy.policy.reputation import CachedScore, Reputation
from senderscore_policy.policy.tiers import Limit


class Verdict(NamedTuple):
    """What to do with a counted message.

    Args:
        limit: the limit to decide by; while `wait` is set, the smallest limit there is.
        reputation: the reputation that the limit comes from; None: the score is not known.
        refresh: whether a lookup of the score should start in the background.
        wait: whether the message must wait for the score: its count is above the smallest limit.
    """

    limit: Limit
    reputation: Reputation | None
    refresh: bool
    wait: bool


def verdict(
    policy: Policy, client: Client, known: CachedScore | None, count: int, amount: int, *, now: float
) -> Verdict:
    """Decide by what is known of the client.

    Args:
        policy: the site's policy.
        client: from the policy's directory.
        known: its cached score, which may be stale; None: the cache has no score.
        count: messages in the window, this one included.
        amount: 1, or the number of the message's recipients.
        now: seconds since the epoch.
    """
    reputation = client.reputation
    refresh = False
    if reputation is None and client.limit is None:
        refresh = count >= policy.ask_from and (known is None or known.fresh_until <= now)
        if known is not None:
            reputation = known.reputation
    limit = policy.limit_for(client, reputation)
    wait = limit is policy.tiers.not_asked and not within(limit.messages, count, amount)
    return Verdict(limit, reputation, refresh, wait)
