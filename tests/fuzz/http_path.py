"""What an HTTP client sends to the status listener and to the control socket, down to memcached's keys and the log."""

import asyncio
import atexit
import logging
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fakes import DaemonSite, FakeStore

from senderscore_policy.counters.memcached.protocol import BucketKeys
from senderscore_policy.policy.ports import Charge, Usage
from senderscore_policy.web.api import Api
from senderscore_policy.web.listener import HttpListener

SMALLER: tuple[tuple[Any, str, Any], ...] = ()
_STATUS = re.compile(
    rb"(?:HTTP/1.1 100 Continue\r\n\r\n)?HTTP/(?:0\.9|1\.[01]) (200|400|404|405|413|417|421) [\x20-\x7e]+\r\n"
)
_KEY = re.compile(rb"ssp:[0-9a-f.:]+(/[0-9]+)?:3600\.12:")
_TEMPLATES = (
    b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /?filter=%b HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: %b\r\n\r\n",
    b"GET /api/clients/%b HTTP/1.1\r\nHost: %b\r\n\r\n",
    b"GET /clients/%b HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /api/clients/%b/decisions HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /api/messages/%b/decisions HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /api/scores/%b HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /api/clients/%b/reset HTTP/1.1\r\nHost: x\r\n\r\n",
    b'POST /api/clients/%b/increment HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n{"by":2}',
)
"""Requests with a place for the input, whose first byte says which; with others it is the whole stream."""


class _Keys(FakeStore):
    """A store that checks the keys it is asked for."""

    async def charge(self, charges: Sequence[Charge], refunds: Sequence[Charge]) -> None:
        _check_keys([charge.key for charge in charges])
        await super().charge(charges, refunds)

    async def read(self, clients: Sequence[str]) -> list[Usage]:
        _check_keys(clients)
        return await super().read(clients)

    async def reset(self, clients: Sequence[str]) -> list[str]:
        _check_keys(clients)
        return await super().reset(clients)


def _check_keys(clients: Sequence[str]) -> None:
    for client in clients:
        assert _KEY.fullmatch(BucketKeys("ssp:", _DAEMON.seen.window).stem(client))


class _Log(logging.Handler):
    """Keeps the records of the listener."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += self.format(record).split("\n")


class _Transport(asyncio.Transport):
    """Keeps what is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


_RUNNER = asyncio.Runner()
atexit.register(_RUNNER.close)
_LOG = _Log()
logging.getLogger("senderscore_policy.web.listener").addHandler(_LOG)


async def _started() -> tuple[DaemonSite, list[HttpListener]]:
    daemon = DaemonSite(Path(tempfile.mkdtemp()))
    daemon.engine.store = _Keys()

    async def facts() -> dict[str, object]:
        return {}

    api = Api(daemon.collector, facts)
    listeners = [HttpListener(api.application(kind), None, in_turns=True) for kind in ("metrics", "status", "control")]
    for listener in listeners:
        await listener.open([])
    return daemon, listeners


_DAEMON, _LISTENERS = _RUNNER.run(_started())


def check(data: bytes) -> None:
    """Every answer is one that a handler meant, every key is an address, and the log gets one clean line at most."""
    if data and data[0] < len(_TEMPLATES):
        template = _TEMPLATES[data[0]]
        data = template % ((data[1:],) * template.count(b"%b"))
    for listener in _LISTENERS:
        _LOG.lines.clear()
        sent = _RUNNER.run(_answers(listener, data))
        # aiohttp itself answers 500 to an Expect header that is not ASCII.
        assert not sent or _STATUS.match(sent) or b"expect" in data.lower(), sent
        assert len(_LOG.lines) <= 1, _LOG.lines
        assert all(line.isprintable() for line in _LOG.lines), _LOG.lines


async def _answers(listener: HttpListener, data: bytes) -> bytes:
    """What the listener sends to a peer that sends this and closes."""
    transport = _Transport()
    connection = listener._connection()
    connection.connection_made(transport)
    connection.data_received(data)
    connection.eof_received()
    for _ in range(1000):
        await asyncio.sleep(0)
        if transport.closed or (connection._waiter is not None and not connection._messages):
            break
    connection.connection_lost(None)
    await asyncio.sleep(0)
    return transport.sent
