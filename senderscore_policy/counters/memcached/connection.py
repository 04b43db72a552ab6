"""One memcached server: its connection, one deadline for a whole round trip, and whether it is up.

pymemcache opens the connection. Orders go over it in the event loop, without blocking: a thread
with pymemcache's blocking calls takes two to three times the processor time for each round trip,
and has to wait for the interpreter when the answer is there.
"""

import asyncio
import os
import select
import socket
import time
from ipaddress import ip_address
from typing import Final

from pymemcache.client.base import Client  # type: ignore[import-untyped]
from pymemcache.exceptions import MemcacheError  # type: ignore[import-untyped]

from senderscore_policy.config.endpoints import Endpoint, Unix
from senderscore_policy.counters.memcached.protocol import Pipeline, Replies, ReplyReader
from senderscore_policy.errors import BackendError

WATCH_TIME: Final = 80e-6
"""Seconds for which the answer of a memcached on this host is watched for before the event loop sleeps."""
_RECEIVE: Final = 64 * 1024


class Connection(Client):  # type: ignore[misc]
    """A connection to one memcached.

    Args:
        address: host and port, or the path of a unix socket.
        seconds: for connecting, and for each answer to pymemcache's own methods.
    """

    sock: socket.socket | None

    def __init__(self, address: tuple[str, int] | str, seconds: float) -> None:
        super().__init__(address, connect_timeout=seconds, timeout=seconds, no_delay=True)
        self._on_this_host = isinstance(address, str) or ip_address(address[0]).is_loopback
        self._loop: asyncio.AbstractEventLoop | None = None
        self._descriptor = -1
        self._poll = select.poll()
        self._reader = ReplyReader(0, values=False)
        self._answer: asyncio.Future[Replies] | None = None
        self._ended = False

    def open(self) -> socket.socket:
        """Connect; blocks.

        Raises:
            OSError: nobody takes the connection.
        """
        self._connect()
        assert self.sock is not None
        return self.sock

    def attach(self) -> None:
        """Let the running event loop read from now on; pymemcache's own methods may not be used any more."""
        assert self.sock is not None
        self.sock.setblocking(False)
        self._loop = asyncio.get_running_loop()
        # By number: asyncio describes a socket object in an error that it then drops, for 30 µs.
        self._descriptor = self.sock.fileno()
        self._poll.register(self._descriptor, select.POLLIN)
        self._loop.add_reader(self._descriptor, self._readable)

    async def exchange(self, order: Pipeline, deadline: float) -> Replies:
        """Send all commands at once and read their replies, until the event loop's clock shows `deadline`.

        Raises:
            OSError: the connection is lost, or there is no time left (TimeoutError).
            BackendError: no sensible reply.
        """
        assert self._loop is not None
        self._reader = ReplyReader(len(order.commands), values=bool(order.keys))
        answer: asyncio.Future[Replies] = self._loop.create_future()
        self._answer = answer
        try:
            await self._send(order.encoded(), deadline)
            if self._on_this_host:
                self._watch(answer)
            if not answer.done():
                alarm = self._loop.call_at(deadline, self._late)
                answer.add_done_callback(lambda _answer: alarm.cancel())
            return await answer
        finally:
            self._answer = None
            if answer.done() and not answer.cancelled():
                # It may be that sending failed first.
                answer.exception()

    def _watch(self, answer: asyncio.Future[Replies]) -> None:
        """Look for the answer again and again for a moment, while other processes may run.

        It is there before a processor has fallen asleep and woken up again: with this a decision takes a
        quarter less time with one connection ("memcached, 1 connection" in benchmarks/).
        """
        end = time.perf_counter() + WATCH_TIME
        while not answer.done() and time.perf_counter() < end:
            os.sched_yield()
            if self._poll.poll(0):
                self._readable()

    async def _send(self, data: bytes, deadline: float) -> None:
        assert self.sock is not None
        assert self._loop is not None
        sent = self.sock.send(data)
        if sent < len(data):
            async with asyncio.timeout_at(deadline):
                await self._loop.sock_sendall(self.sock, data[sent:])

    def _readable(self) -> None:
        """Take in what has arrived."""
        assert self.sock is not None
        try:
            data = self.sock.recv(_RECEIVE)
            replies = self._reader.feed(data)
        except BlockingIOError:
            return
        except (OSError, BackendError) as error:
            self._end(error)
            return
        if not data:
            self._end(BackendError("closed the connection"))
        elif self._answer is None or self._answer.done():
            self._end(BackendError("spoke unasked"))
        elif replies is not None:
            self._answer.set_result(replies)

    def _late(self) -> None:
        """There is no time left. An answer that is there counts all the same: it may be the daemon that was slow."""
        self._readable()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(TimeoutError())

    def _end(self, error: Exception) -> None:
        """Read no more, and let who waits know why."""
        self._ended = True
        self._detach()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def _detach(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._descriptor)
            self._loop = None

    def close(self) -> None:
        """Close it; who waits for an answer has given up."""
        self._detach()
        super().close()

    def is_stale(self) -> bool:
        """Whether the server has closed the connection, or sent what nobody asked for."""
        return self._ended or bool(self._poll.poll(0))


