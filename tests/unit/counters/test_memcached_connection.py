"""One connection to a memcached that may do anything."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fakes import FakeMemcached, Script, listening

from senderscore_policy.config.endpoints import Inet, Unix
from senderscore_policy.counters.memcached import connection as memcached
from senderscore_policy.counters.memcached.connection import Server
from senderscore_policy.counters.memcached.protocol import Pipeline, Replies, add, incr
from senderscore_policy.errors import BackendError

PLENTY = 20.0
"""Seconds that no test waits for, on however slow a machine."""
SOON = 0.1
COUNT = Pipeline([incr(b"k", 1)], [])


def with_server(tmp_path: Path, script: Script, test: Callable[[Server], Awaitable[None]], seconds: float) -> None:
    """Run the test against a server that follows the script."""

    async def main() -> None:
        async with listening(script, tmp_path / "m") as endpoint:
            server = Server(endpoint, seconds)
            try:
                await test(server)
            finally:
                server.close()

    asyncio.run(main())


def answering(reply: bytes, *, byte_by_byte: bool = False, then_close: bool = False) -> Script:
    """A script that gives this reply to whatever arrives."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            for piece in [reply[n : n + 1] for n in range(len(reply))] if byte_by_byte else [reply]:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if then_close:
                return

    return script


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """A script that reads and never answers."""
    while await reader.read(65536):
        pass


