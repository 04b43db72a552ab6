"""The command `forecast`."""

import argparse
import contextlib
import csv
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_network
from itertools import compress
from pathlib import Path
from typing import Any, Final

from senderscore_policy.commands.arguments import configuration
from senderscore_policy.commands.forecast.report import Report
from senderscore_policy.commands.forecast.scores import Scores, read_scores, reputation_of
from senderscore_policy.commands.forecast.simulation import Case, ClientForecast
from senderscore_policy.commands.output import counted, say, table
from senderscore_policy.config.load import load
from senderscore_policy.config.paths import config_file
from senderscore_policy.errors import InputError
from senderscore_policy.maillog.files import JOURNAL, Advance, size_of, title, written_at
from senderscore_policy.maillog.messages import read_logs
from senderscore_policy.maillog.timestamps import for_people
from senderscore_policy.policy.clients import Network, NetworkTable
from senderscore_policy.policy.reputation import UNKNOWN, Scored, Unknown
from senderscore_policy.policy.status import limit_as_json
from senderscore_policy.web.chart import Span
from senderscore_policy.web.html import render

Rows = Sequence[tuple[Any, ...]]
ROWS: Final = 20
"""Clients in a table of the text."""
COLUMNS: Final = (
    "client", "host", "score", "origin", "tier", "limit", "messages", "peak", "deferred", "late",
    "first_deferred", "last_deferred", "hours_deferred",
)  # fmt: skip
"""Of --csv."""
EXPENDABLE: Final = ("last deferred", "first deferred", "score", "peak")
"""Columns that a narrow terminal does without, in this order."""
SHORTEST_NAME: Final = 16
TEXTS: Final = frozenset({"client", "tier", "first deferred", "last deferred", "host"})
"""Columns of the text that are not numbers."""
MOST_CLIENTS: Final = 200
"""Rows of a table of clients on the page; a page of all would be too large for a phone."""


def register(parser: argparse.ArgumentParser) -> None:
    parser.description = """Replay mail logs against the limits: which clients would have been deferred, and when.

Without a MAILLOG it reads the journal. It understands Postfix's lines in syslog files, journalctl's output
and container logs, also packed (.gz, .bz2, .xz), in any order; a message in several files counts once.

The scores come from --scores, from the daemon's cache, and with --lookup from DNS, for those clients alone
that sent more than the smallest limit. All others are assumed to have what --assume says."""
    parser.epilog = """examples:
  senderscore-policy forecast
  senderscore-policy forecast /var/log/mail.log /var/log/mail.log.*
  senderscore-policy forecast --lookup --html forecast.html /var/log/mail.log
  senderscore-policy forecast --compare stricter.toml --assume 50 /var/log/mail.log
  docker compose logs postfix | senderscore-policy forecast -"""
    add = parser.add_argument
    add("logs", metavar="MAILLOG", nargs="*", help="a mail log; - is standard input (default: the journal)")
    add("--scores", metavar="FILE", type=Path, help='"address-or-network,score" a line; or the output of --csv')
    add("--lookup", action="store_true", help="look up over DNS, within the query budget, the scores that decide")
    help_ = "the score of clients whose score is unknown (default: unscored, and the range of results)"
    add("--assume", metavar="SCORE|unscored", type=reputation_of, help=help_)
    help_ = 'networks that main.cf permits before the check: "$(postconf -xh mynetworks)"'
    add("--not-asked", metavar="NETWORKS", type=_networks, default=(), help=help_)
    add("--compare", metavar="OTHER.toml", type=Path, help="show what this configuration would change")
    add("--html", metavar="OUT", type=Path, help="write the report as a page to this file")
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="print JSON, for programs")
    forms.add_argument("--csv", action="store_true", help="print a line for each client, for spreadsheets")


def _networks(text: str) -> tuple[Network, ...]:
    """The value of --not-asked, in the notation of Postfix's mynetworks; raises ValueError for anything else."""
    parts = re.sub(r"[\[\]]", "", text.replace(",", " ")).split()
    try:
        return tuple(ip_network(part, strict=False) for part in parts)
    except ValueError as error:
        raise ValueError(f"{error}; name networks only, not tables or host names") from error


def run(args: argparse.Namespace) -> int:
    report = _report(args)
    if args.html:
        _write_page(args.html, report)
    if args.json:
        sys.stdout.writelines(report.json_text())
    elif args.csv:
        writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(client.as_json() for client in report.forecast.clients)
        sys.stderr.write("\n".join((f"{report.period}: {report.summary()}.", *report.notes(), "")))
    else:
        _say(report)
        if args.html:
            say(f"\nThe whole report is in {args.html}.")
    return os.EX_OK


