"""The command `ask`."""

import argparse

from senderscore_policy.cli.arguments import add_config, add_json, checked, configuration
from senderscore_policy.cli.output import say, say_json
from senderscore_policy.config.values import endpoint
from senderscore_policy.tools import ask


def register(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.description = """Send one policy request to the running daemon, as Postfix does, and print the action.

It counts like a message: each call sends a new instance, unless one is given."""
    parser.epilog = """examples:
  senderscore-policy ask client_address=192.0.2.75
  senderscore-policy ask client_address=2001:db8::25 recipient_count=50 sasl_username=joe
  senderscore-policy ask --endpoint unix:/run/senderscore-policy/policy.sock"""
    add_config(parser)
    add_json(parser)
    parser.add_argument(
        "--endpoint",
        metavar="E",
        type=checked(endpoint),
        help="where to ask, in Postfix's notation: inet:HOST:PORT or unix:/PATH (default: the first of listen.policy)",
    )
    parser.add_argument(
        "--timeout", metavar="S", type=checked(_seconds), default=10.0, help="seconds to wait (default: 10)"
    )
    parser.add_argument(
        "attributes",
        metavar="key=value",
        nargs="*",
        type=checked(_attribute),
        help="attributes of the request, see SMTPD_POLICY_README of Postfix; the rest has sensible values",
    )


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 3600:
        raise ValueError(f"{text!r} is no number of seconds above 0 and up to 3600")
    return seconds


def _attribute(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals or set("\n\r\0") & set(text):
        raise ValueError(f"{text!r} is not of the form key=value, on one line")
    return name, value


def run(args: argparse.Namespace) -> int:
    """Ask."""
    where = args.endpoint or configuration(args).listen.policy[0]
    action = ask.ask(where, dict(args.attributes), args.timeout)
    if args.json:
        say_json({"action": action})
    else:
        say(f"action={action}")
    return 0
