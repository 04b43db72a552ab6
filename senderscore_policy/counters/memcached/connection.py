"""One memcached server: its connection, one deadline for a whole round trip, and whether it is up.

Pipelines go over one connection without waiting for each other: memcached answers in order. Whatever
the mail does not wait for (statistics, checks of `doctor`) uses pymemcache.
"""

import asyncio
import os
import select
import socket
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing, suppress
from functools import partial
from ipaddress import ip_address
from typing import Final, NamedTuple, TypeVar, cast

from pymemcache.client.base import Client  # type: ignore[import-untyped]
from pymemcache.exceptions import MemcacheError, MemcacheUnexpectedCloseError  # type: ignore[import-untyped]

from senderscore_policy.config.endpoints import Endpoint, Inet, Unix
from senderscore_policy.config.model import CounterSettings
from senderscore_policy.counters.memcached.protocol import Pipeline, Replies, ReplyReader, Unanswered, nonsense
from senderscore_policy.errors import BackendError

WATCH_TIME: Final = 80e-6
"""Seconds for which the answer of a memcached on this host is watched for before the event loop sleeps."""
LATE_ANSWER: Final = 1.0
"""Seconds that a server which is back gets for the answers it still owes."""
_RECEIVE: Final = 64 * 1024
_GRACE: Final = 0.001
"""Seconds in which the event loop reads what has arrived in time."""

T = TypeVar("T")


