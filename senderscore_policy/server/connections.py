"""Policy connections: bytes from Postfix to questions for the engine, and answers back in order."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from senderscore_policy.monitoring.statistics import Histogram
from senderscore_policy.policy.protocol import Request, RequestParser, reply

REQUEST_TIME: Final = 30.0
"""Seconds in which a request once begun must be complete."""
SWEEP_INTERVAL: Final = 5.0
"""Seconds between two looks for connections that have been silent too long."""
MAX_IN_HAND: Final = 20
"""Requests of one connection in hand at most, so that connections are served in turns; Postfix sends one at a time."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class ConnectionCounts:
    """What the metrics say of connections since the start."""

    accepted: int = 0
    closed_idle: int = 0
    closed_for_newcomer: int = 0
    malformed: int = 0
    failed: int = 0


@dataclass(slots=True, eq=False)
class ConnectionRequest:
    """One request on a connection and its reply (a `requests.PendingRequest`)."""

    connection: "PolicyConnection"
    request: Request
    arrived_at: float
    reply: bytes | None = None

    def answer(self, action: str) -> None:
        """Keep the reply; it is sent with those of the whole batch (`PolicyServer.send_replies`)."""
        self.reply = reply(action)
        connection = self.connection
        # It is due once those to all earlier requests are.
        if connection.in_hand and connection.in_hand[0] is self:
            connection.server.due.append(connection)

    def fail(self, error: Exception) -> None:
        self.connection.fail(error)


