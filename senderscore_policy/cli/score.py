"""The command `score`."""

import argparse
from typing import Any, Final

from senderscore_policy.cli.arguments import add_clients, add_config, add_json, configuration
from senderscore_policy.cli.output import say, say_json, table
from senderscore_policy.tools.access import open_access

COLUMNS: Final = ("client", "score", "reputation", "tier", "limit", "source", "age")
NUMBERS: Final = frozenset({"score", "limit", "age"})


def register(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.description = """Show a client's score, and look it up if it is not at hand: that may cost a DNS query.

The running daemon does it, within its query budget; without one this command asks by itself.

score       0 (worst) to 100 (best)
reputation  scored, unknown (no score), refused, unavailable or override
tier        the tier, or another rule, that the limit comes from
source      override (the configuration gives it), cache, dns, or none (the zone is not asked about IPv6)
age         since the zone said so"""
    parser.epilog = """examples:
  senderscore-policy score 192.0.2.75
  senderscore-policy score --json 192.0.2.75 198.51.100.25"""
    add_config(parser)
    add_json(parser)
    add_clients(parser)


def run(args: argparse.Namespace) -> int:
    """Show the scores."""
    with open_access(configuration(args), counters=False) as access:
        scores = [access.score(address) for address in args.clients]
    if args.json:
        say_json([{name: score[name] for name in COLUMNS} for score in scores])
    else:
        shown = [score | {"age": _age(score)} for score in scores]
        say(table(COLUMNS, [[score[name] for name in COLUMNS] for score in shown], NUMBERS))
    return 0


def _age(score: dict[str, Any]) -> str | None:
    """The score's age in its largest unit, "5 min"; None if it does not come from the zone."""
    if score["source"] not in ("cache", "dns"):
        return None
    seconds = score["age"]
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
