"""The command `top`."""

import argparse
import signal
import sys
import time
from collections.abc import Mapping
from typing import NoReturn

from senderscore_policy.cli.arguments import add_config, add_json, checked, configuration
from senderscore_policy.cli.output import say, say_json, table
from senderscore_policy.errors import BackendError
from senderscore_policy.tools import top


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
        type=checked(top.status_listener),
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
    sources = top.sources(args.endpoint, lambda: configuration(args))
    reports = top.ask_all(sources)
    if all(report.overview is None for report in reports):
        raise BackendError("; ".join(report.problem for report in reports))
    overview = top.added_up(reports)
    if args.json:
        say_json(overview | {"clients": overview["clients"][: args.clients]})
    elif args.once or not sys.stdout.isatty():
        _print(overview, args.clients or 20)
    else:
        _watch(sources, args)
    return 0


def _print(overview: dict[str, object], most: int) -> None:
    # Only here: rich takes longer to import than the daemon to answer.
    from senderscore_policy.tools import top_screen  # noqa: PLC0415

    say("\n".join(top_screen.summary(overview)) + "\n")
    clients = overview["clients"]
    assert isinstance(clients, list)
    say(table(top_screen.COLUMNS, [top_screen.cells(client) for client in clients[:most]], top_screen.NUMBERS))


def _watch(sources: Mapping[str, top.Source], args: argparse.Namespace) -> None:
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.live import Live  # noqa: PLC0415

    from senderscore_policy.tools.top_screen import screen  # noqa: PLC0415

    # The terminal is given back as it was, also when the command is ended from elsewhere.
    signal.signal(signal.SIGTERM, _end)
    console = Console()
    try:
        with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                overview = top.added_up(top.ask_all(sources))
                live.update(screen(overview, console.size.height, args.clients), refresh=True)
                time.sleep(args.interval)
    except KeyboardInterrupt:
        return


def _end(*_: object) -> NoReturn:
    raise SystemExit(0)
