"""The command `top`: the busiest clients of the daemon, once or kept up to date in the terminal."""

import argparse
import contextlib
import math
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Final

from senderscore_policy.commands.arguments import add_json, configuration, seconds, whole
from senderscore_policy.commands.control import find_daemon
from senderscore_policy.commands.output import console, in_terminal, plain, say, say_json, say_paragraph, table
from senderscore_policy.config.model import Config
from senderscore_policy.errors import BackendError
from senderscore_policy.policy.durations import span
from senderscore_policy.policy.status import LimitState

if TYPE_CHECKING:
    from rich.text import Text

COLUMNS: Final = ("status", "client", "score", "tier", "count", "limit", "left", "deferred", "again in", "name")
NUMBERS: Final = frozenset({"score", "count", "limit", "left", "deferred", "again in"})
_DROPPED: Final = ("tier", "left", "deferred", "score", "again in", "limit", "count", "status")
"""The columns that a narrow terminal does without, in this order; the name takes the width that is left."""
_SHORTEST_NAME: Final = 8
_STYLES: Final = {"limited": "bold red", "near": "yellow", "within": "", "unlimited": "dim"}
_BLOCKS: Final = " ▁▂▃▄▅▆▇█"


def _nearest(client: dict[str, Any]) -> tuple[Any, ...]:
    """Limited clients first, those with the most deferrals before the others; then by the used share of the limit."""
    share = 0.0 if client["limit"] == "unlimited" else client["count"] / max(client["limit"], 0.5)
    return list(_STYLES).index(client["state"]), -client["deferred"], -share, -client["count"], client["client"]


def register(parser: argparse.ArgumentParser) -> None:
    parser.description = """Show the busiest clients of this host's daemon, nearest to their limit first,
and update the list; q ends.

status    limited: its next message is deferred, or messages were deferred
          within the last minutes; near: it has used four fifths of its limit;
          within; unlimited
again in  when the daemon accepts a message of a limited client again, if the
          client sends nothing before

A narrow terminal shows fewer columns."""
    parser.epilog = """examples:
  senderscore-policy top
  senderscore-policy top --once --clients 10"""
    add_json(parser)
    add = parser.add_argument
    add("--once", action="store_true", help="print the list once and end, as with --json and without a terminal")
    help_ = "number of clients to show (default: as many as fit, with --once 20)"
    add("--clients", metavar="N", type=whole(1, 100_000), help=help_)
    add("--interval", metavar="S", type=seconds(0.5), default=2.0, help="seconds between updates (default: 2)")


def run(args: argparse.Namespace) -> int:
    config = configuration(args)
    first = _look(config)
    if args.json:
        say_json(first | {"clients": first["clients"][: args.clients]})
    elif args.once or not in_terminal():
        for line in [*summary(first), ""]:
            say_paragraph(line)
        say("\n".join(rows(first["clients"][: args.clients or 20], console().width if in_terminal() else None)))
    else:
        _watch(first, config, args)
    return 0


def _look(config: Config) -> dict[str, Any]:
    """The daemon's status, with the clients nearest to their limits first."""
    with find_daemon(config) as daemon:
        status = daemon.call("GET", "/api/status")
    try:
        summary(status)
        return status | {"clients": sorted(status["clients"], key=_nearest)}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise BackendError("the daemon's answer is incomplete: it may have another version") from error


def _watch(shown: dict[str, Any], config: Config, args: argparse.Namespace) -> None:
    # Only here: other commands, and `top --json`, do without.
    from rich.console import Group  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415

    # The terminal gets its state back, also when a signal ends the command.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    with (
        _keys() as key_pressed,
        Live(console=console(), screen=True, auto_refresh=False, vertical_overflow="crop") as live,
    ):
        while True:
            live.update(Group(*screen(shown, console().width, console().height, args.clients)), refresh=True)
            if key_pressed(args.interval) in {"q", "Q"}:
                return
            try:
                shown = _look(config)
            except (BackendError, PermissionError) as error:
                shown |= {"health": str(error)}


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """A function that waits for a key, at most some seconds; empty without one."""
    descriptor = sys.stdin.fileno()
    keyboard = [descriptor] if os.isatty(descriptor) else []

    def key(length: float) -> str:
        ready, _, _ = select.select(keyboard, [], [], length)
        if ready and not (pressed := os.read(descriptor, 1)):
            sys.exit(0)  # the terminal is gone
        return pressed.decode("ascii", "replace") if ready else ""

    with contextlib.ExitStack() as at_end:
        if keyboard:
            at_end.callback(termios.tcsetattr, descriptor, termios.TCSADRAIN, termios.tcgetattr(descriptor))
            tty.setcbreak(descriptor)
        yield key


