"""The command `explain`."""

import argparse
import re
import time
from typing import Any, Final
from urllib.parse import quote

from senderscore_policy.cli.arguments import add_config, add_json, checked, client, configuration
from senderscore_policy.cli.output import say, say_json
from senderscore_policy.config.paths import control_paths
from senderscore_policy.tools.control import find_daemon
from senderscore_policy.tools.explain import explanation, nothing_found, standing_now, verdict
from senderscore_policy.tools.maillog_stamps import as_text

MOST_PRINTED: Final = 10
"""Decisions printed for people, the newest ones; JSON has up to a thousand."""


def register(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.description = """Show the recent decisions about a message or a client, and why they were made.

The queue ID is the one in Postfix's log: it leads from a line there to the count, the limit, the score and
where that came from, and to the time at which the client is let in again.

The daemon remembers its last 10,000 deferrals and as many other decisions, until it is restarted. When it
remembers none, the exit status is 0 all the same, and the output says what that can mean."""
    parser.epilog = """examples:
  senderscore-policy explain 4T9xKk3gZ2z1Rw
  senderscore-policy explain 192.0.2.75
  senderscore-policy explain --json 2001:db8::25"""
    add_config(parser)
    add_json(parser)
    parser.add_argument("subject", metavar="QUEUE_ID|IP", type=checked(_subject), help="the message or the client")


def _subject(text: str) -> str:
    """The path of what is asked about, in the daemon's API."""
    try:
        return f"/api/clients/{quote(client(text), safe=':')}/decisions"
    except ValueError:
        # As copied from the log, with its colon. Both of Postfix's kinds of queue ID are of letters and digits.
        found = re.fullmatch(r"([0-9A-Za-z]{1,64}):?", text)
        if found is None:
            raise ValueError(f"{text!r} is neither a queue ID nor an IP address") from None
        return f"/api/messages/{found[1]}/decisions"


def run(args: argparse.Namespace) -> int:
    """Explain."""
    with find_daemon(control_paths(configuration(args))) as control:
        account = control.request("GET", args.subject)
    decisions = account["decisions"]
    if args.json:
        say_json([decision | {"explanation": explanation(decision, account)} for decision in decisions])
        return 0
    if not decisions:
        for line in nothing_found(args.subject.split("/")[3], account):
            say(line)
    elif account["found"] > MOST_PRINTED:
        say(f"{account['found']} decisions are remembered; the last {MOST_PRINTED}:\n")
    for decision in decisions[-MOST_PRINTED:]:
        say(f"{_headline(decision)}\n  {explanation(decision, account)}\n")
    for each in account["clients"]:
        say(standing_now(each, account, time.time()))
    return 0


def _headline(decision: dict[str, Any]) -> str:
    sender = f"from <{decision['sender']}>"
    parts = [as_text(decision["time"]), verdict(decision), sender, f"client {decision['client_address'] or 'unknown'}"]
    if decision["client"] not in {None, decision["client_address"]}:
        parts.append(f"counted as {decision['client']}")
    if decision["queue_id"]:
        parts.append(f"queue ID {decision['queue_id']}")
    return ", ".join([*parts, f"at {decision['protocol_state'] or 'an unknown stage'}"])