def _report(args: argparse.Namespace) -> Report:
    path = config_file(args.config)
    config = configuration(args)
    other = load(args.compare) if args.compare else None
    given: NetworkTable[Scored | Unknown] = read_scores(args.scores) if args.scores else NetworkTable(())
    if args.html and not args.html.absolute().parent.is_dir():
        raise InputError(f"{args.html}: there is no such directory to write it to")
    logs = sorted(args.logs or [JOURNAL], key=written_at)
    with _progress(size_of(logs)) as advance:
        traffic = read_logs(logs, advance)
    cases = [Case(each, traffic, args.not_asked) for each in (config, other) if each]
    scores = Scores(given, args.assume or UNKNOWN)
    wanted = dict.fromkeys(client.address for case in cases for client in case.undecided())
    trouble = scores.learn(config, wanted, lookup=args.lookup)
    forecast, *others = [case.forecast(scores) for case in cases]
    return Report(
        [title(name) for name in logs], traffic, args.assume, trouble, str(path or "the built-in defaults"), forecast,
        other_name=str(args.compare or ""), other=others[0] if others else None,
    )  # fmt: skip


@contextlib.contextmanager
def _progress(total: int | None) -> Iterator[Advance]:
    """A bar on the terminal while the logs are read; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    # Only here: it takes longer to import than a short log to read.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading", total=total)
        yield lambda count: progress.advance(task, count)


def _write_page(path: Path, report: Report) -> None:
    """Write the report as one HTML page without links to other files."""
    forecast = report.forecast
    axis = Span(list(forecast.hourly)) if forecast.hourly else None
    text = render("forecast.html", report=report, forecast=forecast, axis=axis, most=MOST_CLIENTS, made=time.time())
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except PermissionError as error:
        raise PermissionError(f"{path}: permission denied") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def _say(report: Report) -> None:
    say(f"{report.period}: {report.summary()}.")
    for sentence in report.details():
        say(textwrap.fill(sentence, _width(100)))
    say(f"\nLimits of {report.name}, in {report.counted_in}:\n")
    say(_table(("tier", "limit", "clients", "messages", "deferred"), report.bands()))
    if report.is_range:
        deciding = report.forecast.deciding
        rows: Rows = [(each.key, each.messages, each.peak, each.worst.ends.total(), each.name) for each in deciding]
        _say_table("Clients whose score decides", ("client", "messages", "peak", "deferred at most", "host"), rows)
    head = ("client", "score", "limit", "messages", "peak", "deferred", "first deferred", "last deferred", "host")
    rows = [(*_row(each), each.deferred, *map(for_people, each.tally.span), each.name) for each in report.limited]
    _say_table("Deferred most", head, rows)
    rows = [(*_row(each), each.name) for each in report.near]
    _say_table("Near their limit (80% or more)", ("client", "score", "limit", "messages", "peak", "host"), rows)
    if report.other is not None:
        say(f"\nUnder {report.other_name}: {counted(report.other.deferred, 'message')} deferred.")
        changes = [(each.client, *each.deferred) for each in report.changes()]
        rows = [(each.key, each.messages, old, new, f"{new - old:+,}", each.name) for each, old, new in changes]
        _say_table("Changed most", ("client", "messages", "deferred", "there", "change", "host"), rows)
    for note in report.notes():
        say(f"\n{textwrap.fill(note, _width(100))}")


def _say_table(title: str, head: tuple[str, ...], rows: Rows) -> None:
    """Print the first rows; in a narrow terminal with fewer columns and the last one cut."""
    if not rows:
        return
    for dropped in range(len(EXPENDABLE) + 1):
        kept = [column not in EXPENDABLE[:dropped] for column in head]
        columns, *shown = [list(compress(row, kept)) for row in (head, *rows[:ROWS])]
        others = _table(columns[:-1], [row[:-1] for row in shown]).splitlines()
        room = _width(1000) - max(map(len, others)) - 2
        if room >= SHORTEST_NAME:
            break
    for row in shown:
        if len(row[-1]) > room:
            row[-1] = f"{row[-1][: max(SHORTEST_NAME, room) - 1]}…"
    say(f"\n{title}:\n\n{_table(columns, shown)}")
    if len(rows) > ROWS:
        say(f"… and {len(rows) - ROWS:,} more; --html, --csv and --json show more")


def _width(most: int) -> int:
    return min(most, shutil.get_terminal_size((120, 24)).columns)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    texts = [[f"{value:,}" if isinstance(value, int) else value for value in row] for row in rows]
    return table(head, texts, frozenset(head) - TEXTS)


def _row(client: ClientForecast) -> tuple[object, ...]:
    return client.key, client.score, limit_as_json(client.limit.messages), client.messages, client.peak
