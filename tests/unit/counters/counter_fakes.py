"""Stand-ins for time, for who watches, and for memcached."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from senderscore_policy.config.endpoints import Inet, Unix

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class FakeClock:
    """Both clocks, still until a test moves them. 1,000,200 is the start of a bucket of 300 seconds."""

    def __init__(self, now: float = 1_000_200.0) -> None:
        self.wall = now
        self.steady = 5000.0

    def time(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.steady

    def advance(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


class Watcher:
    """A store's observer that keeps what it is told."""

    def __init__(self) -> None:
        self.commands: list[int] = []
        self.failures = 0
        self.poisoned = 0

    def round_trip(self, seconds: float, commands: int, ok: bool) -> None:
        assert seconds >= 0
        if ok:
            self.commands.append(commands)
        else:
            self.failures += 1

    def poisoned_key(self) -> None:
        self.poisoned += 1


class FakeMemcached:
    """The commands that counters need, on a dictionary, as protocol.txt describes them.

    Attributes:
        full: whether it has no memory for new items.
    """

    def __init__(self) -> None:
        self.items: dict[bytes, bytes] = {}
        self.exptimes: dict[bytes, int] = {}
        self.full = False

    def answer(self, commands: bytes) -> bytes:
        """The replies to whole commands."""
        lines = iter(commands.split(b"\r\n")[:-1])
        return b"".join(self._replies(lines))

    def _replies(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        for line in lines:
            name, *arguments = line.split(b" ")
            if name in {b"add", b"set"}:
                yield self._store(name, arguments, next(lines)) + b"\r\n"
            elif name in {b"incr", b"decr"}:
                yield self._count(name, *arguments) + b"\r\n"
            elif name == b"delete":
                yield (b"NOT_FOUND" if self.items.pop(arguments[0], None) is None else b"DELETED") + b"\r\n"
            elif name == b"get":
                for key in arguments:
                    if key in self.items:
                        yield b"VALUE %b 0 %d\r\n%b\r\n" % (key, len(self.items[key]), self.items[key])
                yield b"END\r\n"
            else:
                yield b"ERROR\r\n"

    def _store(self, name: bytes, arguments: list[bytes], data: bytes) -> bytes:
        key, flags, exptime, size = arguments
        assert flags == b"0"
        assert len(data) == int(size)
        if name == b"add" and key in self.items:
            return b"NOT_STORED"
        if self.full:
            return b"SERVER_ERROR out of memory storing object"
        self.items[key] = data
        self.exptimes[key] = int(exptime)
        return b"STORED"

    def _count(self, name: bytes, key: bytes, amount: bytes) -> bytes:
        old = self.items.get(key)
        if old is None:
            return b"NOT_FOUND"
        if not old.strip(b" ").isdigit():
            return b"CLIENT_ERROR cannot increment or decrement non-numeric value"
        number = max(0, int(old) + (int(amount) if name == b"incr" else -int(amount)))
        # A smaller number is written over the old one and blanks behind it.
        self.items[key] = (b"%d" % number).ljust(len(old))
        return b"%d" % number

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A script for `listening`."""
        while data := await reader.read(1 << 20):
            while not data.endswith(b"\r\n"):
                data += await reader.read(1 << 20)
            writer.write(self.answer(data))


@asynccontextmanager
async def listening(script: Script, path: Path | None = None) -> AsyncIterator[Unix | Inet]:
    """A server at the path, or at a free port of 127.0.0.1, that treats each connection by the script and closes it."""
    connections: set[asyncio.Task[None]] = set()

    async def treat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await script(reader, writer)
        except ConnectionError:
            writer.transport.abort()
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.create_task(treat(reader, writer)))

    if path is None:
        server = await asyncio.start_server(connected, "127.0.0.1", 0)
    else:
        server = await asyncio.start_unix_server(connected, path)
    try:
        yield Unix(str(path)) if path else Inet("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        if path is not None:
            path.unlink(missing_ok=True)  # noqa: ASYNC240 - asyncio itself does so from Python 3.13 on
