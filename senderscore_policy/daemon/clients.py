"""The clients seen last, for the status page, `top` and `get`."""

import heapq
from collections.abc import Sequence
from typing import Final

from senderscore_policy.policy.address import Client
from senderscore_policy.policy.decision import Decision, Reason
from senderscore_policy.policy.generations import GenerationalCache
from senderscore_policy.policy.ports import Clock
from senderscore_policy.policy.protocol import Request
from senderscore_policy.policy.reply import PERMIT
from senderscore_policy.policy.tiers import UNLIMITED
from senderscore_policy.policy.window import View, Window

MAX_CLIENTS: Final = 20_000
"""Clients remembered; those that have sent nothing for longest are forgotten first."""
LARGEST_REQUEST: Final = 8 * 1024
"""Bytes of a request that is remembered with its client; Postfix's have less than 1 KiB, rarely 4."""
_NOTHING: Final = Request(b"\n")


def foremost(decisions: Sequence[Decision], most: int) -> list[Decision]:
    """The clients to be shown: those with the highest counts, and those that are nearest to their limits.

    Args:
        decisions: one for each client.
        most: clients of either kind.
    """
    busiest = heapq.nlargest(most, decisions, key=lambda decision: decision.messages)
    nearest = heapq.nlargest(most, decisions, key=lambda decision: decision.messages / max(decision.limit, 0.5))
    return list({id(decision): decision for decision in busiest + nearest}.values())


class SeenClients:
    """Remembers each client's last counted decision and how often it was above its limit.

    Args:
        window: deferrals are told for the same window as messages.
        clock: its monotonic time tells the buckets.
    """

    def __init__(self, window: Window, clock: Clock) -> None:
        self.window = window
        self._clock = clock
        self._last: GenerationalCache[str, Decision] = GenerationalCache(MAX_CLIENTS)
        self._deferred: GenerationalCache[str, dict[int, int]] = GenerationalCache(MAX_CLIENTS)

    def decided(self, decisions: Sequence[Decision]) -> None:
        """Remember a batch (`ports.Observer`)."""
        put = self._last.put
        view = None
        for decision in decisions:
            request, client, reason, _action, messages, _tier, _limit, _reputation, _time = decision
            if messages and client is not None:
                small = len(request.raw) <= LARGEST_REQUEST
                put(client.key, decision if small else decision._replace(request=_NOTHING))
                if reason is Reason.OVER_LIMIT:
                    view = view or self.window.view(self._clock.monotonic())
                    self._defer(client.key, view)

    def _defer(self, client: str, view: View) -> None:
        buckets = self._deferred.get(client)
        if buckets is not None and view.current in buckets:
            buckets[view.current] += 1
        else:
            in_view = {view.current, *view.open, *view.closed}
            kept = {index: count for index, count in (buckets or {}).items() if index in in_view}
            self._deferred.put(client, kept | {view.current: 1})

    def counted_by_hand(self, client: Client, messages: int, time: float) -> None:
        """Remember a client whose messages an administrator counted; its last message may have no attributes.

        Args:
            client: who.
            messages: counted in the window now.
            time: seconds since the epoch.
        """
        last = self._last.get(client.key)
        if last is None:
            limit = UNLIMITED if client.rule is None else client.rule.limit
            last = Decision(_NOTHING, client, Reason.WITHIN_LIMIT, PERMIT, messages, "none", limit, None, time)
        self._last.put(client.key, last._replace(messages=messages, time=time))

    def deferred(self, client: str) -> int:
        """Messages of the client above its limit in this window, as this daemon has seen them."""
        return self.window.view(self._clock.monotonic()).total(self._deferred.get(client) or {})

    def deferring(self, client: str) -> bool:
        """Whether messages of the client were above its limit in the running bucket or the one before it."""
        view = self.window.view(self._clock.monotonic())
        buckets = self._deferred.get(client) or {}
        return any(index in buckets for index in (view.current, *view.open, *view.closed[:1]))

    def recent(self, since: float) -> list[Decision]:
        """The last decision of each client that was seen since that time (seconds since the epoch)."""
        return [decision for _, decision in self._last.items() if decision.time > since]

    def forget(self, client: str) -> None:
        """The client's counters were reset."""
        self._last.pop(client)
        self._deferred.pop(client)
