"""Policy connections over a socket pair, with a test in the place of the engine."""

import asyncio
import contextlib
import os
import socket

import pytest

from senderscore_policy.monitoring.statistics import Histogram
from senderscore_policy.server import connections as server_module
from senderscore_policy.server.connections import MAX_IN_HAND, ConnectionRequest, PolicyConnection, PolicyServer

REQUEST = b"request=smtpd_access_policy\nclient_address=192.0.2.75\n\n"


class Desk:
    """A server whose requests wait until the test answers them."""

    def __init__(self, max_connections: int = 10, idle_timeout: float = 1000) -> None:
        self.pending: asyncio.Queue[ConnectionRequest] = asyncio.Queue()
        self.server = PolicyServer(self.pending.put_nowait, Histogram((1.0,)), max_connections, idle_timeout)

    def answer(self, request: ConnectionRequest, action: str = "DUNNO") -> None:
        """Answer a request as a batch of its own."""
        request.answer(action)
        self.server.send_replies()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A client's end of a new connection."""
        ours, theirs = socket.socketpair()
        await asyncio.get_running_loop().connect_accepted_socket(lambda: PolicyConnection(self.server), ours)
        return await asyncio.open_connection(sock=theirs)


async def test_replies_keep_their_order() -> None:
    """Answers found out of order are sent in the order of the requests."""
    desk = Desk()
    reader, writer = await desk.connect()
    writer.write(REQUEST * 3)
    first, second, third = [await desk.pending.get() for _ in range(3)]
    desk.answer(third, "3")
    desk.answer(second, "2")
    desk.answer(first, "1")
    assert await reader.readexactly(30) == b"action=1\n\naction=2\n\naction=3\n\n"
    writer.close()


async def test_a_half_closed_connection_gets_its_reply() -> None:
    """A client that shuts down its sending side still reads the reply, then the end."""
    desk = Desk()
    reader, writer = await desk.connect()
    writer.write(REQUEST)
    writer.write_eof()
    request = await desk.pending.get()
    while not request.connection.ending:  # noqa: ASYNC110
        await asyncio.sleep(0)
    desk.answer(request)
    assert await reader.read() == b"action=DUNNO\n\n"
    writer.close()


async def test_malformed_is_disconnected_without_a_reply() -> None:
    """After a malformed request comes the end; the sound request before it is still answered."""
    desk = Desk()
    reader, writer = await desk.connect()
    writer.write(REQUEST + b"nonsense\n\n" + REQUEST)
    desk.answer(await desk.pending.get())
    assert await reader.read() == b"action=DUNNO\n\n"
    assert desk.pending.empty()
    assert desk.server.counts.malformed == 1
    writer.close()
    reader, writer = await desk.connect()
    writer.write(b"nonsense\n\n")
    assert await reader.read() == b""
    writer.close()


async def _stuck(desk: Desk) -> tuple[socket.socket, PolicyConnection]:
    """A peer that sends requests and reads no reply."""
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    _, connection = await loop.connect_accepted_socket(lambda: PolicyConnection(desk.server), ours)
    theirs.setblocking(False)
    while connection._writable:
        with contextlib.suppress(BlockingIOError):
            theirs.send(REQUEST * 10)
        await asyncio.sleep(0)
        while not desk.pending.empty():
            desk.answer(desk.pending.get_nowait(), "421 " + 400 * "x")
    return theirs, connection


async def test_who_reads_no_replies_does_not_keep_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a peer is closed at once for a newcomer, and for a request that it does not complete."""
    monkeypatch.setattr(server_module, "SWEEP_INTERVAL", 0)
    desk = Desk(max_connections=1)
    peer, stuck = await _stuck(desk)
    with peer:
        _, writer = await desk.connect()
        assert len(desk.server.connections) == 1
        assert stuck._transport.is_closing()
        assert stuck._transport.get_write_buffer_size() == 0
    writer.close()
    desk = Desk()
    peer, stuck = await _stuck(desk)
    stuck.begun_at = desk.server.now() - server_module.REQUEST_TIME - 1
    with peer:
        sweeping = asyncio.ensure_future(desk.server.sweep())
        while desk.server.connections:  # noqa: ASYNC110
            await asyncio.sleep(0)
        sweeping.cancel()
    assert desk.server.counts.malformed == 1


async def test_what_a_leaving_peer_does_not_take_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is ending, and whose peer reads nothing for REQUEST_TIME, is closed once."""
    monkeypatch.setattr(server_module, "SWEEP_INTERVAL", 0)
    desk = Desk()
    peer, stuck = await _stuck(desk)
    with peer:
        stuck.eof_received()
        sweeping = asyncio.ensure_future(desk.server.sweep())
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(desk.server.connections) == 1
        stuck.active_at -= server_module.REQUEST_TIME + 1
        while desk.server.connections:  # noqa: ASYNC110
            await asyncio.sleep(0)
        sweeping.cancel()
    assert desk.server.counts == server_module.ConnectionCounts(accepted=1)


async def test_an_unforeseen_error_ends_the_connection_alone() -> None:
    """An error in one request drops its connection without a reply; another connection is served."""
    desk = Desk()
    reader, writer = await desk.connect()
    other_reader, other_writer = await desk.connect()
    writer.write(REQUEST)
    (await desk.pending.get()).fail(ZeroDivisionError())
    assert await reader.read() == b""
    other_writer.write(REQUEST)
    desk.answer(await desk.pending.get())
    assert await other_reader.readexactly(14) == b"action=DUNNO\n\n"
    assert desk.server.counts.failed == 1
    writer.close()
    other_writer.close()


