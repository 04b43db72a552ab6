"""HTTP: the status listener, read-only, and the control socket, which may also write.

Imported after READY=1, in a thread: aiohttp alone takes longer to import than the rest to start.
"""

import asyncio
import ipaddress
import json
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from senderscore_policy.monitoring.clients import ClientAdmin
from senderscore_policy.policy.clients import Client, parse_address
from senderscore_policy.policy.status import ClientStatus
from senderscore_policy.web import page
from senderscore_policy.web.inquiries import Inquiries
from senderscore_policy.web.prometheus import Exposition
from senderscore_policy.web.status import Parts, StatusCollector

HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": page.CONTENT_SECURITY_POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "senderscore-policy",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""On every response."""

MAX_CONNECTIONS: Final = 100
"""HTTP connections of a listener at a time. Further ones are closed at once: memory and descriptors are for mail."""

FIRST_REQUEST_TIME: Final = 10.0
"""Seconds in which a connection must have sent a request; silent ones would keep everybody else out."""

log = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class BadRequestError(Exception):
    """The caller's mistake; its text goes back with status 400."""


def _json(data: object, status: int = 200) -> web.Response:
    return web.json_response(data, status=status, dumps=lambda value: json.dumps(value, ensure_ascii=True))


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except BadRequestError as error:
        return _json({"error": str(error)}, 400)
    except web.HTTPException as error:
        return _json({"error": f"{error.reason}: {request.method} {request.path}"}, error.status)


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


class Api:
    """The handlers.

    Args:
        desk: answers what is asked of single clients.
        parts: the running daemon.
        inquiries: what only the control socket may be asked.
    """

    def __init__(self, desk: ClientAdmin, parts: Parts, inquiries: Inquiries) -> None:
        self._desk = desk
        self._inquiries = inquiries
        self._lookout = StatusCollector(parts, desk)
        self._exposition = Exposition(parts)

    def application(self, *, writable: bool) -> web.Application:
        """The routes: all read; those that write only where `writable` (the control socket)."""
        app = web.Application(middlewares=[_errors_as_json], client_max_size=64 * 1024)
        app.on_response_prepare.append(_add_headers)
        app.router.add_get("/", self._page)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/api/status", self._status)
        app.router.add_get("/api/clients", self._clients)
        app.router.add_get("/api/clients/{ip}", self._client)
        if writable:
            # A lookup may cost a query of the budget, so it is for the control socket too.
            app.router.add_get("/api/scores/{ip}", self._score)
            app.router.add_get("/api/clients/{ip}/decisions", self._decisions)
            app.router.add_get("/api/messages/{queue_id}/decisions", self._message)
            app.router.add_get("/api/daemon", self._daemon)
            app.router.add_post("/api/clients/{ip}/increment", self._increment)
            app.router.add_post("/api/clients/{ip}/reset", self._reset)
        return app

    def _client_of(self, request: web.Request) -> Client:
        text = request.match_info["ip"]
        address = parse_address(text)
        if address is None:
            # `get` prints an IPv6 client as its network: take that back, too.
            try:
                address = ipaddress.ip_network(text.replace("_", "/")).network_address
            except ValueError:
                raise BadRequestError(f"{text!r} is no IP address") from None
        return self._desk.client(address)

    async def _healthz(self, _: web.Request) -> web.Response:
        health = self._desk.health()
        stopping = health.startswith("stopping")
        status = HTTPStatus.SERVICE_UNAVAILABLE if stopping else HTTPStatus.OK
        return web.Response(text=health + "\n", status=status)

    async def _page(self, request: web.Request) -> web.Response:
        overview = await self._lookout.overview()
        # In a thread: a long list takes longer to render than a request may wait for its decision.
        render = partial(page.render, overview, page.view(request.query))
        text = await asyncio.get_running_loop().run_in_executor(None, render)
        return web.Response(text=text, content_type="text/html")

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = self._exposition.page(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _status(self, _: web.Request) -> web.Response:
        return _json((await self._lookout.overview()).as_json())

    async def _clients(self, _: web.Request) -> web.Response:
        standings = await self._lookout.busiest()
        return _json({"clients": [standing.as_json() for standing in standings]})

    async def _client(self, request: web.Request) -> web.Response:
        return await self._show(self._client_of(request))

    async def _show(self, client: Client, **extra: Any) -> web.Response:
        standings: list[ClientStatus] = await self._desk.standings([client])
        return _json(standings[0].as_json() | extra)

    async def _score(self, request: web.Request) -> web.Response:
        return _json(await self._desk.score(self._client_of(request)))

    async def _decisions(self, request: web.Request) -> web.Response:
        return _json(await self._inquiries.about_client(self._client_of(request)))

    async def _message(self, request: web.Request) -> web.Response:
        return _json(await self._inquiries.about_message(request.match_info["queue_id"]))

    async def _daemon(self, _: web.Request) -> web.Response:
        return _json(await self._inquiries.about_itself())

    async def _increment(self, request: web.Request) -> web.Response:
        client = self._client_of(request)
        try:
            by = (await request.json())["by"] if request.can_read_body else 1
        except (ValueError, KeyError, TypeError):
            raise BadRequestError('the body is to be {"by": N}') from None
        if not isinstance(by, int) or isinstance(by, bool) or not 1 <= by <= 1_000_000_000:
            raise BadRequestError(f"by is {by!r}, it must be a whole number from 1 to 1000000000")
        await self._desk.increment(client, by)
        return await self._show(client)

    async def _reset(self, request: web.Request) -> web.Response:
        client = self._client_of(request)
        await self._desk.reset(client)
        return await self._show(client, note=self._desk.reset_note)


class _TurnedAway(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close it."""
        transport.close()


class Listening:
    """An application that answers HTTP, at most `MAX_CONNECTIONS` at a time.

    Args:
        runner: of the application.
    """

    def __init__(self, runner: web.AppRunner) -> None:
        self._runner = runner
        self._servers: list[asyncio.Server] = []
        self._silent: set[asyncio.BaseProtocol] = set()

        @web.middleware
        async def hear(request: web.Request, handler: Handler) -> web.StreamResponse:
            self._silent.discard(request.protocol)
            return await handler(request)

        runner.app.middlewares.append(hear)

    async def open(self, listeners: list[Any]) -> None:
        """Answer on these listening sockets until `cleanup`."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._servers = [await loop.create_server(self._connection, sock=listener) for listener in listeners]

    async def cleanup(self) -> None:
        """Close the sockets; who is being answered gets a second."""
        for server in self._servers:
            server.close()
        if self._runner.server is not None:
            await self._runner.server.shutdown(1.0)
        await self._runner.cleanup()

    def _connection(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        assert server is not None
        if len(server.connections) >= MAX_CONNECTIONS:
            return _TurnedAway()
        connection = server()
        self._silent.add(connection)
        asyncio.get_running_loop().call_later(FIRST_REQUEST_TIME, self._close_if_silent, connection)
        return connection

    def _close_if_silent(self, connection: web.RequestHandler) -> None:
        if connection in self._silent:
            self._silent.discard(connection)
            connection.force_close()


async def serve(app: web.Application, listeners: list[Any]) -> Listening:
    """Answer HTTP on these listening sockets until what is returned is cleaned up."""
    listening = Listening(web.AppRunner(app, access_log=None, handle_signals=False))
    await listening.open(listeners)
    return listening
