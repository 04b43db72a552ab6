"""Lookups take turns to begin, so that a crowd of them leaves the event loop to those who ask for no score."""

import asyncio
from collections import deque
from typing import Final

ROUNDS: Final = 50
"""In each round of the event loop one in so many of those that wait may begin, and one more."""


class Turns:
    """Spreads what would begin in one round of the event loop over several rounds, first come first served.

    A lookup takes most of a millisecond of processor time, ten times as much as a decision. With a
    thousand of them going on in step, each round would hold up every request for half a second.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Return when it is the caller's turn."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._next_round)
        self._waiting.append(turn)
        await turn

    def _next_round(self) -> None:
        for _ in range(1 + len(self._waiting) // ROUNDS):
            turn = self._waiting.popleft()
            if not turn.cancelled():
                turn.set_result(None)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._next_round)
