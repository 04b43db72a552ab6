"""What `top` shows: the overviews of one daemon or of several, added up."""

import argparse
import http.client
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

from rich.console import Group
from rich.table import Table
from rich.text import Text

from senderscore_policy.commands.arguments import add_config, add_json, checked, configuration
from senderscore_policy.commands.control import find_daemon
from senderscore_policy.commands.output import say, say_json, table
from senderscore_policy.config.model import Config
from senderscore_policy.config.paths import control_paths
from senderscore_policy.errors import BackendError
from senderscore_policy.policy.status import LimitState, limit_state
from senderscore_policy.policy.tiers import UNLIMITED

STATUS: Final = "/api/status"
PATIENCE: Final = 10.0
"""Seconds that a status listener may take for an answer."""
_ORDER: Final = [LimitState.LIMITED, LimitState.NEAR, LimitState.WITHIN, LimitState.UNLIMITED]

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
        "limited": sum(row["place"] == LimitState.LIMITED for row in rows),
        "near": sum(row["place"] == LimitState.NEAR for row in rows),
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
    limited = [each for each in told if each["place"] == LimitState.LIMITED]
    where = limit_state(limit, count, asked=client["reputation"] != "not-asked", deferring=bool(limited))
    waits = [each["opens_in"] for each in limited if each["opens_in"] is not None]
    newest = max(told, key=lambda each: each["seen_at"])
    return client | {
        "count": count,
        "left": "unlimited" if limit == UNLIMITED else max(0, limit - count),
        "deferred": sum(each["deferred"] for each in told),
        "place": where,
        "opens_in": max(waits) if waits and where == LimitState.LIMITED else None,
        "name": newest["name"] or client["name"],
        "seen_at": newest["seen_at"],
    }


def _nearest(client: dict[str, Any]) -> tuple[Any, ...]:
    """Limited clients first, those that are deferred most before the others; then by the share of the limit used."""
    share = 0.0 if client["limit"] == "unlimited" else client["count"] / max(client["limit"], 0.5)
    return _ORDER.index(client["place"]), -client["deferred"], -share, -client["count"], client["client"]


