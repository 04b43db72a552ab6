"""What `explain` and `doctor` ask the running daemon; for the control socket alone: senders are private."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from senderscore_policy.monitoring.clients import ClientAdmin
from senderscore_policy.monitoring.decisions import DecisionHistory
from senderscore_policy.policy.clients import Client
from senderscore_policy.policy.decision import Decision
from senderscore_policy.policy.reputation import Refused, Scored, Unavailable
from senderscore_policy.policy.status import limit_as_json
from senderscore_policy.policy.tiers import UNLIMITED
from senderscore_policy.web.status import Parts

MOST_SHOWN: Final = 1000
"""Decisions that an answer holds, the newest ones."""
_ATTRIBUTES: Final = (
    *("queue_id", "instance", "client_address", "client_name", "sender", "recipient_count", "sasl_username"),
    "protocol_state",
)
_LONGEST_TEXT: Final = 512
_WAIT: Final = 60.0
"""Seconds after a decision in which its score may have come in: longer than `deadline` can be."""


class Inquiries:
    """Answers them.

    Args:
        parts: the running daemon.
        desk: knows how clients stand.
        recent: the decisions made last.
        facts: what the composition root knows besides: its file, its listeners.
    """

    def __init__(
        self, parts: Parts, desk: ClientAdmin, recent: DecisionHistory, facts: Callable[[], Mapping[str, Any]]
    ) -> None:
        self._parts = parts
        self._desk = desk
        self._recent = recent
        self._facts = facts

    async def about_message(self, queue_id: str) -> dict[str, Any]:
        """The decisions about the message with this queue ID, and how its client stands now."""
        decisions = self._recent.of_message(queue_id)
        return await self._account(decisions, [d.client for d in decisions if d.client is not None])

    async def about_client(self, client: Client) -> dict[str, Any]:
        """The decisions about a client, and how it stands now."""
        return await self._account(self._recent.of_client(client.key), [client])

    async def about_itself(self) -> dict[str, Any]:
        """What `doctor` wants to know and /api/status does not say; to see if that works, the state is saved."""
        await self._parts.state.save()
        return {
            **self._facts(),
            "state": self._parts.state.state,
            "last_request_at": self._recent.last_request,
        }

    async def _account(self, decisions: Sequence[Decision], clients: Sequence[Client]) -> dict[str, Any]:
        """The answer to `explain`."""
        parts, rules = self._parts, self._parts.engine.policy
        distinct = list({client.key: client for client in clients}.values())
        return {
            "decisions": [self._decision(decision) for decision in decisions[-MOST_SHOWN:]],
            "found": len(decisions),
            "clients": await self._clients(distinct),
            "window": rules.window,
            "counted": "recipients" if rules.count_recipients else "messages",
            "remembered_since": {
                "over_limit": self._recent.since(over_limit=True) or parts.started_at,
                "others": self._recent.since(over_limit=False) or parts.started_at,
            },
        }

    async def _clients(self, clients: Sequence[Client]) -> list[dict[str, Any]]:
        """The objects of `get --json`, each with the seconds until one more message is within its limit.

        They are 0 if it is now, and null if that is never, or there is no limit yet.
        """
        now, window = self._parts.counting.now, self._parts.seen.window
        found = []
        for standing, usage in await self._desk.usages(clients):
            limit, opens_at = standing.limit.messages, None
            if limit != UNLIMITED and standing.reputation_name != "not-asked":
                opens_at = window.opens_at(usage.buckets, limit, now)
            found.append(standing.as_json() | {"opens_in": None if opens_at is None else math.ceil(opens_at - now)})
        return found

    def _decision(self, decision: Decision) -> dict[str, Any]:
        """A decision with the attributes of its request that tell an administrator something."""
        client, reputation = decision.client, decision.reputation
        name = "not-asked" if reputation is None else reputation.name
        source, age = self._source(decision)
        return {
            "time": round(decision.time, 3),
            "reason": decision.reason,
            "action": decision.action,
            "client": None if client is None else client.key,
            **{name: decision.request.text(name)[:_LONGEST_TEXT] for name in _ATTRIBUTES},
            "score": reputation.score if isinstance(reputation, Scored) else None,
            "reputation": "override" if client is not None and client.overridden else name,
            "detail": reputation.detail if isinstance(reputation, Refused | Unavailable) else "",
            "source": source,
            "age": age,
            "tier": decision.tier,
            "limit": limit_as_json(decision.limit),
            "count": decision.count,
        }

    def _source(self, decision: Decision) -> tuple[str | None, int | None]:
        """Where a decision's score came from, and its age then, in seconds; None where that is not known any more."""
        client, reputation = decision.client, decision.reputation
        if client is None or reputation is None:
            return None, None
        if client.address is None:
            return "none", None
        known = self._parts.source.peek(client.address)
        if known is None or known.reputation != reputation or known.fetched_at > decision.time + _WAIT:
            return None, None
        return known.source, max(0, round(decision.time - known.fetched_at))
