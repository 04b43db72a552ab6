"""HTTP connections: whom the daemon answers, how many at a time, and for how long a peer may be silent."""

import asyncio
import contextlib
import logging
import re
import socket
import traceback
from collections.abc import Awaitable, Callable, Collection
from math import inf
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from senderscore_policy.policy.clients import parse_address
from senderscore_policy.policy.protocol import printable

MAX_CONNECTIONS: Final = 100
"""HTTP connections of one listener. Memory and descriptors are for mail."""
REQUEST_TIME: Final = 20.0
"""Seconds in which a connection must send a complete request, the first one or the next one."""
_HOST: Final = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::\d*)?|([^:\[\]/@]+)(?::\d*)?")
_HOSTS_FILE: Final = Path("/etc/hosts")
_NOT_OWN: Final = "the status page has an IP address, localhost, or a name that /etc/hosts gives this host"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _in_one_line(record: logging.LogRecord) -> bool:
    """Shorten aiohttp's traceback to one escaped line (a logging filter): any peer could fill the log."""
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        frame = traceback.extract_tb(error.__traceback__)[-1:]
        where = "".join(f" ({Path(each.filename).name}, line {each.lineno})" for each in frame)
        reason = " ".join(str(error).split())[:200].encode(errors="backslashreplace")
        record.msg = "HTTP request failed: %s: %s%s"
        record.args = (type(error).__name__, printable(reason), where)
        record.exc_info = None
    return True


log = logging.getLogger(__name__)
log.addFilter(_in_one_line)


def own_names() -> set[str]:
    """The names of this host: its host name, with all its names in /etc/hosts, and localhost."""
    name = socket.gethostname().lower()
    names = {name, "localhost"}
    with contextlib.suppress(OSError):
        for line in _HOSTS_FILE.read_text(errors="replace").lower().splitlines():
            _, *hosts = line.partition("#")[0].split() or [""]
            names.update(hosts if name in hosts else ())
    return names


def is_own(host: str, names: Collection[str]) -> bool:
    """Whether a Host header (RFC 9110, 7.2) names this host.

    A web page of somebody else can have its own name resolve to 127.0.0.1, and then read what is
    served there (DNS rebinding). An IP address in the header cannot be such a name.
    """
    found = _HOST.fullmatch(host.strip().lower())
    if found is None:
        return False
    name = found[1] or found[2]
    return name.removesuffix(".") in names or parse_address(name) is not None


class Connection(web.RequestHandler):
    """One connection: aiohttp serves it, and the daemon closes it when its peer is silent or others need its place."""

    def __init__(self, server: web.Server) -> None:
        options: dict[str, Any] = {"access_log": None, "logger": log}
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._server = server
        self.asked = 0  # requests that have arrived
        # The time of the last answer, or of the start; infinite while a request is in hand.
        self.active_at = self._loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make room for the connection: close one that never asked, else the longest idle, else the busiest one."""
        super().connection_made(transport)
        others = [each for each in self._server.connections if isinstance(each, Connection) and each is not self]
        others = [each for each in others if each.transport is not None]  # closed ones stay listed for a while
        if len(others) >= MAX_CONNECTIONS:
            idle = [each for each in others if each.active_at < inf]
            busiest = max(others, key=lambda each: each.asked)
            min(idle, key=lambda each: (each.asked > 0, each.active_at), default=busiest).force_close()
        self._close_when_silent()

    def _close_when_silent(self) -> None:
        """Close the connection now if its time is over, else look again when it is."""
        if self.transport is not None:
            left = min(self.active_at, self._loop.time()) + REQUEST_TIME - self._loop.time()
            if left <= 0:
                self.force_close()
            else:
                self._loop.call_later(left, self._close_when_silent)


class HttpListener:
    """Serves an application on listening sockets, to a bounded number of connections."""

    def __init__(self, app: web.Application, names: Collection[str] | None, *, in_turns: bool) -> None:
        self._names = names  # by which the daemon may be addressed; None: any
        # Requests that are handled one after the other make a crowd of visitors wait, and not mail.
        self._turn = asyncio.Semaphore(1 if in_turns else MAX_CONNECTIONS)
        self._servers: list[asyncio.Server] = []
        app.middlewares.append(self._serve)
        self._runner = web.AppRunner(app, handle_signals=False)

    async def open(self, listeners: list[Any]) -> None:
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._servers = [await loop.create_server(self._connection, sock=listener) for listener in listeners]

    async def cleanup(self) -> None:
        """Close the sockets; requests in hand get a second."""
        for server in self._servers:
            server.close()
        if self._runner.server is not None:
            await self._runner.server.shutdown(1.0)
        await self._runner.cleanup()

    def _connection(self) -> Connection:
        assert self._runner.server is not None
        return Connection(self._runner.server)

    @web.middleware
    async def _serve(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        hosts = list(request.headers.getall("Host", []))
        if request.raw_path[:1] not in "/*":
            # The absolute form of the target goes before the header (RFC 9112, 3.2.2).
            hosts.append(request.url.raw_authority)
        if self._names is not None and not all(is_own(host, self._names) for host in hosts):
            raise web.HTTPMisdirectedRequest(reason=_NOT_OWN)
        connection = request.protocol
        assert isinstance(connection, Connection)
        connection.asked += 1
        connection.active_at = inf
        try:
            async with self._turn:
                # Decide the requests of mail that have arrived meanwhile.
                await asyncio.sleep(0)
                return await handler(request)
        finally:
            connection.active_at = asyncio.get_running_loop().time()