class _Due(NamedTuple):
    """An answer that the server owes."""

    reader: ReplyReader
    answer: asyncio.Future[Replies]
    unanswered: Unanswered

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Connection(asyncio.Protocol):
    """A connection to one memcached."""

    def __init__(self) -> None:
        self.due: deque[_Due] = deque()
        self._local: socket.socket | None = None
        self._poll = select.poll()
        self.error: Exception | None = None  # why the connection cannot be used any more

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        raw, peer, encrypted = map(transport.get_extra_info, ("socket", "peername", "sslcontext"))
        if not encrypted and (raw.family == socket.AF_UNIX or (peer and ip_address(peer[0]).is_loopback)):
            self._local = socket.socket(fileno=os.dup(raw.fileno()))
            self._poll.register(self._local, select.POLLIN)

    def send(self, pipeline: Pipeline) -> asyncio.Future[Replies]:
        """Send all commands at once; the result comes with their replies."""
        answer: asyncio.Future[Replies] = asyncio.get_running_loop().create_future()
        reader = ReplyReader(len(pipeline.commands), values=bool(pipeline.keys))
        self.due.append(_Due(reader, answer, pipeline.unanswered))
        data = pipeline.encoded()
        if self._local is None or len(self.due) > 1 or self._transport.get_write_buffer_size():
            self._transport.write(data)
        else:
            self._send_at_once(self._local, data)
        return answer

    def _send_at_once(self, local: socket.socket, data: bytes) -> None:
        """Send to this host and wait for the answer for a moment, while other processes may run.

        The answer arrives before a processor has fallen asleep and woken up again. That halves a decision's
        processor time with one connection ("memcached, 1 connection" in benchmarks/).
        """
        try:
            sent = local.send(data)
        except OSError:
            # The transport will find the reason as well.
            sent = 0
        if sent < len(data):
            self._transport.write(data[sent:])
            return
        end = time.perf_counter() + WATCH_TIME
        while self.due and time.perf_counter() < end:
            os.sched_yield()
            if self._poll.poll(0):
                with suppress(OSError):
                    received = local.recv(_RECEIVE)
                    self.data_received(received)
                    if received:
                        continue
                return

    def data_received(self, data: bytes) -> None:
        try:
            while data:
                if not self.due:
                    raise nonsense(data)
                replies = self.due[0].reader.feed(data)
                if replies is None:
                    return
                data = self.due[0].reader.rest
                if data and len(self.due) == 1:
                    raise nonsense(data)
                due = self.due.popleft()
                if due.answer.done():
                    due.unanswered(replies)
                else:
                    due.answer.set_result(replies)
        except BackendError as error:
            self.end(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(exc or BackendError("closed the connection"))

    def give_up(self, answer: asyncio.Future[Replies]) -> None:
        """End the waiting for all answers if this one is late; they are still read."""
        if not answer.done():
            self.error = TimeoutError()
            for due in self.due:
                due.fail(self.error)

    def end(self, error: Exception) -> None:
        """Close the connection; there will be no answers."""
        self.error = error
        raw = self._transport.get_extra_info("socket")
        if self.due and raw is not None and raw.fileno() >= 0:
            # The kernel drops what it has not sent yet: it must not be executed after all (SO_LINGER, socket(7)).
            with suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self._transport.abort()
        if self._local is not None:
            self._local.close()
            self._local = None
        while self.due:
            due = self.due.popleft()
            due.fail(error)
            due.unanswered(None)


class Server:
    """One memcached.

    Attributes:
        fault: why it is down; None while it is up. Set on the first failure; the caller clears it
            once the server works again.
        owed: refunds by key that the next batch is to take along. They do not pile up: while the server is away,
            these are the refunds of requests that were in hand when it failed.
    """

    def __init__(self, endpoint: Endpoint, settings: CounterSettings, owed: Counter[bytes] | None = None) -> None:
        self.name = str(endpoint)
        self.endpoint = endpoint
        self.fault: str | None = None
        self.owed: Counter[bytes] = Counter() if owed is None else owed
        self._retired = False
        self._settings = settings
        self._connection: Connection | None = None
        self._late: set[Connection] = set()
        self._connecting = asyncio.Lock()
        self._addresses: Future[list[str]] | None = None

    async def exchange(self, pipeline: Pipeline, *, probe: bool = False) -> Replies:
        """Send a pipeline and read the replies. Only a probe reaches a server that is down.

        BackendError: no server, no time left, or no sensible reply. The connection is not used any more, so that a
        late reply is never taken for the reply to another pipeline. The commands may have been executed: do not send
        them again.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.timeout
        connection = self._connection
        try:
            if connection is None or connection.error is not None or self.fault is not None:
                connection = await self._connect(deadline, probe=probe)
        except (OSError, BackendError) as error:
            self.fault = description(error, self._settings)
            pipeline.unanswered(None)
            raise BackendError(self.fault) from error
        answer = connection.send(pipeline)
        if answer.done() and not answer.exception():
            return answer.result()
        alarm = loop.call_at(deadline, loop.call_later, _GRACE, connection.give_up, answer)
        try:
            return await answer
        except (OSError, BackendError) as error:
            self.fault = description(error, self._settings)
            if isinstance(error, TimeoutError) and self._connection is connection:
                self._connection = None
                self._late.add(connection)
                if probe:
                    self._drop(connection)
            raise BackendError(self.fault) from error
        finally:
            alarm.cancel()
            if self._retired and not connection.due:
                self.close()

    def works(self) -> None:
        """The server is up. Answers that it still owes are lost if they do not come soon."""
        self.fault = None
        for connection in self._late:
            asyncio.get_running_loop().call_later(LATE_ANSWER, self._drop, connection)

    def _drop(self, connection: Connection) -> None:
        self._late.discard(connection)
        connection.end(BackendError("no answer"))

    async def evictions(self) -> int | None:
        """Items that the server has evicted since it started; None if it does not say in time."""
        with suppress(OSError, MemcacheError):
            async with asyncio.timeout(self._settings.timeout):
                return await asyncio.wrap_future(_in_thread(partial(evictions, self.endpoint, self._settings)))
        return None

    def retire(self) -> None:
        """From now on close each connection once the server owes no answer."""
        self._retired = True
        if self._connection is None or not self._connection.due:
            self.close()

    def close(self) -> None:
        """Close all connections; the next pipeline opens a new one."""
        if self._connection is not None:
            self._connection.end(BackendError("closed"))
            self._connection = None
        for connection in [*self._late]:
            self._drop(connection)

    async def _connect(self, deadline: float, *, probe: bool) -> Connection:
        async with self._connecting:
            if self.fault is not None and not probe:
                raise BackendError(self.fault)
            if self._connection is None or self._connection.error is not None:
                async with asyncio.timeout_at(deadline):
                    self._connection = await self._dial()
            return self._connection

    async def _dial(self) -> Connection:
        """Connect to the first address that accepts the connection: that of "localhost" may be ::1."""
        loop = asyncio.get_running_loop()
        if isinstance(self.endpoint, Unix):
            return (await loop.create_unix_connection(Connection, self.endpoint.path))[1]
        port, tls = self.endpoint.port, tls_context(self._settings)
        name = self.endpoint.host if tls else None
        failure = OSError("no address")
        for address in await self._resolve(self.endpoint):
            try:
                return (await loop.create_connection(Connection, address, port, ssl=tls, server_hostname=name))[1]
            except OSError as error:
                failure = error
        raise failure

    async def _resolve(self, endpoint: Inet) -> list[str]:
        """The addresses of the host; a resolver that is silent is asked by one thread at a time."""
        with suppress(ValueError):
            return [str(ip_address(endpoint.host))]
        if self._addresses is None or self._addresses.done():
            resolve = partial(socket.getaddrinfo, endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
            self._addresses = _in_thread(lambda: [str(address[0]) for *_, address in resolve()])
        return await asyncio.wrap_future(self._addresses)


def description(error: Exception, settings: CounterSettings) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {settings.timeout:g} s"
    if isinstance(error, MemcacheUnexpectedCloseError):
        return "closed the connection"
    if isinstance(error, MemcacheError):
        return f"answered {error}"
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
    return str(error) or type(error).__name__


def client(endpoint: Endpoint, settings: CounterSettings) -> Client:
    """A client of pymemcache, for what no mail waits for; OSError: no server, or a file for TLS cannot be used."""
    server = endpoint.path if isinstance(endpoint, Unix) else (endpoint.host, endpoint.port)
    if isinstance(server, tuple) and not settings.tls_ca:
        # pymemcache tries only the first address of a name, and that of "localhost" may be ::1.
        with socket.create_connection(server, settings.timeout) as trial:
            server = trial.getpeername()[:2]
    return Client(server, connect_timeout=settings.timeout, timeout=settings.timeout, tls_context=tls_context(settings))


def evictions(endpoint: Endpoint, settings: CounterSettings) -> int:
    """Items that the server has evicted since it started (`stats`); blocks. OSError, MemcacheError: it does not say."""
    with closing(client(endpoint, settings)) as memcached:
        try:
            return int(memcached.stats()[b"evictions"])
        except (LookupError, ValueError) as error:
            raise MemcacheError("it does not say how many items it has evicted") from error


def tls_context(settings: CounterSettings) -> ssl.SSLContext | None:
    """How to talk TLS to memcached, from the files as they are now; None: in the clear. OSError: a file is unusable."""
    if not settings.tls_ca:
        return None
    context = ssl.create_default_context(cafile=settings.tls_ca)
    if settings.tls_certificate:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    return context


def _in_thread(work: Callable[[], T]) -> Future[T]:
    """The result of blocking work in a thread of its own.

    The event loop's own threads are few, and the end of the process waits for them.
    """
    result: Future[T] = Future()
    result.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result.set_result(work())
        except (OSError, MemcacheError) as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return result