def wait(client: dict[str, Any]) -> str:
    """When a limited client may send again: "now", "12 min", "never"; empty for every other client."""
    if client["state"] != LimitState.LIMITED:
        return ""
    if client["opens_in"] is None:
        return "never"
    return span(client["opens_in"]) if client["opens_in"] > 0 else "now"


def cells(client: dict[str, Any]) -> list[str]:
    shown = client | {"status": client["state"], "again in": wait(client)}
    return [plain(shown[name]) for name in COLUMNS]


def rows(clients: Sequence[dict[str, Any]], width: int | None) -> list[str]:
    """The table with its head, without the columns for which the width is too small; None: all columns."""
    cut = [dict(zip(COLUMNS, cells(client), strict=True)) for client in clients]
    widths = {name: max([len(name), *(len(row[name]) for row in cut)]) for name in COLUMNS}
    kept = list(COLUMNS)
    if width is not None:
        kept.remove("name")
        for name in _DROPPED:
            if sum(widths[each] + 2 for each in kept) <= width + 2:
                break
            kept.remove(name)
        if (rest := width - sum(widths[each] + 2 for each in kept)) >= _SHORTEST_NAME:
            kept.append("name")
            for row in cut:
                row["name"] = row["name"] if len(row["name"]) <= rest else f"{row['name'][: rest - 1]}…"
    return table(kept, [[row[name] for name in kept] for row in cut], NUMBERS).splitlines()


def summary(status: dict[str, Any]) -> list[str]:
    """The lines above the table: the daemon's health, then its numbers."""
    mode = " (observe: no message is deferred)" if status["service"]["mode"] == "observe" else ""
    queries, minutes, states = status["scores"], traffic(status), [client["state"] for client in status["clients"]]
    deferred = sum(sum(minute["deferred"].values()) for minute in status["minutes"])
    budget = f" of {queries['daily_limit']:,} today, {queries['used']:,} of {queries['limit']:,} in 30 days"
    # The last minute is the one before the current one; the current one if it is the only one.
    minute = minutes[-2:][0] if minutes else 0
    return [
        plain(f"daemon: {status['health']}{mode}"),
        f"requests: {minute:,} in the last minute, {sum(minutes):,} in the last hour, {deferred:,} deferred",
        f"clients: {states.count(LimitState.LIMITED):,} limited now, {states.count(LimitState.NEAR):,} near the limit",
        f"score queries: {queries['used_today']:,}" + (budget if queries["limit"] else " today, no budget"),
    ]


def traffic(status: dict[str, Any]) -> list[int]:
    """The requests of each minute of the last hour, oldest first."""
    return [sum(minute["passed"].values()) + sum(minute["deferred"].values()) for minute in status["minutes"]]


def sparkline(numbers: list[int]) -> str:
    highest = max(numbers, default=0) or 1
    return "".join(_BLOCKS[math.ceil(number / highest * (len(_BLOCKS) - 1))] for number in numbers)


def screen(shown: dict[str, Any], width: int, height: int, most: int | None) -> "list[Text]":
    """All lines of a terminal of this size; without a number of clients (`most`) as many as there is room for."""
    from rich.text import Text  # noqa: PLC0415 - as above

    health, *numbers = summary(shown)
    lines = [
        Text.assemble(("senderscore-policy", "bold"), (f"  {datetime.now().astimezone():%H:%M:%S}", "dim")),
        *(Text(line, "" if shown["health"] == "ready" else "bold red") for line in wrap(health, width)),
        *(Text(part) for line in numbers for part in wrap(line, width)),
        Text(sparkline(traffic(shown))[-width:], "cyan"),
    ]
    # The head of the table, the last line, and the one that the terminal keeps for itself.
    room = max(1, height - len(lines) - 3)
    clients = shown["clients"][: room if most is None else min(most, room)]
    head, *body = rows(clients, width)
    lines.append(Text(head, "dim"))
    lines += [Text(row, _STYLES[each["state"]]) for row, each in zip(body, clients, strict=True)]
    more = len(shown["clients"]) - len(clients)
    lines.append(Text(f"{more} more; q ends" if more else "q ends", "dim"))
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return lines
