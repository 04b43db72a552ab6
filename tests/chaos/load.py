"""A steady, bounded load of policy requests, sent as Postfix sends them, with every answer checked."""

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Final, Self

from policy_client import request

PERMIT: Final = "DUNNO"
PATIENCE: Final = 5.0
"""Seconds after which Postfix gives up on an answer (`timeout=5s` in main.cf); with `try_limit=1` it tries once."""
GREEDY: Final = tuple(f"198.19.0.{number}" for number in range(4))
"""Clients that send far above `GREEDY_LIMIT`; all others stay below theirs."""
GREEDY_LIMIT: Final = 20
GREEDY_INTERVAL: Final = 0.2


class Phase(Enum):
    """Before, while and after a fault is there; what spans two belongs to `DURING`."""

    BEFORE = "before"
    DURING = "during"
    AFTER = "after"


class Record:
    """What became of the requests or messages of one trial.

    Attributes:
        sent, unanswered: requests of all clients.
        sent_by: requests by client.
        answered: answers by phase and client.
        passed: messages that the greedy clients got through.
        wrong: answers other than DUNNO to clients below their limit.
        worst: the longest wait for an answer, in seconds.
        phase: now.
    """

    def __init__(self) -> None:
        self.sent = self.unanswered = 0
        self.sent_by: Counter[str] = Counter()
        self.answered = {phase: Counter[str]() for phase in Phase}
        self.passed: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.worst = 0.0
        self.phase = Phase.BEFORE
        self._lock = threading.Lock()

    def begin(self, client: str) -> Phase:
        """A request of the client goes out."""
        with self._lock:
            self.sent += 1
            self.sent_by[client] += 1
            return self.phase

    def end(self, client: str, phase: Phase, seconds: float, action: str) -> None:
        """It was answered; `phase` is what `begin` said."""
        with self._lock:
            self.answered[phase if phase is self.phase else Phase.DURING][client] += 1
            self.worst = max(self.worst, seconds)
            if client in GREEDY:
                self.passed[client] += action == PERMIT
            elif action != PERMIT:
                self.wrong.append(f"{client}: {action}")

    def lost(self, seconds: float) -> None:
        """A request was not answered."""
        with self._lock:
            self.unanswered += 1
            self.worst = max(self.worst, seconds)

    @property
    def total(self) -> int:
        """Answers to all clients."""
        return sum(counter.total() for counter in self.answered.values())


class Load:
    """Sends requests from a thread of its own, from the moment of `with` to its end.

    Each connection has one request in hand, as that of an smtpd.

    Args:
        endpoint: the daemon's unix socket.
        client_of: the client of the n-th request.
        rate: requests a second, at most.
        connections: over which they are spread.
    """

    def __init__(self, endpoint: Path, client_of: Callable[[int], str], rate: float, connections: int) -> None:
        self.record = Record()
        self._endpoint = endpoint
        self._client_of = client_of
        self._interval = connections / rate
        self._connections = connections
        self._stopped = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._send()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._thread.join()

    async def _send(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._connections):
                tasks.create_task(self._keep_sending(number / self._connections * self._interval, self._interval, None))
            for client in GREEDY:
                tasks.create_task(self._keep_sending(0, GREEDY_INTERVAL, client))

    async def _keep_sending(self, offset: float, interval: float, only: str | None) -> None:
        connection = _Connection(self._endpoint)
        due = time.monotonic() + offset
        while not self._stopped:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due = max(due + interval, time.monotonic())
            await self._ask(connection, only or self._client_of(self.record.sent))
        connection.close()

    async def _ask(self, connection: "_Connection", client: str) -> None:
        wire, started = request(client), time.monotonic()
        phase = self.record.begin(client)
        try:
            async with asyncio.timeout(PATIENCE):
                action = await connection.ask(wire)
        except (OSError, EOFError):  # a timeout is an OSError too
            connection.close()
            self.record.lost(time.monotonic() - started)
        else:
            self.record.end(client, phase, time.monotonic() - started, action)


class _Connection:
    """A connection that opens itself when it is needed."""

    def __init__(self, endpoint: Path) -> None:
        self._endpoint = endpoint
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, wire: bytes) -> str:
        """The action.

        Raises:
            OSError, EOFError: the connection is lost.
        """
        if self._streams is None:
            self._streams = await asyncio.open_unix_connection(self._endpoint)
        reader, writer = self._streams
        writer.write(wire)
        reply = await reader.readuntil(b"\n\n")
        return reply.decode().removeprefix("action=").rstrip("\n")

    def close(self) -> None:
        """Drop it; what comes late is not taken for the answer to another request."""
        if self._streams is not None:
            with contextlib.suppress(OSError):
                self._streams[1].transport.abort()
            self._streams = None