class PolicyConnection(asyncio.Protocol):
    """One connection of an smtpd; `served`: the daemon's process before this one has accepted it."""

    def __init__(self, server: "PolicyServer", *, served: bool = False) -> None:
        self.server = server
        self._parser = RequestParser()
        self.in_hand: deque[ConnectionRequest] = deque()
        self._transport: asyncio.Transport
        self.served = served
        self.ending = self._paused = False
        self._writable = True
        self.peer = ""
        self.active_at = 0.0
        self.begun_at: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        address = transport.get_extra_info("peername")
        self.peer = f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "unix socket"
        self.active_at = self.server.now()
        self.server.enter(self)

    def data_received(self, data: bytes) -> None:
        """Submit the requests that the data completes, as many as may be in hand; the parser keeps the others."""
        room = MAX_IN_HAND - len(self.in_hand)
        requests = self._parser.feed(data, room)
        self.active_at = now = self.server.now()
        for request in requests:
            pending = ConnectionRequest(self, request, now)
            self.in_hand.append(pending)
            self.server.submit(pending)
        if not self._parser.partial:
            self.begun_at = None
        elif requests or self.begun_at is None:
            self.begun_at = now
        if self._parser.fault:
            self.server.counts.malformed += 1
            log.warning("malformed request from %s: %s; disconnected", self.peer, self._parser.fault)
            self._end()
        elif len(self.in_hand) >= MAX_IN_HAND:
            self.pause()

    def eof_received(self) -> bool:
        """Answer what is in hand before closing a half-closed connection."""
        self._end()
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Leave; the engine still decides requests in hand, and their answers are dropped."""
        self.in_hand.clear()
        self.server.leave(self)

    def pause_writing(self) -> None:
        """The peer does not read its replies: accept no more of its requests."""
        self._writable = False
        self.pause()

    def resume_writing(self) -> None:
        self._writable = True
        self._resume()

    def flush(self, now: float) -> None:
        """Send the replies that are due, in one write."""
        replies, in_hand = b"", self.in_hand
        while in_hand and (reply := in_hand[0].reply) is not None:
            replies += reply
            self.server.latency.observe(now - in_hand.popleft().arrived_at)
        if replies:
            self.active_at = now
            self.served = True
            self._transport.write(replies)
            if self.ending:
                self._end()
            elif self._paused:
                self._resume()

    def pause(self) -> None:
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        held = not self._writable or self.ending or self.server.stopping
        if held or not self._paused or len(self.in_hand) > MAX_IN_HAND // 2:
            return
        if self._parser.more:
            self.data_received(b"")
        if len(self.in_hand) < MAX_IN_HAND and not self.ending:
            self._paused = False
            self._transport.resume_reading()

    def _end(self) -> None:
        """Read no more; close when everything in hand is answered."""
        self.ending = True
        if not self.in_hand:
            self._transport.close()
        else:
            self.pause()

    @property
    def descriptor(self) -> int | None:
        """The socket, if no part of a request or of a reply is in this process: another one can go on serving it."""
        parser, transport = self._parser, self._transport
        if self.in_hand or parser.partial or parser.more or transport.get_write_buffer_size():
            return None
        return None if self.ending or transport.is_closing() else int(transport.get_extra_info("socket").fileno())

    def close(self) -> None:
        """Close after the requests in hand (shutdown, idle connections); at once if the peer takes no replies."""
        if self._writable:
            self._end()
        else:
            self.abort()

    def abort(self) -> None:
        """Close at once; what is not sent yet is lost."""
        self.in_hand.clear()
        self._transport.abort()

    def fail(self, error: Exception) -> None:
        """Log the internal error and drop the connection without a reply."""
        self.server.counts.failed += 1
        log.error("internal error in a request from %s; disconnected", self.peer, exc_info=error)
        self.abort()


class PolicyServer:
    """All policy connections: at most `max_connections`, none idle for longer than `idle_timeout` seconds."""

    def __init__(
        self, submit: Callable[[ConnectionRequest], None], latency: Histogram, max_connections: int, idle_timeout: float
    ) -> None:
        self.submit = submit  # to the engine's next batch
        self.latency = latency  # seconds from each request's last byte to its reply
        self.counts = ConnectionCounts()
        self._max_connections = max_connections
        self._idle_timeout = idle_timeout
        # A dictionary for its order: of connections equally long idle the oldest goes.
        self.connections: dict[PolicyConnection, None] = {}
        # Closed for a newcomer, with replies that the peer has not read.
        self._leaving: set[PolicyConnection] = set()
        # Not the event loop's time: uvloop's changes once a round and has whole milliseconds.
        self.now = time.monotonic
        self.due: list[PolicyConnection] = []  # their next reply is known
        self.stopping = False  # what arrives now waits for the next process

    def enter(self, connection: PolicyConnection) -> None:
        """Serve a new connection. At `max_connections` close one that never asked, else the one idle longest."""
        self.counts.accepted += 1
        self.connections[connection] = None
        if len(self.connections) > self._max_connections:
            idle = (other for other in self.connections if not other.in_hand and other is not connection)
            longest = min(idle, key=lambda other: (other.served, other.active_at), default=connection)
            self.counts.closed_for_newcomer += 1
            self.connections.pop(longest, None)
            self._leaving.add(longest)
            longest.close()

    def send_replies(self) -> None:
        """Send the replies that are due, one connection after the other.

        A write that has to wake an idle processor for its reader takes several times as long as one
        in a quick succession of writes.
        """
        due, self.due = self.due, []
        now = self.now()
        for connection in due:
            connection.flush(now)

    def leave(self, connection: PolicyConnection) -> None:
        self.connections.pop(connection, None)
        self._leaving.discard(connection)

    async def sweep(self) -> None:
        """Close connections that are silent too long, for ever."""
        while True:
            await asyncio.sleep(SWEEP_INTERVAL)
            now = self.now()
            for connection in [*self.connections, *self._leaving]:
                if connection.ending:
                    if not connection.in_hand and now - connection.active_at > REQUEST_TIME:
                        connection.abort()
                elif connection.begun_at is not None and now - connection.begun_at > REQUEST_TIME:
                    self.counts.malformed += 1
                    peer = connection.peer
                    log.warning("request from %s not complete after %.0f s; disconnected", peer, REQUEST_TIME)
                    connection.close()
                elif not connection.in_hand and now - connection.active_at > self._idle_timeout:
                    self.counts.closed_idle += 1
                    connection.close()

    def fail(self, error: Exception) -> None:
        """Drop every connection that has a request in hand: a whole batch could not be decided."""
        for connection in list(self.connections):
            if connection.in_hand:
                connection.fail(error)

    def stop(self) -> None:
        """Read no more; what is in hand can still be answered."""
        self.stopping = True
        for connection in self.connections:
            connection.pause()

    def close(self, store: Callable[[Sequence[int]], None]) -> None:
        """Close every connection; those that another process can go on serving are given to `store` before."""
        store([each for connection in self.connections if (each := connection.descriptor) is not None])
        for connection in list(self.connections):
            connection.close()