class Server:
    """One memcached.

    Args:
        endpoint: where it listens.
        seconds: for a whole round trip, connecting included.

    Attributes:
        name: its address, as configured.
        fault: why it is down; None while it is up. Set here at the first failure, cleared by who
            has seen that it works again.
    """

    def __init__(self, endpoint: Endpoint, seconds: float) -> None:
        self.name = str(endpoint)
        self.fault: str | None = None
        self._endpoint = endpoint
        self._seconds = seconds
        self._connection: Connection | None = None
        self._free = asyncio.Lock()

    async def exchange(self, order: Pipeline, *, probe: bool = False) -> Replies:
        """Send an order and read the replies, one order after the other.

        What waited behind an order that failed fails at once; only a probe reaches a server that is down.

        Raises:
            BackendError: no server, no time left, or no sensible reply. The connection is closed
                then, so that a late reply is never taken for one to the next order. The commands
                may have been executed: do not send them again.
        """
        async with self._free:
            if self.fault is not None and not probe:
                raise BackendError(self.fault)
            replies = None
            try:
                deadline = asyncio.get_running_loop().time() + self._seconds
                connection = await self._ready(deadline)
                replies = await connection.exchange(order, deadline)
            except (OSError, BackendError) as error:
                self.fault = self._description(error)
                raise BackendError(self.fault) from error
            finally:
                if replies is None:
                    self.close()
            return replies

    async def evictions(self) -> int:
        """Items that the server threw out before their time, since it started (`stats`); over a connection of its own.

        Raises:
            BackendError: as for `exchange`.
        """
        connection = None
        try:
            async with asyncio.timeout(self._seconds):
                connection = await self._dial()
                stats = await asyncio.get_running_loop().run_in_executor(None, connection.stats)
                return int(stats[b"evictions"])
        except (OSError, MemcacheError, LookupError, ValueError) as error:
            raise BackendError(self._description(error)) from error
        finally:
            if connection is not None:
                connection.close()

    def close(self) -> None:
        """Close the connection; the next order opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _ready(self, deadline: float) -> Connection:
        """A connection that works as far as one can see.

        One that the server has closed meanwhile (a restart, its idle_timeout) is replaced before
        anything is sent over it.
        """
        if self._connection is not None and self._connection.is_stale():
            self.close()
        if self._connection is None:
            async with asyncio.timeout_at(deadline):
                self._connection = await self._dial()
            self._connection.attach()
        return self._connection

    async def _dial(self) -> Connection:
        """Connect to the first address that takes the connection.

        pymemcache tries only the first one of a name, and that of "localhost" may be ::1.
        """
        loop = asyncio.get_running_loop()
        if isinstance(self._endpoint, Unix):
            addresses: list[tuple[str, int] | str] = [self._endpoint.path]
        else:
            host, port = self._endpoint.host, self._endpoint.port
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            addresses = [(str(address[0]), port) for *_, address in found]
        failure = OSError("no address")
        for address in addresses:
            connection = Connection(address, self._seconds)
            try:
                await loop.run_in_executor(None, connection.open)
            except OSError as error:
                failure = error
            else:
                return connection
        raise failure

    def _description(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer within {self._seconds:g} s"
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        return str(error) or type(error).__name__