async def test_a_newcomer_replaces_the_longest_idle() -> None:
    """At max_connections the connection longest without a request in hand is closed: no newcomer, no busy one."""
    desk = Desk(max_connections=2)
    busy_reader, busy_writer = await desk.connect()
    busy_writer.write(REQUEST)
    request = await desk.pending.get()
    idle_reader, idle_writer = await desk.connect()
    new_reader, new_writer = await desk.connect()
    assert await idle_reader.read() == b""
    desk.answer(request)
    assert await busy_reader.readexactly(14) == b"action=DUNNO\n\n"
    new_writer.write(REQUEST)
    desk.answer(await desk.pending.get())
    assert await new_reader.readexactly(14) == b"action=DUNNO\n\n"
    assert desk.server.counts.closed_for_newcomer == 1
    for writer in (busy_writer, idle_writer, new_writer):
        writer.close()


async def test_silence_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is not completed in 30 s and a connection idle for idle_timeout are closed."""
    monkeypatch.setattr(server_module, "SWEEP_INTERVAL", 0)
    desk = Desk(idle_timeout=100)
    now = 1000.0
    desk.server.now = lambda: now
    slow_reader, slow_writer = await desk.connect()
    slow_writer.write(b"request=smtpd_access_policy\n")
    (slow,) = desk.server.connections
    while slow.begun_at is None:  # noqa: ASYNC110
        await asyncio.sleep(0)
    idle_reader, idle_writer = await desk.connect()
    sweeping = asyncio.create_task(desk.server.sweep())
    now += 31
    assert await slow_reader.read() == b""
    assert not idle_reader.at_eof()
    now += 70
    assert await idle_reader.read() == b""
    sweeping.cancel()
    slow_writer.close()
    idle_writer.close()


async def test_a_flood_on_one_connection_is_bounded() -> None:
    """A client that sends without end is not read any further while its requests are in hand, and goes on after."""
    desk = Desk()
    reader, writer = await desk.connect()
    total = 20 * MAX_IN_HAND
    writer.write(REQUEST * total)
    answered = 0
    while answered < total:
        batch = [await desk.pending.get()]
        assert len(batch[0].connection.in_hand) <= MAX_IN_HAND
        batch += [desk.pending.get_nowait() for _ in range(desk.pending.qsize())]
        for request in batch:
            request.answer("DUNNO")
        desk.server.send_replies()
        answered += len(batch)
    assert await reader.readexactly(total * 14) == b"action=DUNNO\n\n" * total
    writer.close()


async def test_the_stop_hands_over_what_is_quiet() -> None:
    """Connections without a begun, an unanswered or an unread request are handed over; closing does not end them."""
    desk = Desk()
    quiet_reader, quiet_writer = await desk.connect()
    half_reader, half_writer = await desk.connect()
    busy_reader, busy_writer = await desk.connect()
    flooded_reader, flooded_writer = await desk.connect()
    _, half, *_ = desk.server.connections
    half_writer.write(REQUEST[:20])
    flooded_writer.write(REQUEST * (MAX_IN_HAND + 1))
    busy_writer.write(REQUEST)
    pending = [await desk.pending.get() for _ in range(MAX_IN_HAND + 1)]
    while half.begun_at is None:  # noqa: ASYNC110
        await asyncio.sleep(0)
    desk.server.stop()
    quiet_writer.write(REQUEST)
    for request in pending:
        desk.answer(request)
    assert desk.pending.empty()
    stored: list[socket.socket] = []
    desk.server.close(lambda descriptors: stored.extend(socket.socket(fileno=os.dup(each)) for each in descriptors))
    assert await busy_reader.readexactly(14) == b"action=DUNNO\n\n"
    assert [await reader.read() for reader in (half_reader, flooded_reader)] == [b"", b"action=DUNNO\n\n" * MAX_IN_HAND]
    while desk.server.connections:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert len(stored) == 2
    assert stored[0].recv(1000) == REQUEST
    stored[0].sendall(b"action=DUNNO\n\n")
    assert await quiet_reader.readexactly(14) == b"action=DUNNO\n\n"
    for connection in stored:
        connection.close()
    assert [await reader.read() for reader in (quiet_reader, busy_reader)] == [b"", b""]
    for writer in (quiet_writer, half_writer, busy_writer, flooded_writer):
        writer.close()


async def test_a_connection_of_the_process_before_keeps_its_place() -> None:
    """At max_connections the daemon closes a connection that never asked before one that was handed over."""
    desk = Desk(max_connections=2)
    ours, theirs = socket.socketpair()
    await asyncio.get_running_loop().connect_accepted_socket(lambda: PolicyConnection(desk.server, served=True), ours)
    reader, writer = await asyncio.open_connection(sock=theirs)
    silent_reader, silent_writer = await desk.connect()
    _, new_writer = await desk.connect()
    assert await silent_reader.read() == b""
    writer.write(REQUEST)
    desk.answer(await desk.pending.get())
    assert await reader.readexactly(14) == b"action=DUNNO\n\n"
    for each in (writer, silent_writer, new_writer):
        each.close()
