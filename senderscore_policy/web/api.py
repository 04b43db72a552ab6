"""HTTP: the status listener, read-only, and the control socket, which may also write.

Imported after READY=1, in a thread: aiohttp alone takes longer to import than the rest to start.
"""

import asyncio
import json
import re
from collections.abc import Collection
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from senderscore_policy.monitoring.clients import ClientAdmin
from senderscore_policy.policy.clients import Client
from senderscore_policy.policy.status import ClientStatus
from senderscore_policy.web import page
from senderscore_policy.web.inquiries import Inquiries
from senderscore_policy.web.listener import REQUEST_TIME, Handler, HttpListener, own_names
from senderscore_policy.web.prometheus import Exposition
from senderscore_policy.web.status import Parts, StatusCollector

__all__ = ["Api", "own_names", "serve"]
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

# Both of Postfix's kinds of queue ID are letters and digits (postconf(5), enable_long_queue_ids).
_QUEUE_ID: Final = re.compile(r"[0-9A-Za-z]{1,64}")


class BadRequestError(Exception):
    """The caller's mistake; its text goes back with status 400."""


def _json(data: object, status: int = 200) -> web.Response:
    return web.json_response(data, status=status, dumps=lambda value: json.dumps(value, ensure_ascii=True))


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except (BadRequestError, web.RequestPayloadError) as error:
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
        try:
            return self._desk.client_named(request.match_info["ip"])
        except ValueError as error:
            raise BadRequestError(str(error)) from None

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
        queue_id = request.match_info["queue_id"]
        if not _QUEUE_ID.fullmatch(queue_id):
            raise BadRequestError(f"{queue_id[:100]!r} is not a queue ID")
        return _json(await self._inquiries.about_message(queue_id))

    async def _daemon(self, _: web.Request) -> web.Response:
        return _json(await self._inquiries.about_itself())

    async def _increment(self, request: web.Request) -> web.Response:
        client = self._client_of(request)
        try:
            async with asyncio.timeout(REQUEST_TIME):
                body = await request.read()
            by = json.loads(body)["by"] if body else 1
        except (ValueError, LookupError, TypeError, RecursionError, TimeoutError):
            raise BadRequestError('the body must be {"by": N}') from None
        if not isinstance(by, int) or isinstance(by, bool) or not 1 <= by <= 1_000_000_000:
            raise BadRequestError(f"by is {str(by)[:100]!r}, it must be a whole number from 1 to 1000000000")
        await self._desk.increment(client, by)
        return await self._show(client)

    async def _reset(self, request: web.Request) -> web.Response:
        client = self._client_of(request)
        await self._desk.reset(client)
        return await self._show(client, note=self._desk.reset_note)


async def serve(app: web.Application, listeners: list[Any], names: Collection[str] | None) -> HttpListener:
    """Answer HTTP on these listening sockets until what is returned is cleaned up.

    Args:
        app: from `Api.application`.
        listeners: bound sockets.
        names: by which the daemon may be addressed, see `listener.is_own`; None: any.
    """
    listener = HttpListener(app, names)
    await listener.open(listeners)
    return listener
