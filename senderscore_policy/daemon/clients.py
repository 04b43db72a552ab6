"""The clients seen last, for the status page, `top` and `get`."""

from collections.abc import Sequence
from typing import Final

from senderscore_policy.policy.decision import Decision, Reason
from senderscore_policy.policy.generations import GenerationalCache
from senderscore_policy.policy.ports import Clock
from senderscore_policy.policy.window import View, Window

MAX_CLIENTS: Final = 20_000
"""Clients remembered; those that have sent nothing for longest are forgotten first."""


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
        view = self.window.view(self._clock.monotonic())
        for decision in decisions:
            if decision.messages and decision.client is not None:
                put(decision.client.key, decision)
                if decision.reason is Reason.OVER_LIMIT:
                    self._defer(decision.client.key, view)

    def _defer(self, client: str, view: View) -> None:
        buckets = self._deferred.get(client) or {}
        if view.current not in buckets:
            in_view = {view.current, *view.open, *view.closed}
            buckets = {index: count for index, count in buckets.items() if index in in_view}
        buckets[view.current] = buckets.get(view.current, 0) + 1
        self._deferred.put(client, buckets)

    def deferred(self, client: str) -> int:
        """Messages of the client above its limit in this window, as this daemon has seen them."""
        return self.window.view(self._clock.monotonic()).total(self._deferred.get(client) or {})

    def busiest(self, most: int) -> list[str]:
        """The clients with the highest counts when last seen, busiest first."""
        decisions = sorted(self._last.items(), key=lambda item: item[1].messages, reverse=True)
        return [key for key, _ in decisions[:most]]

    def forget(self, client: str) -> None:
        """The client's counters were reset."""
        self._last.pop(client)
        self._deferred.pop(client)
