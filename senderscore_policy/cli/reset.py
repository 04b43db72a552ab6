"""The command `reset`."""

import argparse

from senderscore_policy.cli.arguments import add_clients, add_config, add_json, configuration
from senderscore_policy.cli.output import say
from senderscore_policy.cli.standings import show
from senderscore_policy.tools.access import open_access


def register(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.description = """Forget the messages that are counted for a client, so that it may send again at once.

Its score stays. Daemons of other hosts that share the counters in memcached follow within 60 s."""
    parser.epilog = """example:
  senderscore-policy reset 192.0.2.75"""
    add_config(parser)
    add_json(parser)
    add_clients(parser)


def run(args: argparse.Namespace) -> int:
    """Forget."""
    with open_access(configuration(args), counters=True) as access:
        clients = [access.reset(address) for address in args.clients]
    show(clients, as_json=args.json)
    notes = dict.fromkeys(client["note"] for client in clients if client.get("note"))
    if not args.json:
        for note in notes:
            say(f"\n{note}")
    return 0
