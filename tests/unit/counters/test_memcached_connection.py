"""One connection to a memcached that may do anything."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fakes import FakeMemcached, Script, listening

from senderscore_policy.config.endpoints import Inet, Unix
from senderscore_policy.config.model import CounterSettings
from senderscore_policy.counters.memcached.connection import Server
from senderscore_policy.counters.memcached.protocol import Pipeline, Replies, add, incr
from senderscore_policy.errors import BackendError

PLENTY = 20.0
"""Seconds that no test waits for, on however slow a machine."""
SOON = 0.1
COUNT = Pipeline([incr(b"k", 1)], [])


@asynccontextmanager
async def served(tmp_path: Path, script: Script, seconds: float) -> AsyncIterator[Server]:
    """A server that follows the script, as the daemon sees it."""
    async with listening(script, tmp_path / "m") as endpoint:
        with contextlib.closing(Server(endpoint, CounterSettings(timeout=seconds))) as server:
            yield server


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


async def test_a_reply_in_single_bytes_is_a_reply(tmp_path: Path) -> None:
    """It does not matter how the network cuts it."""
    reply = b"7\r\nCLIENT_ERROR cannot increment\r\nSTORED\r\nVALUE k 0 3\r\n99 \r\nEND\r\n"

    async with served(tmp_path, answering(reply, byte_by_byte=True), PLENTY) as server:
        order = Pipeline([incr(b"a", 1), incr(b"b", 1), add(b"c", 0, 60)], [b"k"])
        assert await server.exchange(order) == (
            [b"7", b"CLIENT_ERROR cannot increment", b"STORED"],
            {b"k": b"99 "},
            {},
        )
        assert server.fault is None


async def test_a_large_order_is_sent_whole(tmp_path: Path) -> None:
    """Also what does not fit into the socket's buffer at once."""
    keys = [b"ssp:10.0.%d.%d:3600.12:3334" % (n // 256, n % 256) for n in range(10_000)]

    async with served(tmp_path, FakeMemcached().serve, PLENTY) as server:
        commands = [add(key, 7, 60) for key in keys]
        replies = await server.exchange(Pipeline(commands, keys))
        assert replies == Replies([b"STORED"] * len(keys), dict.fromkeys(keys, b"7"), {})


@pytest.mark.parametrize("script", [silent, deaf, answering(b""), answering(b"12")])
async def test_no_answer_is_waited_for_only_so_long(tmp_path: Path, script: Script) -> None:
    """Silence and half an answer end with the timeout, also when there is too much to send."""
    async with served(tmp_path, script, SOON) as server:
        order = Pipeline([incr(b"k" * 200, 1)] * 20_000, [])
        assert await failure(server, order) == "no answer within 0.1 s"
        assert server.fault == "no answer within 0.1 s"


async def test_the_timeout_is_for_the_whole_answer(tmp_path: Path) -> None:
    """A server that sends a byte now and then for ever does not get more time by it."""

    async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(b"VALUE k 0 999999999\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0)

    async with served(tmp_path, dripping, SOON) as server:
        assert await failure(server, Pipeline([], [b"k"])) == "no answer within 0.1 s"


async def test_an_answer_that_is_there_counts_although_this_process_was_late(tmp_path: Path) -> None:
    """When the daemon itself was held up, a server that answered in time is not blamed."""
    async with served(tmp_path, answering(b"7\r\n"), SOON) as server:
        await server.exchange(COUNT)
        loop = asyncio.get_running_loop()
        exchange = asyncio.create_task(server.exchange(COUNT))
        asyncio.get_running_loop().call_soon(loop.call_soon, time.sleep, 3 * SOON)
        assert (await exchange).lines == [b"7"]


@pytest.mark.parametrize("reply", [b"", b"12", b"VALUE k 0 10\r\n123"])
async def test_a_connection_lost_in_an_answer_is_a_failure(tmp_path: Path, reply: bytes) -> None:
    """Whatever of the answer had come; the commands are not sent again."""
    orders = 0

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal orders
        orders += 1
        await reader.read(65536)
        writer.write(reply)

    async with served(tmp_path, closing, PLENTY) as server:
        assert await failure(server, Pipeline([], [b"k"])) in {"closed the connection", "answered b'12'"}
        assert orders == 1


@pytest.mark.parametrize(
    "reply", [b"ERROR\r\n", b"hello\r\n", b"7\r\n8\r\n", b"SERVER_ERROR Connection refused\r\n", b"\0" * 4000]
)
async def test_nonsense_is_a_failure_at_once(tmp_path: Path, reply: bytes) -> None:
    """A server that answers something else is not waited for."""
    async with served(tmp_path, answering(reply), PLENTY) as server:
        assert (await failure(server)).startswith("answered b'")


async def test_a_late_answer_is_never_taken_for_the_next_one(tmp_path: Path) -> None:
    """After a timeout the connection is closed: a late reply answers no other command."""
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

    async with served(tmp_path, late, SOON) as server:
        await failure(server)
        failed.set()
        assert (await server.exchange(COUNT, probe=True)).lines == [b"2"]


async def test_what_waited_beside_a_failure_fails_with_it(tmp_path: Path) -> None:
    """A server that is down costs one timeout, not one for each pipeline; nothing more is sent to it."""
    received = 0

    async def counting(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        nonlocal received
        while data := await reader.read(65536):
            received += len(data)

    # Long enough to connect on a busy machine.
    async with served(tmp_path, counting, 1.0) as server:
        failures = await asyncio.gather(*(failure(server) for _ in range(20)))
        assert set(failures) == {"no answer within 1 s"}
        assert received == 20 * len(COUNT.encoded())
        assert await failure(server) == "no answer within 1 s"
        assert received == 20 * len(COUNT.encoded())


async def test_pipelines_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """Each gets its own replies, although all are sent before the first answer comes."""
    together = Pipeline([incr(b"k", 1)] * 2, [b"k"])
    async with served(tmp_path, patient(len(together.encoded()) * 3), PLENTY) as server:
        exchanges = [server.exchange(together) for _ in range(3)]
        assert [replies.lines for replies in await asyncio.gather(*exchanges)] == [
            *([b"1", b"2"], [b"3", b"4"], [b"5", b"6"])
        ]


def patient(size: int) -> Script:
    """A script that answers once this number of bytes has arrived."""
    fake = FakeMemcached()
    fake.items[b"k"] = b"0"

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(fake.answer(await reader.readexactly(size)))
        await reader.read()

    return script


async def test_a_late_answer_is_reported(tmp_path: Path) -> None:
    """Who sent the pipeline learns what the server did after all, also once a new connection is in use."""
    outcomes: list[Replies | None] = []
    reported = asyncio.Event()

    def unanswered(replies: Replies | None) -> None:
        outcomes.append(replies)
        reported.set()

    failed = asyncio.Event()

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            await failed.wait()
            writer.write(b"7\r\n")

    async with served(tmp_path, late, SOON) as server:
        with pytest.raises(BackendError):
            await server.exchange(COUNT._replace(unanswered=unanswered))
        assert outcomes == []
        failed.set()
        await server.exchange(COUNT, probe=True)
        server.works()
        await reported.wait()
        assert outcomes == [([b"7"], {}, {})]


@pytest.mark.parametrize("script", [silent, answering(b"12", then_close=True), answering(b"ERROR\r\n")])
async def test_a_pipeline_without_an_answer_is_reported_once(
    tmp_path: Path, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the connection is lost at once; or when the server works again and an answer to it is still missing."""
    monkeypatch.setattr("senderscore_policy.counters.memcached.connection.LATE_ANSWER", 0.0)
    outcomes: list[Replies | None] = []
    reported = asyncio.Event()

    def unanswered(replies: Replies | None) -> None:
        outcomes.append(replies)
        reported.set()

    async with served(tmp_path, script, SOON) as server:
        with pytest.raises(BackendError):
            await server.exchange(COUNT._replace(unanswered=unanswered))
        server.works()
        await reported.wait()
    assert outcomes == [None]


@pytest.mark.parametrize("farewell", [b"", b"ERROR\r\n"])
async def test_a_connection_closed_while_idle_is_replaced(tmp_path: Path, farewell: bytes) -> None:
    """A restarted memcached, or one with an idle timeout, is not a failure; nor is an unexpected word."""
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

    async with served(tmp_path, once, PLENTY) as server:
        for _ in range(3):
            answered.clear()
            parted.clear()
            assert (await server.exchange(COUNT)).lines == [b"7"]
            answered.set()
            await parted.wait()
            for _ in range(3):
                # The event loop reads what has arrived.
                await asyncio.sleep(0)


async def test_a_pipeline_given_up_does_not_spoil_the_next(tmp_path: Path) -> None:
    """The connection stays in use, and the next pipeline gets its own answer."""
    arrived, given_up = asyncio.Event(), asyncio.Event()
    connections = 0

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        number = 0
        while data := await reader.read(65536):
            arrived.set()
            await given_up.wait()
            for _ in range(data.count(b"incr")):
                number += 1
                writer.write(b"%d\r\n" % number)

    async with served(tmp_path, slow, PLENTY) as server:
        exchange = asyncio.create_task(server.exchange(COUNT))
        await arrived.wait()
        exchange.cancel()
        await asyncio.wait([exchange])
        given_up.set()
        assert (await server.exchange(COUNT)).lines == [b"2"]
        assert server.fault is None
    assert connections == 1


async def test_a_retired_server_keeps_no_idle_connection(tmp_path: Path) -> None:
    """What is in hand is still answered, and a later refund still reaches it; each connection is closed after that."""
    closed: list[int] = []
    gone = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(b"7\r\n")
        closed.append(1)
        gone.set()

    async with served(tmp_path, script, PLENTY) as server:
        await server.exchange(COUNT)
        in_hand = asyncio.create_task(server.exchange(COUNT))
        await asyncio.sleep(0)
        server.retire()
        assert (await in_hand).lines == [b"7"]
        await gone.wait()
        gone.clear()
        assert (await server.exchange(COUNT)).lines == [b"7"]
        await gone.wait()
        assert len(closed) == 2


@pytest.mark.parametrize("endpoint", [Unix("/nonexistent/memcached.sock"), Inet("127.0.0.1", 1)])
async def test_a_server_that_is_not_there_fails_at_once(endpoint: Unix | Inet) -> None:
    """The reason is the system's own words."""
    assert await failure(Server(endpoint, CounterSettings(timeout=PLENTY))) in {
        "No such file or directory",
        "Connection refused",
    }


async def test_a_name_is_tried_with_all_its_addresses() -> None:
    """The name localhost may mean ::1 first, where no server listens."""
    async with listening(FakeMemcached().serve) as endpoint:
        assert isinstance(endpoint, Inet)
        server = Server(Inet("localhost", endpoint.port), CounterSettings(timeout=PLENTY))
        assert (await server.exchange(COUNT)).lines == [b"NOT_FOUND"]
        server.close()


@pytest.mark.parametrize(
    "reply", [b"END\r\n", b"ERROR\r\n", b"STAT\r\nEND\r\n", b"STAT evictions many\r\nEND\r\n", b""]
)
async def test_evictions_are_read_from_the_statistics(tmp_path: Path, reply: bytes) -> None:
    """Among the many figures of `stats`; a server that has none has no number, whatever it says instead."""
    stats = b"STAT pid 1\r\nSTAT version 1.6.18\r\nSTAT evictions 12\r\nEND\r\n"
    async with served(tmp_path, answering(stats), PLENTY) as server:
        assert await server.evictions() == 12
    async with served(tmp_path, answering(reply, then_close=not reply), PLENTY) as server:
        assert await server.evictions() is None


async def test_statistics_are_waited_for_only_so_long(tmp_path: Path) -> None:
    """A server that says nothing has no number after the timeout."""
    async with served(tmp_path, silent, SOON) as server:
        assert await server.evictions() is None


async def test_a_silent_resolver_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts to connect fail in time, one thread waits for the resolver, and the event loop ends without it."""
    silence, asked, before = threading.Event(), 0, set(threading.enumerate())

    def getaddrinfo(*_: object, **__: object) -> list[object]:
        nonlocal asked
        asked += 1
        silence.wait(PLENTY)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    server = Server(Inet("memcached.test", 11211), CounterSettings(timeout=SOON))
    for _ in range(3):
        assert await failure(server) == "no answer within 0.1 s"
        server.works()
    assert asked == 1
    assert all(thread.daemon for thread in set(threading.enumerate()) - before)
    silence.set()
