"""The decision about one counted message, as a function of values."""

from typing import NamedTuple

from senderscore_policy.policy.clients import Client
from senderscore_policy.policy.policy import Policy, within
from senderscore_policy.policy.reputation import CachedScore, Reputation
from senderscore_policy.policy.tiers import Limit


class Verdict(NamedTuple):
    """What to do with a counted message."""

    limit: Limit  # to decide by; while `wait` is set, the smallest limit there is
    reputation: Reputation | None  # that the limit comes from; None: the score is not known
    refresh: bool  # whether a lookup of the score should start in the background
    wait: bool  # whether the message must wait for the score: its count is above the smallest limit


def verdict(
    policy: Policy, client: Client, known: CachedScore | None, count: int, amount: int, *, now: float
) -> Verdict:
    """Decide by what is known of the client: its cached score, which may be stale, or None.

    `count` has its messages in the window, this one included; `amount` is 1, or the number of the message's
    recipients; `now` is in seconds since the epoch.
    """
    reputation, refresh = client.reputation, False
    if reputation is None and client.limit is None:
        refresh = count >= policy.ask_from and (known is None or known.fresh_until <= now)
        reputation = None if known is None else known.reputation
    limit = policy.limit_for(client, reputation)
    wait = limit is policy.tiers.not_asked and not within(limit.messages, count, amount)
    return Verdict(limit, reputation, refresh, wait)
