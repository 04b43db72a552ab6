"""The commands about clients: `get`, `increment`, `reset` and `score`."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from senderscore_policy.commands.arguments import add_json, client, configuration, network, whole
from senderscore_policy.commands.control import open_access
from senderscore_policy.commands.output import say, say_json, say_paragraph, table
from senderscore_policy.policy.durations import span

STATUS: Final = ("client", "count", "deferred", "score", "reputation", "tier", "limit", "left")
SCORE: Final = ("client", "score", "reputation", "tier", "limit", "source", "age")
_NUMBERS: Final = frozenset({"count", "deferred", "score", "limit", "left", "age"})


def _add_arguments(parser: argparse.ArgumentParser, kind: Callable[[str], str] = client) -> None:
    add_json(parser)
    help_ = "the client's address, also as logs write it: mx.example.net[192.0.2.75]"
    parser.add_argument("clients", metavar="IP", nargs="+", type=kind, help=help_)


def _show(args: argparse.Namespace, clients: Sequence[Mapping[str, Any]]) -> int:
    if args.json:
        say_json([{name: client[name] for name in STATUS} for client in clients])
        return os.EX_OK
    say(table(STATUS, [[client[name] for name in STATUS] for client in clients], _NUMBERS))
    for note in dict.fromkeys(each["note"] for each in clients if each.get("note")):
        say(f"\n{note}")
    return os.EX_OK


def register_get(parser: argparse.ArgumentParser) -> None:
    parser.description = """Show what is counted for a client, and what it may still send.

count       messages in the window that were accepted
deferred    messages in the window that were not; the daemon on this host
            counts them
score       as far as it is known; only "score" looks it up
reputation  scored, unknown (no score), refused, unavailable, not-asked (not
            needed yet) or override
tier        the tier or the other limit that is in force
left        messages until the limit"""
    parser.epilog = """examples:
  senderscore-policy get 192.0.2.75
  senderscore-policy get --json 192.0.2.75 2001:db8::25"""
    _add_arguments(parser)


def run_get(args: argparse.Namespace) -> int:
    with open_access(configuration(args), counters=True) as access:
        return _show(args, [access.client(address) for address in args.clients])


def register_increment(parser: argparse.ArgumentParser) -> None:
    parser.description = """Count messages for a client as if it had sent them, and show its new status.

This shows what happens above a limit; "reset" undoes it."""
    parser.epilog = """example:
  senderscore-policy increment 192.0.2.75 --by 800"""
    _add_arguments(parser)
    help_ = "number of messages (default: 1)"
    parser.add_argument("--by", metavar="N", type=whole(1, 1_000_000_000), default=1, help=help_)


def run_increment(args: argparse.Namespace) -> int:
    with open_access(configuration(args), counters=True) as access:
        return _show(args, [access.increment(address, args.by) for address in args.clients])


def register_reset(parser: argparse.ArgumentParser) -> None:
    parser.description = """Forget the messages that are counted for a client, so that it may send again at once.

The score is kept. Daemons of other hosts that share the counters in memcached follow within 60 s. A network means all
clients in it that are counted; of one wider than /24, and of IPv6, those that this host's daemon has seen."""
    parser.epilog = """examples:
  senderscore-policy reset 192.0.2.75
  senderscore-policy reset 198.51.100.0/24"""
    _add_arguments(parser, network)


def run_reset(args: argparse.Namespace) -> int:
    with open_access(configuration(args), counters=True) as access:
        return _show(args, [client for each in args.clients for client in access.reset(each)])


def register_score(parser: argparse.ArgumentParser) -> None:
    parser.description = """Show a client's score, and look it up if it is unknown, which may cost a DNS query. If the
lookup fails, the reason is shown and the exit status is 69.

The running daemon looks it up, within its query budget; without a daemon this command does.

score       0 (worst) to 100 (best)
reputation  scored, unknown (no score), refused, unavailable or override
tier        the tier or the other limit that is in force
source      override (from the configuration), cache, dns, or none (an address
            that the zone cannot have: IPv6, private networks)
age         time since the answer of the zone"""
    parser.epilog = """examples:
  senderscore-policy score 192.0.2.75
  senderscore-policy score --json 192.0.2.75 198.51.100.25"""
    _add_arguments(parser)


def run_score(args: argparse.Namespace) -> int:
    with open_access(configuration(args), counters=False) as access:
        answers = [access.score(address) for address in args.clients]
    scores = [each if each["source"] in {"cache", "dns"} else each | {"age": None} for each in answers]
    failed = [score for score in scores if score["detail"]]
    if args.json:
        say_json([{name: score[name] for name in (*SCORE, "detail")} for score in scores])
    else:
        shown = [score | {"age": None if score["age"] is None else span(score["age"])} for score in scores]
        say(table(SCORE, [[score[name] for name in SCORE] for score in shown], _NUMBERS))
        for score in failed:
            say_paragraph(f"{score['client']} {score['reputation']}: {score['detail']}")
        if failed:
            when = 'at its next reload ("systemctl reload senderscore-policy"), or within two minutes'
            cause = '"senderscore-policy doctor" looks for the cause'
            say_paragraph(f"{cause}. Once it is fixed, the daemon asks again {when}.")
    return os.EX_UNAVAILABLE if failed else 0
