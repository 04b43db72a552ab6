"""What `top` shows: the overviews of one daemon or of several, added up."""

import http.client
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from senderscore_policy.config.model import Config
from senderscore_policy.config.paths import control_paths
from senderscore_policy.errors import BackendError
from senderscore_policy.policy.standing import Place, place
from senderscore_policy.policy.tiers import UNLIMITED
from senderscore_policy.tools.control import find_daemon

STATUS: Final = "/api/status"
PATIENCE: Final = 10.0
"""Seconds that a status listener may take for an answer."""
_ORDER: Final = [Place.LIMITED, Place.NEAR, Place.WITHIN, Place.UNLIMITED]

Source = Callable[[], dict[str, Any]]
"""Gives a daemon's overview; raises BackendError, or PermissionError for a control socket that denies access."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one daemon said.

    Args:
        endpoint: where it was asked.
        overview: the object of /api/status; None: it did not answer.
        problem: why it did not.
    """

    endpoint: str
    overview: dict[str, Any] | None
    problem: str = ""


def sources(endpoints: Sequence[str], config: Callable[[], Config]) -> dict[str, Source]:
    """Who is to be asked, by the name that is shown.

    Args:
        endpoints: addresses of status listeners, such as "http://mx1.example.org:10046"; none: the
            daemon of this host, by its control socket.
        config: says where that is.
    """
    if endpoints:
        return {endpoint: _listener(endpoint) for endpoint in endpoints}
    paths = control_paths(config())

    def control() -> dict[str, Any]:
        with find_daemon(paths) as daemon:
            return daemon.request("GET", STATUS)

    return {"this host": control}


def status_listener(text: str) -> str:
    """The address of a status listener, checked.

    Raises:
        ValueError: it is none.
    """
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path not in {"", "/"} or parts.query:
        raise ValueError(f"{text!r} is not of the form http://HOST:PORT")
    _ = parts.port  # raises ValueError where it is no number
    return text.rstrip("/")


def _listener(endpoint: str) -> Source:
    parts = urlsplit(endpoint)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection

    def ask() -> dict[str, Any]:
        connection = kind(parts.hostname or "", parts.port, timeout=PATIENCE)
        try:
            connection.request("GET", STATUS)
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException) as error:
            reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
            raise BackendError(f"{endpoint} does not answer: {reason}; is it the address of listen.status?") from error
        except ValueError as error:
            raise BackendError(f"{endpoint} is no senderscore-policy") from error
        finally:
            connection.close()
        if not isinstance(answer, dict):
            raise BackendError(f"{endpoint} is no senderscore-policy")
        return answer

    return ask


def ask_all(wanted: Mapping[str, Source]) -> list[Report]:
    """Ask all at once.

    Raises:
        PermissionError: a control socket denies access.
    """

    def ask(item: tuple[str, Source]) -> Report:
        endpoint, source = item
        try:
            report = Report(endpoint, source())
            added_up([report])
        except BackendError as error:
            return Report(endpoint, None, str(error))
        except (LookupError, TypeError, ValueError, AttributeError):
            return Report(endpoint, None, f"{endpoint} gives no overview: it may be of another version")
        return report

    with ThreadPoolExecutor(len(wanted)) as threads:
        return list(threads.map(ask, wanted.items()))


def added_up(reports: Sequence[Report]) -> dict[str, Any]:
    """One overview of all daemons; the object of `top --json`.

    What each daemon decided and asked is added. A client's count is not: daemons that share
    memcached all tell the same one, and others each hold the client to a limit of its own; the
    largest stands.
    """
    overviews = [report.overview for report in reports if report.overview is not None]
    clients: dict[str, list[dict[str, Any]]] = {}
    for overview in overviews:
        for client in overview["clients"]:
            clients.setdefault(client["client"], []).append(client)
    rows = sorted((_client(told) for told in clients.values()), key=_nearest)
    minutes = _minutes(overviews)
    budgets = [overview["scores"] for overview in overviews]
    # The minute before the running one; the running one where that is all there is.
    last = minutes[-2:][0] if minutes else {"passed": 0, "deferred": 0}
    return {
        "time": max((overview["time"] for overview in overviews), default=0),
        "daemons": [_daemon(report) for report in reports],
        "requests_last_minute": last["passed"] + last["deferred"],
        "requests_last_hour": sum(minute["passed"] + minute["deferred"] for minute in minutes),
        "deferred_last_hour": sum(minute["deferred"] for minute in minutes),
        "minutes": minutes,
        "limited": sum(row["place"] == Place.LIMITED for row in rows),
        "near": sum(row["place"] == Place.NEAR for row in rows),
        "queries": {
            name: sum(budget[name] for budget in budgets) for name in ("used", "limit", "used_today", "daily_limit")
        },
        "clients": rows,
    }


def _daemon(report: Report) -> dict[str, Any]:
    overview = report.overview
    return {
        "endpoint": report.endpoint,
        "health": report.problem if overview is None else overview["health"],
        "answers": overview is not None,
        "mode": None if overview is None else overview["service"]["mode"],
        "version": None if overview is None else overview["service"]["version"],
    }


def _minutes(overviews: Sequence[dict[str, Any]]) -> list[dict[str, int]]:
    """Each minute's decisions over all tiers and daemons, oldest first."""
    totals: dict[int, dict[str, int]] = {}
    for overview in overviews:
        for minute in overview["minutes"]:
            total = totals.setdefault(minute["start"], {"passed": 0, "deferred": 0})
            for kind in total:
                total[kind] += sum(minute[kind].values())
    return [{"start": start} | totals[start] for start in sorted(totals)]


def _client(told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One client, as several daemons tell of it: the one that knows its score says what its limit is."""
    client = max(told, key=lambda each: (each["reputation"] != "not-asked", each["count"]))
    count = max(each["count"] for each in told)
    limit = UNLIMITED if client["limit"] == "unlimited" else client["limit"]
    limited = [each for each in told if each["place"] == Place.LIMITED]
    where = place(limit, count, asked=client["reputation"] != "not-asked", deferring=bool(limited))
    waits = [each["opens_in"] for each in limited if each["opens_in"] is not None]
    newest = max(told, key=lambda each: each["seen_at"])
    return client | {
        "count": count,
        "left": "unlimited" if limit == UNLIMITED else max(0, limit - count),
        "deferred": sum(each["deferred"] for each in told),
        "place": where,
        "opens_in": max(waits) if waits and where == Place.LIMITED else None,
        "name": newest["name"] or client["name"],
        "seen_at": newest["seen_at"],
    }


def _nearest(client: dict[str, Any]) -> tuple[Any, ...]:
    """Limited clients first, those that are deferred most before the others; then by the share of the limit used."""
    share = 0.0 if client["limit"] == "unlimited" else client["count"] / max(client["limit"], 0.5)
    return _ORDER.index(client["place"]), -client["deferred"], -share, -client["count"], client["client"]