async def deaf(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A script that does not even read."""
    writer.transport.pause_reading()
    await asyncio.Event().wait()


async def failure(server: Server, order: Pipeline = COUNT) -> str:
    """What the server's failure is called."""
    with pytest.raises(BackendError) as error:
        await server.exchange(order)
    return str(error.value)


def test_a_reply_in_single_bytes_is_a_reply(tmp_path: Path) -> None:
    """It does not matter how the network cuts it."""
    reply = b"7\r\nCLIENT_ERROR cannot increment\r\nSTORED\r\nVALUE k 0 3\r\n99 \r\nEND\r\n"

    async def test(server: Server) -> None:
        order = Pipeline([incr(b"a", 1), incr(b"b", 1), add(b"c", 0, 60)], [b"k"])
        assert await server.exchange(order) == (
            [b"7", b"CLIENT_ERROR cannot increment", b"STORED"],
            {b"k": b"99 "},
        )
        assert server.fault is None

    with_server(tmp_path, answering(reply, byte_by_byte=True), test, PLENTY)


def test_an_answer_that_comes_at_once_is_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a memcached on the same host nothing else is done between the order and its replies."""
    monkeypatch.setattr(memcached, "WATCH_TIME", PLENTY)

    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            while connection.recv(65536):
                connection.sendall(b"7\r\n")

    async def test(port: int) -> None:
        with contextlib.closing(Server(Inet("127.0.0.1", port), PLENTY)) as server:
            await server.exchange(COUNT)
            between: list[str] = []
            asyncio.get_running_loop().call_soon(between.append, "the event loop")
            assert await server.exchange(COUNT) == ([b"7"], {})
            assert between == []

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as thread:
        thread.submit(answer, listener)
        asyncio.run(test(listener.getsockname()[1]))


def test_a_large_order_is_sent_whole(tmp_path: Path) -> None:
    """Also what does not fit into the socket's buffer at once."""
    keys = [b"ssp:10.0.%d.%d:3600.12:3334" % (n // 256, n % 256) for n in range(10_000)]

    async def test(server: Server) -> None:
        commands = [add(key, 7, 60) for key in keys]
        replies = await server.exchange(Pipeline(commands, keys))
        assert replies == Replies([b"STORED"] * len(keys), dict.fromkeys(keys, b"7"))

    with_server(tmp_path, FakeMemcached().serve, test, PLENTY)


@pytest.mark.parametrize("script", [silent, deaf, answering(b""), answering(b"12")])
def test_no_answer_is_waited_for_only_so_long(tmp_path: Path, script: Script) -> None:
    """Silence and half an answer end with the timeout, also when there is too much to send."""

    async def test(server: Server) -> None:
        order = Pipeline([incr(b"k" * 200, 1)] * 20_000, [])
        assert await failure(server, order) == "no answer within 0.1 s"
        assert server.fault == "no answer within 0.1 s"

    with_server(tmp_path, script, test, SOON)


def test_the_timeout_is_for_the_whole_answer(tmp_path: Path) -> None:
    """A server that sends a byte now and then for ever does not get more time by it."""

    async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(b"VALUE k 0 999999999\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0)

    async def test(server: Server) -> None:
        assert await failure(server, Pipeline([], [b"k"])) == "no answer within 0.1 s"

    with_server(tmp_path, dripping, test, SOON)


def test_an_answer_that_is_there_counts_although_this_process_was_late(tmp_path: Path) -> None:
    """When the daemon itself was held up, a server that answered in time is not blamed."""

    async def test(server: Server) -> None:
        await server.exchange(COUNT)
        loop = asyncio.get_running_loop()
        exchange = asyncio.create_task(server.exchange(COUNT))
        asyncio.get_running_loop().call_soon(loop.call_soon, time.sleep, 3 * SOON)
        assert (await exchange).lines == [b"7"]

    with_server(tmp_path, answering(b"7\r\n"), test, SOON)


@pytest.mark.parametrize("reply", [b"", b"12", b"VALUE k 0 10\r\n123"])
def test_a_connection_lost_in_an_answer_is_a_failure(tmp_path: Path, reply: bytes) -> None:
    """Whatever of the answer had come; the commands are not sent again."""
    orders = 0

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal orders
        orders += 1
        await reader.read(65536)
        writer.write(reply)

    async def test(server: Server) -> None:
        assert await failure(server, Pipeline([], [b"k"])) in {"closed the connection", "answered b'12'"}
        assert orders == 1

    with_server(tmp_path, closing, test, PLENTY)


@pytest.mark.parametrize(
    "reply", [b"ERROR\r\n", b"hello\r\n", b"7\r\n8\r\n", b"SERVER_ERROR Connection refused\r\n", b"\0" * 4000]
)
def test_nonsense_is_a_failure_at_once(tmp_path: Path, reply: bytes) -> None:
    """A server that answers something else is not waited for."""

    async def test(server: Server) -> None:
        assert (await failure(server)).startswith("answered b'")

    with_server(tmp_path, answering(reply), test, PLENTY)


def test_a_late_answer_is_never_taken_for_the_next_one(tmp_path: Path) -> None:
    """After a timeout the connection is closed: what arrives then belongs to nobody."""
    connections = 0
    failed = asyncio.Event()

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        number = connections
        while await reader.read(65536):
            if number == 1:
                await failed.wait()
            writer.write(b"%d\r\n" % number)

    async def test(server: Server) -> None:
        await failure(server)
        failed.set()
        assert (await server.exchange(COUNT, probe=True)).lines == [b"2"]

    with_server(tmp_path, late, test, SOON)


def test_what_waited_behind_a_failure_fails_with_it(tmp_path: Path) -> None:
    """A server that is down costs one timeout, not one for each batch in hand."""
    orders = 0

    async def counting(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        nonlocal orders
        while await reader.read(65536):
            orders += 1

    async def test(server: Server) -> None:
        failures = await asyncio.gather(*(failure(server) for _ in range(20)))
        assert set(failures) == {"no answer within 1 s"}
        assert orders == 1
        assert await failure(server) == "no answer within 1 s"
        assert orders == 1

    # Long enough to connect on a busy machine.
    with_server(tmp_path, counting, test, 1.0)


@pytest.mark.parametrize("farewell", [b"", b"ERROR\r\n"])
def test_a_connection_closed_while_idle_is_replaced(tmp_path: Path, farewell: bytes) -> None:
    """A restarted memcached, or one with an idle timeout, is no failure; nor is a word that nobody asked for."""
    answered, parted = asyncio.Event(), asyncio.Event()

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(b"7\r\n")
        await answered.wait()
        if farewell:
            writer.write(farewell)
            await writer.drain()
            parted.set()
            await reader.read(65536)
        else:
            writer.transport.abort()
            parted.set()

    async def test(server: Server) -> None:
        for _ in range(3):
            answered.clear()
            parted.clear()
            assert (await server.exchange(COUNT)).lines == [b"7"]
            answered.set()
            await parted.wait()

    with_server(tmp_path, once, test, PLENTY)


def test_an_order_given_up_does_not_spoil_the_next(tmp_path: Path) -> None:
    """Who stops waiting takes the connection with him; the server is not down by that."""
    arrived = asyncio.Event()
    connections = 0

    async def slow_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.read(65536)
        arrived.set()
        if connections == 1:
            await reader.read(65536)
        else:
            writer.write(b"7\r\n")
            await reader.read(65536)

    async def test(server: Server) -> None:
        given_up = asyncio.create_task(server.exchange(COUNT))
        await arrived.wait()
        given_up.cancel()
        await asyncio.wait([given_up])
        assert (await server.exchange(COUNT)).lines == [b"7"]
        assert server.fault is None

    with_server(tmp_path, slow_first, test, PLENTY)


@pytest.mark.parametrize("endpoint", [Unix("/nonexistent/memcached.sock"), Inet("127.0.0.1", 1)])
def test_a_server_that_is_not_there_fails_at_once(endpoint: Unix | Inet) -> None:
    """The reason is the system's own words."""

    async def main() -> None:
        assert await failure(Server(endpoint, PLENTY)) in {"No such file or directory", "Connection refused"}

    asyncio.run(main())


def test_a_name_is_tried_with_all_its_addresses() -> None:
    """The name localhost may mean ::1 first, where nobody listens."""

    async def main() -> None:
        async with listening(FakeMemcached().serve) as endpoint:
            assert isinstance(endpoint, Inet)
            server = Server(Inet("localhost", endpoint.port), PLENTY)
            assert (await server.exchange(COUNT)).lines == [b"NOT_FOUND"]
            server.close()

    asyncio.run(main())


def test_evictions_are_read_from_the_statistics(tmp_path: Path) -> None:
    """Among the many figures of `stats`; a server that has none is an error, whatever it says instead."""
    stats = b"STAT pid 1\r\nSTAT version 1.6.18\r\nSTAT evictions 12\r\nEND\r\n"

    async def test(server: Server) -> None:
        assert await server.evictions() == 12

    async def fails(server: Server) -> None:
        with pytest.raises(BackendError):
            await server.evictions()

    with_server(tmp_path, answering(stats), test, PLENTY)
    for reply in (b"END\r\n", b"ERROR\r\n", b"STAT\r\nEND\r\n", b"STAT evictions many\r\nEND\r\n"):
        with_server(tmp_path, answering(reply), fails, PLENTY)
    with_server(tmp_path, answering(b"", then_close=True), fails, PLENTY)
    with_server(tmp_path, silent, fails, SOON)
