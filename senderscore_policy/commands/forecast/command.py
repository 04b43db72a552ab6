"""The command `forecast`."""

import argparse
import contextlib
import csv
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from senderscore_policy.commands.arguments import add_config, checked, given_file
from senderscore_policy.commands.forecast.page import page
from senderscore_policy.commands.forecast.report import Change, Report
from senderscore_policy.commands.forecast.scores import Scores, learn, read_scores
from senderscore_policy.commands.forecast.simulation import Case, ClientForecast
from senderscore_policy.commands.output import say, say_json, table
from senderscore_policy.config.load import load
from senderscore_policy.config.paths import config_file
from senderscore_policy.errors import InputError
from senderscore_policy.maillog.files import STDIN, Advance, in_order_of_age, size_of
from senderscore_policy.maillog.messages import read_logs
from senderscore_policy.maillog.timestamps import for_people
from senderscore_policy.policy.clients import NetworkTable
from senderscore_policy.policy.reputation import UNKNOWN, Scored, Unknown

ROWS: Final = 20
"""Clients that the text shows."""
COLUMNS: Final = ("client", "score", "tier", "limit", "messages", "deferred", "first_deferred")
NUMBERS: Final = frozenset({"score", "limit", "messages", "deferred", "clients", "there", "change"})


def register(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.description = """Replay mail logs against the limits: who would have been deferred, and when first.

The daemon's own engine decides, by the clock of the log. Logs are Postfix's, as syslog or the journal
has them (text, -o json, -o export), also packed (.gz, .bz2, .xz, .zst), in any order.

The scores come from --scores, from what the daemon has in its cache, and with --lookup from DNS, for
those clients alone that sent more than the smallest limit. All others are taken as --assume says."""
    parser.epilog = """examples:
  senderscore-policy forecast /var/log/mail.log /var/log/mail.log.*
  senderscore-policy forecast --scores scores.csv --html forecast.html /var/log/mail.log
  senderscore-policy forecast --compare stricter.toml --assume 50 /var/log/mail.log
  journalctl -t postfix/smtpd -t postfix/cleanup -t postfix/qmgr -o short-iso | senderscore-policy forecast -"""
    add_config(parser)
    parser.add_argument("logs", metavar="MAILLOG", nargs="+", help="a mail log; - is standard input")
    parser.add_argument(
        "--scores", metavar="FILE", type=Path, help='scores: "address-or-network,score" a line, # begins a comment'
    )
    parser.add_argument("--lookup", action="store_true", help="look up over DNS, within the query budget, what decides")
    parser.add_argument(
        "--assume",
        metavar="SCORE|unscored",
        type=checked(_assumption),
        default=UNKNOWN,
        help="what to take for clients without a known score (default: unscored)",
    )
    parser.add_argument("--compare", metavar="OTHER.toml", type=Path, help="show what this configuration would change")
    parser.add_argument("--html", metavar="OUT", type=Path, help="write the report as a page to this file")
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="print JSON, for programs")
    forms.add_argument("--csv", action="store_true", help="print a line for each client, for spreadsheets")


def _assumption(text: str) -> Scored | Unknown:
    """The value of --assume.

    Raises:
        ValueError: it is none.
    """
    if text == "unscored":
        return UNKNOWN
    if text.isdecimal() and int(text) <= 100:
        return Scored(int(text))
    raise ValueError(f"{text!r} is neither a score from 0 to 100 nor unscored")


def run(args: argparse.Namespace) -> int:
    """Make the forecast, and show it."""
    try:
        report = _report(args)
        if args.html:
            _write(args.html, page(report))
    except InputError as error:
        sys.stderr.write(f"senderscore-policy: {error}\n")
        return os.EX_USAGE
    if args.json:
        result = report.forecast.as_json()
        say_json(result | ({"compare": report.other.as_json()} if report.other else {}))
    elif args.csv:
        writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(client.as_json() for client in report.forecast.clients)
    else:
        _say(report)
        if args.html:
            say(f"\nThe whole report is in {args.html}.")
    return os.EX_OK


def _report(args: argparse.Namespace) -> Report:
    path = config_file(given_file(args))
    config = load(path)
    other = load(args.compare) if args.compare else None
    given: NetworkTable[int] = read_scores(args.scores) if args.scores else NetworkTable(())
    if args.html and not args.html.absolute().parent.is_dir():
        raise InputError(f"{args.html}: there is no such directory to write it to")
    logs = in_order_of_age(args.logs)
    with _progress(size_of(logs)) as advance:
        traffic = read_logs(logs, advance)
        cases = [Case(each, traffic) for each in (config, other) if each]
    scores = Scores(given, args.assume)
    clients = dict.fromkeys(address for case in cases for address in case.addresses())
    wanted = dict.fromkeys(address for case in cases for address in case.undecided())
    trouble = learn(scores, config, clients, wanted, lookup=args.lookup)
    forecast, *others = [case.forecast(scores) for case in cases]
    return Report(
        logs=["standard input" if name == STDIN else name for name in logs],
        traffic=traffic,
        scores=scores,
        guessed=sum(not scores.is_known(address) for address in wanted),
        trouble=trouble,
        name=str(path) if path else "the built-in defaults",
        forecast=forecast,
        other_name=str(args.compare or ""),
        other=others[0] if others else None,
    )


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


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except PermissionError:
        raise
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def _say(report: Report) -> None:
    """Print the report for people."""
    say(f"{report.period}: {report.summary()}.")
    say(f"\nLimits of {report.name}, in {report.counted_in}:\n")
    bands = [(each.tier, each.limit, each.clients, each.messages, each.deferred) for each in report.bands()]
    say(table(("tier", "limit", "clients", "messages", "deferred"), bands, NUMBERS))
    if report.limited:
        say("\nDeferred most:\n")
        say(table((*COLUMNS, "host"), [_row(client) for client in report.limited[:ROWS]], NUMBERS))
        _say_more(len(report.limited))
    if report.other is not None:
        say(f"\nUnder {report.other_name}: {report.other.deferred:,} messages deferred.")
        changes = report.changes()
        if changes:
            say("\nChanged most:\n")
            head = ("client", "messages", "deferred", "there", "change", "host")
            say(table(head, [_change(change) for change in changes[:ROWS]], NUMBERS))
            _say_more(len(changes))
    for note in report.notes():
        say(f"\n{textwrap.fill(note, 100)}")


def _say_more(rows: int) -> None:
    if rows > ROWS:
        say(f"… and {rows - ROWS:,} more; --html, --csv and --json show more")


def _row(client: ClientForecast) -> tuple[object, ...]:
    values = client.as_json() | {"first_deferred": for_people(client.first_deferred or 0)}
    return *(values[name] for name in COLUMNS), client.name


def _change(change: Change) -> tuple[object, ...]:
    here, there = change.deferred
    client = change.client
    return client.key, client.messages, here, there, f"{there - here:+,}", client.name
