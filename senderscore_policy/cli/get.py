"""The command `get`."""

import argparse

from senderscore_policy.cli.arguments import add_clients, add_config, add_json, configuration
from senderscore_policy.cli.standings import show
from senderscore_policy.tools.access import open_access


def register(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.description = """Show what is counted for a client, and what it may still send.

count       messages in the window that were let in
deferred    messages in the window that were not, as the daemon on this host has seen them
score       as known; it is not looked up for this ("score" does)
reputation  scored, unknown (no score), refused, unavailable, not-asked (not needed yet) or override
tier        the tier, or another rule, that the limit comes from
left        messages until the limit"""
    parser.epilog = """examples:
  senderscore-policy get 192.0.2.75
  senderscore-policy get --json 192.0.2.75 2001:db8::25"""
    add_config(parser)
    add_json(parser)
    add_clients(parser)


def run(args: argparse.Namespace) -> int:
    """Show the clients."""
    with open_access(configuration(args), counters=True) as access:
        show([access.client(address) for address in args.clients], as_json=args.json)
    return 0
