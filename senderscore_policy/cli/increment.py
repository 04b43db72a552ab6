"""The command `increment`."""

import argparse

from senderscore_policy.cli.arguments import add_clients, add_config, add_json, checked, configuration
from senderscore_policy.cli.standings import show
from senderscore_policy.tools.access import open_access


def register(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.description = """Count messages for a client as if it had sent them, and show how it stands then.

Good for trying out what happens above a limit; "reset" takes it back."""
    parser.epilog = """example:
  senderscore-policy increment 192.0.2.75 --by 800"""
    add_config(parser)
    add_json(parser)
    add_clients(parser)
    parser.add_argument("--by", metavar="N", type=checked(_messages), default=1, help="so many (default: 1)")


def _messages(text: str) -> int:
    if not (text.isdecimal() and text.isascii() and len(text) <= 10 and 1 <= int(text) <= 1_000_000_000):
        raise ValueError(f"{text!r} is not a whole number from 1 to 1000000000")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Count."""
    with open_access(configuration(args), counters=True) as access:
        show([access.increment(address, args.by) for address in args.clients], as_json=args.json)
    return 0
