"""The resolver behind a door: dnspython is imported when the first question comes, in a thread."""

import asyncio
import importlib
from typing import TYPE_CHECKING

from senderscore_policy.config.model import ReputationSettings
from senderscore_policy.reputation.answer import Probe
from senderscore_policy.reputation.budget import QueryBudget

if TYPE_CHECKING:
    from senderscore_policy.reputation.resolver import ScoreResolver


class DeferredResolver:
    """A `ScoreResolver` that costs nothing until it is used.

    Importing dnspython takes 30 to 100 ms. That is too long for a daemon that must be ready in half
    a second, and too long to hold up its event loop later; from a thread it does so for 8 ms at most.

    Args:
        settings: the zone and its nameservers.
        budget: asked before every question.
    """

    def __init__(self, settings: ReputationSettings, budget: QueryBudget) -> None:
        self._settings = settings
        self._budget = budget
        self._loading = asyncio.Lock()
        self._resolver: ScoreResolver | None = None

    async def query_raw(self, address: str) -> Probe:
        """What came of asking for an IPv4 address."""
        resolver = self._resolver or await self._load()
        return await resolver.query_raw(address)

    def reconfigure(self, settings: ReputationSettings) -> None:
        """Go by other settings from the next lookup on."""
        self._settings = settings
        if self._resolver is not None:
            self._resolver.reconfigure(settings)

    async def _load(self) -> "ScoreResolver":
        async with self._loading:
            if self._resolver is None:
                module = await asyncio.to_thread(importlib.import_module, "senderscore_policy.reputation.resolver")
                resolver: ScoreResolver = module.ScoreResolver(self._settings, self._budget)
                self._resolver = resolver
            return self._resolver
