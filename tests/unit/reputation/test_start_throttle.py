"""Many lookups that want to start at the same moment."""

import asyncio

from senderscore_policy.reputation.source import StartThrottle


async def test_a_crowd_begins_in_order_and_a_few_in_each_round() -> None:
    """Each round of the event loop lets one in fifty begin, and one more."""
    turns = StartThrottle()
    begun: list[int] = []

    async def begin(number: int) -> None:
        await turns.wait()
        begun.append(number)

    tasks = [asyncio.create_task(begin(number)) for number in range(200)]
    by_round = []
    while len(begun) < len(tasks):
        before = len(begun)
        await asyncio.sleep(0)
        by_round.append(len(begun) - before)
    assert begun == list(range(200))
    assert max(by_round) == 5


async def test_who_gives_up_waiting_holds_up_nobody() -> None:
    """A lookup that is cancelled before its turn does not hold up the others."""
    turns = StartThrottle()
    first, given_up, last = (asyncio.create_task(turns.wait()) for _ in range(3))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.wait_for(asyncio.gather(first, last), timeout=5)
    await asyncio.wait_for(turns.wait(), timeout=5)
    assert given_up.cancelled()
