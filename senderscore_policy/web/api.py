"""HTTP: the status listener, which only reads, the metrics listener, and the control socket, which also writes.

Imported after READY=1, in a thread: aiohttp alone takes longer to import than the rest to start.
"""

import asyncio
import json
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from senderscore_policy.monitoring.decisions import as_json
from senderscore_policy.policy.clients import Client
from senderscore_policy.policy.decision import Decision
from senderscore_policy.web import html, page
from senderscore_policy.web.listener import REQUEST_TIME, Handler, HttpListener, own_names
from senderscore_policy.web.prometheus import Exposition
from senderscore_policy.web.status import StatusCollector

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
MOST_SHOWN: Final = 1000
"""Decisions in an answer, the newest ones."""
_NAME: Final = "{ip:[^/]+(?:/[0-9]+)?}"
"""A client's name in a path; in the pages' own links "_" is the slash, which some web servers in front do not pass."""
# Both of Postfix's kinds of queue ID are letters and digits (postconf(5), enable_long_queue_ids).
_QUEUE_ID: Final = re.compile(r"[0-9A-Za-z]{1,64}")


class BadRequestError(Exception):
    """The caller's mistake; its text goes back with status 400."""


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer with the error as JSON, or as a page for a browser."""
    try:
        return await handler(request)
    except (BadRequestError, web.RequestPayloadError) as error:
        status, text = 400, str(error)
    except web.HTTPException as error:
        status, text = error.status, f"{error.reason}: {request.method} {request.path}"
    if "page" in request.app.router and "text/html" in request.headers.get("Accept", ""):
        text = html.render("base.html", error=text, home=_home(request))
        return web.Response(text=text, content_type="text/html", status=status)
    return web.json_response({"error": text}, status=status)


def _home(request: web.Request) -> str:
    """The address of the status page, relative to the one that was asked for: a proxy may serve both below a path."""
    return "../" * (request.rel_url.raw_path.count("/") - 1) or "./"


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


class Api:
    """The handlers; `facts` returns what only the composition root knows, for `doctor`."""

    def __init__(self, collector: StatusCollector, facts: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
        self._collector = collector
        self._admin = collector.admin
        self._history = collector.history
        self._facts = facts
        self._exposition = Exposition(collector)

    def application(self, kind: str) -> web.Application:
        """The routes of a listener.

        "metrics" shows no client; "status" reads; "control" also reads what is private, asks the zone for scores and
        changes counters.
        """
        app = web.Application(middlewares=[_errors], client_max_size=64 * 1024)
        app.on_response_prepare.append(_add_headers)
        get, post = app.router.add_get, app.router.add_post
        get("/metrics", self._metrics)
        get("/healthz", self._healthz)
        if kind == "metrics":
            return app
        get("/", self._page, name="page")
        get("/clients/" + _NAME, self._client_page)
        get("/api/status", self._status)
        get("/api/clients", self._clients)
        get("/api/clients/" + _NAME, self._client)
        if kind == "control":
            get("/api/scores/{ip}", self._score)
            get("/api/clients/{ip}/decisions", self._decisions)
            get("/api/messages/{queue_id}/decisions", self._message)
            get("/api/daemon", self._daemon)
            post("/api/clients/{ip}/increment", self._increment)
            post("/api/clients/{ip}/reset", self._reset)
        return app

    def _client_of(self, request: web.Request) -> Client:
        try:
            return self._admin.client_named(request.match_info["ip"].replace("_", "/"))
        except ValueError as error:
            raise BadRequestError(str(error)) from None

    async def _healthz(self, _: web.Request) -> web.Response:
        health = self._collector.service().health
        status = HTTPStatus.SERVICE_UNAVAILABLE if health.startswith("stopping") else HTTPStatus.OK
        return web.Response(text=health + "\n", status=status)

    async def _page(self, request: web.Request) -> web.Response:
        view = page.view(request.query)
        status = await self._collector.status()
        found = await self._collector.clients(view.filter) if view.filter else (status.rows, status.clients)
        return await self._html(page.render, status, view, *found)

    async def _client_page(self, request: web.Request) -> web.Response:
        client = self._client_of(request)
        status, details = await self._collector.status(), await self._collector.details(client)
        return await self._html(page.render_client, status, details, _home(request))

    async def _html(self, render: Callable[..., str], *values: Any) -> web.Response:
        # In a thread: a long list takes longer to render than a request may wait for its decision.
        text = await asyncio.to_thread(render, *values)
        return web.Response(text=text, content_type="text/html")

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = await self._exposition.page(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response((await self._collector.status()).as_json())

    async def _clients(self, _: web.Request) -> web.Response:
        rows = sorted((await self._collector.status()).rows, key=lambda row: row.status.count, reverse=True)
        return web.json_response({"clients": [row.status.as_json() for row in rows]})

    async def _client(self, request: web.Request) -> web.Response:
        return await self._show(self._client_of(request))

    async def _show(self, client: Client, **extra: Any) -> web.Response:
        (row,) = await self._admin.rows([client])
        return web.json_response(row.status.as_json() | extra)

    async def _score(self, request: web.Request) -> web.Response:
        return web.json_response(await self._admin.score(self._client_of(request)))

    async def _decisions(self, request: web.Request) -> web.Response:
        client = self._client_of(request)
        decisions = await asyncio.to_thread(self._history.of_client, client.key)
        return await self._explain(decisions, [client])

    async def _message(self, request: web.Request) -> web.Response:
        queue_id = request.match_info["queue_id"]
        if not _QUEUE_ID.fullmatch(queue_id):
            raise BadRequestError(f"{queue_id[:100]!r} is not a queue ID")
        decisions = await asyncio.to_thread(self._history.of_message, queue_id)
        return await self._explain(decisions, [each.client for each in decisions if each.client is not None])

    async def _explain(self, decisions: Sequence[Decision], clients: Sequence[Client]) -> web.Response:
        """The answer to `explain`: decisions, and the status of their clients now."""
        service, history = self._collector.service(), self._history
        rows = await self._admin.rows(list({client.key: client for client in clients}.values()))
        shown = [as_json(each, self._admin.score_at_hand(each.client)) for each in decisions[-MOST_SHOWN:]]
        return web.json_response(
            {
                "decisions": shown,
                "found": len(decisions),
                "clients": [
                    row.status.as_json() | {"opens_in": None if row.opens_in is None else math.ceil(row.opens_in)}
                    for row in rows
                ],
                "window": service.window,
                "counted": service.counted,
                "remembered_since": {
                    "over_limit": history.since(over_limit=True) or service.started_at,
                    "others": history.since(over_limit=False) or service.started_at,
                },
            }
        )

    async def _daemon(self, _: web.Request) -> web.Response:
        return web.json_response({**await self._facts(), "last_request_at": self._history.last_request})

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
        await self._admin.increment(client, by)
        return await self._show(client)

    async def _reset(self, request: web.Request) -> web.Response:
        try:
            clients = await self._admin.clients_in(request.match_info["ip"])
        except ValueError as error:
            raise BadRequestError(str(error)) from None
        note = await self._admin.reset(clients)
        if "not reached" in note:
            note += "; the daemon resets the client again once they are back"
        rows = await self._admin.rows(clients)

        def answer() -> web.Response:
            values = [row.status.as_json() | {"note": note} for row in rows]
            return web.json_response(values[0] if len(values) == 1 else {"clients": values})

        # In a thread: a network may have thousands of clients.
        return await asyncio.to_thread(answer)


async def serve(api: Api, kind: str, listeners: list[Any], host: str = "") -> HttpListener:
    """Answer HTTP on these listening sockets until what is returned is cleaned up.

    The status listener answers to the host's own names, and to `host`, its name or address in the configuration.
    """
    names = {*own_names(), host} if kind == "status" else None
    listener = HttpListener(api.application(kind), names, in_turns=kind != "control")
    await listener.open(listeners)
    return listener
