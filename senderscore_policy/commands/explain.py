"""Decisions in words that a mail administrator understands."""

import argparse
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

from senderscore_policy.commands.arguments import add_config, add_json, checked, client, configuration
from senderscore_policy.commands.control import find_daemon
from senderscore_policy.commands.output import say, say_json
from senderscore_policy.config.paths import control_paths
from senderscore_policy.maillog.timestamps import as_text
from senderscore_policy.policy.durations import span

Account = Mapping[str, Any]
"""The daemon's answer to "what do you know about this client, or message?"."""


def verdict(decision: Mapping[str, Any]) -> str:
    """What became of the message, as far as this policy is concerned, in one or two words."""
    word = decision["action"].partition(" ")[0].upper()
    if decision["reason"] == "over-limit" and word == "DUNNO":
        return "let in, would be deferred"
    if word in {"DUNNO", "OK"}:
        return "let in"
    if word.startswith(("4", "DEFER")):
        return "deferred"
    return "rejected" if word.startswith("5") or word == "REJECT" else f"answered {word}"


def explanation(decision: Mapping[str, Any], account: Account) -> str:
    """Why a request got its answer: a few sentences.

    Args:
        decision: one of those of the account.
        account: tells the window, and what is counted.
    """
    return " ".join(_sentences(decision, f"{account['counted']}/{account['window']}"))


def _sentences(decision: Mapping[str, Any], unit: str) -> Iterator[str]:
    count, limit = decision["count"], decision["limit"]
    match decision["reason"]:
        case "exempt":
            yield "The client's network is in [exempt]: neither counted nor limited."
        case "authenticated":
            yield f"The client had logged in as {decision['sasl_username']}: neither counted nor limited."
        case "no-address":
            yield f"Postfix named no usable client address ({decision['client_address'] or 'none'}): let in, uncounted."
        case "repeat":
            yield (
                f"Asked again about a message that was decided within the minute before (instance "
                f"{decision['instance']}): the same answer, and no second count."
            )
        case "within-limit":
            yield _origin_of_limit(decision, unit)
            yield f"The window held {count} with this message: within the limit."
        case _:
            yield _origin_of_limit(decision, unit)
            yield f"The window held {count} with this message, above {limit}; what is not let in is not counted."
            if decision["action"] == "DUNNO":
                yield 'With mode = "observe" it was let in all the same.'
    if decision["action"] != "DUNNO":
        yield f"Postfix was told: {decision['action']}"


def _origin_of_limit(decision: Mapping[str, Any], unit: str) -> str:
    """Which limit the client had, and why that one."""
    tier, score = decision["tier"], decision["score"]
    limit = "no limit" if decision["limit"] == "unlimited" else f"{decision['limit']} {unit}"
    match decision["reputation"]:
        case "override" if tier == "override":
            cause = "An [[override]] gives the client a limit of its own"
        case "override":
            cause = f"An [[override]] gives the client the score {score}, tier {tier}"
        case "scored":
            cause = f"The client's score was {score}{_source(decision)}, tier {tier}"
        case "unknown" if decision["source"] == "none":
            cause = "The zone has no IPv6 and no private addresses, so the client falls under [unscored]"
        case "unknown":
            cause = f"The zone has no score for the client{_source(decision)}, it falls under [unscored]"
        case "refused" | "unavailable":
            cause = f"The score could not be read ({decision['detail']}), the client falls under [unavailable]"
        case _:
            cause = "The client's score was not needed yet, it has the smallest limit that any client can have"
    return f"{cause}: {limit}."


def _source(decision: Mapping[str, Any]) -> str:
    """Where a score came from, in brackets; empty if that is not known any more."""
    age = decision["age"]
    if age is None:
        return ""
    when = "just then" if age < 5 else f"{span(age)} before"
    origin = "looked up over DNS" if decision["source"] == "dns" else "from the shared or saved cache, looked up"
    return f" ({origin} {when})"


def standing_now(client: Mapping[str, Any], account: Account, now: float) -> str:
    """How a client stands now, and when it is let in again.

    Args:
        client: one of those of the account.
        account: tells the window, and what is counted.
        now: seconds since the epoch.
    """
    unit = f"{account['counted']}/{account['window']}"
    text = f"{client['client']} now: {client['count']} of {client['limit']} {unit} (tier {client['tier']})"
    if client["limit"] == "unlimited":
        return f"{text}; no limit holds for it"
    if client["limit"] == 0:
        return f"{text}; it is never let in with this limit"
    opens_in = client["opens_in"]
    if opens_in:
        at = as_text(now + opens_in)
        return f"{text}; let in again in {span(opens_in)}, at {at}, for one message if none comes before"
    score = ", then its score decides" if client["reputation"] == "not-asked" else ""
    return f"{text}; {client['left']} more are let in{score}"


def nothing_found(subject: str, account: Account) -> Iterator[str]:
    """What it can mean that no decision is remembered."""
    since = account["remembered_since"]
    yield f"Nothing is remembered about {subject}. That can mean:"
    yield (
        f"- it was decided before the daemon's memory begins: {as_text(since['over_limit'])} for messages above their "
        f"limit, {as_text(since['others'])} for all others; a restart empties it"
    )
    yield "- Postfix did not ask: it had rejected the message before, or it does not ask this daemon at all (doctor)"
    yield "- the daemon of another host was asked"


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