def register(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.description = """Show the busiest clients, nearest their limit first, and keep it up to date.

status    limited: its next message is deferred, or messages of it were within the last minutes; near: it has used
          four fifths of its limit; within; unlimited
let in    when a limited client is let in again, if it sends nothing until then

Without --endpoint the daemon of this host is asked, by its control socket. Of several daemons decisions, deferrals
and score queries are added up; of a client's counts the largest is shown, as daemons that share memcached all have
the same."""
    parser.epilog = """examples:
  senderscore-policy top
  senderscore-policy top --once --clients 10
  senderscore-policy top --endpoint http://mx1.example.org:10046 --endpoint http://mx2.example.org:10046"""
    add_config(parser)
    add_json(parser)
    parser.add_argument(
        "--endpoint",
        metavar="URL",
        action="append",
        type=checked(status_listener),
        default=[],
        help="a daemon's status listener, http://HOST:PORT; several are allowed",
    )
    parser.add_argument(
        "--once", action="store_true", help="print it once and end; so does --json, and without a terminal"
    )
    parser.add_argument(
        "--clients",
        metavar="N",
        type=checked(_count),
        help="clients to be shown (default: as many as fit, with --once 20)",
    )
    parser.add_argument(
        "--interval", metavar="S", type=checked(_seconds), default=2.0, help="seconds between two looks (default: 2)"
    )


def _count(text: str) -> int:
    if not (text.isdecimal() and text.isascii() and 1 <= int(text) <= 100_000):
        raise ValueError(f"{text!r} is no whole number from 1 to 100000")
    return int(text)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.5 <= seconds <= 3600:
        raise ValueError(f"{text!r} is no number of seconds from 0.5 to 3600")
    return seconds


def run(args: argparse.Namespace) -> int:
    """Show it, once or until Ctrl-C."""
    daemons = sources(args.endpoint, lambda: configuration(args))
    reports = ask_all(daemons)
    if all(report.overview is None for report in reports):
        raise BackendError("; ".join(report.problem for report in reports))
    overview = added_up(reports)
    if args.json:
        say_json(overview | {"clients": overview["clients"][: args.clients]})
    elif args.once or not sys.stdout.isatty():
        _print(overview, args.clients or 20)
    else:
        _watch(daemons, args)
    return 0


def _print(overview: dict[str, object], most: int) -> None:
    say("\n".join(summary(overview)) + "\n")
    clients = overview["clients"]
    assert isinstance(clients, list)
    say(table(COLUMNS, [cells(client) for client in clients[:most]], NUMBERS))


def _watch(sources: Mapping[str, Source], args: argparse.Namespace) -> None:
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.live import Live  # noqa: PLC0415

    # The terminal is given back as it was, also when the command is ended from elsewhere.
    signal.signal(signal.SIGTERM, _end)
    console = Console()
    try:
        with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                overview = added_up(ask_all(sources))
                live.update(screen(overview, console.size.height, args.clients), refresh=True)
                time.sleep(args.interval)
    except KeyboardInterrupt:
        return


def _end(*_: object) -> NoReturn:
    raise SystemExit(0)


COLUMNS: Final = ("status", "client", "score", "tier", "count", "limit", "left", "deferred", "let in", "name")
NUMBERS: Final = frozenset({"score", "count", "limit", "left", "deferred", "let in"})
_STYLES: Final = {
    LimitState.LIMITED: "bold red",
    LimitState.NEAR: "yellow",
    LimitState.WITHIN: "",
    LimitState.UNLIMITED: "dim",
}
_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_AROUND: Final = 4
"""Lines of the table beside its rows, and the one that the terminal keeps for itself."""


def plain(value: object) -> str:
    """A value as text for a terminal: nothing in it, whoever sent it, controls the terminal."""
    if value is None:
        return "-"
    text = str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def wait(client: dict[str, Any]) -> str:
    """When a client is let in again: "now", "in 12 min", "never"; empty for one that is not limited."""
    if client["place"] != LimitState.LIMITED:
        return ""
    seconds = client["opens_in"]
    if seconds is None:
        return "never"
    if seconds < 60:
        return f"{seconds} s" if seconds > 0 else "now"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{math.ceil(minutes / 60)} h"


def cells(client: dict[str, Any]) -> list[str]:
    """A client's row."""
    values = (client["place"], client["client"], client["score"], client["tier"], client["count"], client["limit"],
              client["left"], client["deferred"], wait(client), client["name"])  # fmt: skip
    return [plain(value) for value in values]


def summary(overview: dict[str, Any]) -> list[str]:
    """What goes above the table: a line for each daemon, then the numbers of all."""
    lines = []
    for daemon in overview["daemons"]:
        mode = " (observe: nobody is deferred)" if daemon["mode"] == "observe" else ""
        lines.append(plain(f"{daemon['endpoint']}: {daemon['health']}{mode}"))
    queries, hour, deferred = overview["queries"], overview["requests_last_hour"], overview["deferred_last_hour"]
    minute = overview["requests_last_minute"]
    budget = f" of {queries['daily_limit']:,} today, {queries['used']:,} of {queries['limit']:,} in 30 days"
    lines += [
        f"requests: {minute:,} in the last minute, {hour:,} in the last hour, {deferred:,} deferred",
        f"clients: {overview['limited']:,} limited now, {overview['near']:,} near the limit",
        f"score queries: {queries['used_today']:,}" + (budget if queries["limit"] else " today, no budget"),
    ]
    return lines


def sparkline(numbers: list[int]) -> str:
    """Numbers as a row of bars."""
    highest = max(numbers, default=0) or 1
    return "".join(_BLOCKS[math.ceil(number / highest * (len(_BLOCKS) - 1))] for number in numbers)


def screen(overview: dict[str, Any], height: int, most: int | None) -> Group:
    """All of it for a terminal.

    Args:
        overview: of all daemons.
        height: lines of the terminal.
        most: clients to be shown; None: as many as there is room for.
    """
    head = Text("senderscore-policy", style="bold", no_wrap=True)
    head.append(f"  {datetime.now().astimezone():%H:%M:%S}", style="dim")
    lines = [head]
    for daemon, line in zip(overview["daemons"], summary(overview), strict=False):
        lines.append(
            Text(line, style="" if daemon["health"] == "ready" else "bold red", no_wrap=True, overflow="ellipsis")
        )
    numbers = summary(overview)[len(overview["daemons"]) :]
    lines += [Text(line, no_wrap=True, overflow="ellipsis") for line in numbers]
    bars = sparkline([minute["passed"] + minute["deferred"] for minute in overview["minutes"]])
    lines.append(Text(bars, style="cyan", no_wrap=True, overflow="crop"))
    room = max(1, height - len(lines) - _AROUND)
    shown = overview["clients"][: room if most is None else min(most, room)]
    return Group(*lines, _table(shown), Text(_rest(overview, len(shown)), style="dim"))


def _table(clients: list[dict[str, Any]]) -> Table:
    table = Table(box=None, expand=True, pad_edge=False, header_style="dim")
    for name in COLUMNS:
        flexible = name == "name"
        table.add_column(
            name,
            justify="right" if name in NUMBERS else "left",
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if flexible else None,
        )
    for client in clients:
        table.add_row(*(Text(cell) for cell in cells(client)), style=_STYLES[LimitState(client["place"])])
    return table


def _rest(overview: dict[str, Any], shown: int) -> str:
    more = len(overview["clients"]) - shown
    return f"{more} more; Ctrl-C ends" if more else "Ctrl-C ends"
