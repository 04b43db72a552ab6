"""The resolver that the first lookup imports."""

import asyncio
from pathlib import Path

import pytest
from fakes import FakeClock

from senderscore_policy.config.model import ReputationSettings
from senderscore_policy.policy.reputation import Unavailable
from senderscore_policy.reputation import resolver
from senderscore_policy.reputation.budget import QueryBudget
from senderscore_policy.reputation.guard import LookupResult
from senderscore_policy.reputation.source import LazyResolver


class InstantResolver:
    """Ends every lookup without waiting."""

    def __init__(self, settings: ReputationSettings, budget: QueryBudget, file: Path) -> None:
        pass

    async def query_raw(self, address: str) -> LookupResult:
        return LookupResult(Unavailable(address), (), None, 0.0, None, 0)


async def test_later_lookups_do_not_queue_behind_those_that_waited_for_the_import(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A lock passes one waiter in a round of the event loop; at 200 rounds a second nobody would catch up."""
    monkeypatch.setattr(resolver, "ScoreResolver", InstantResolver)
    lazy = LazyResolver(ReputationSettings(), QueryBudget(0, FakeClock()))
    crowd = [asyncio.create_task(lazy.query_raw(f"192.0.2.{number}")) for number in range(100)]
    await asyncio.wait(crowd, return_when=asyncio.FIRST_COMPLETED)
    await lazy.query_raw("198.51.100.1")
    assert sum(task.done() for task in crowd) < 10
    await asyncio.gather(*crowd)
