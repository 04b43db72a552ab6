"""The command `explain`: decisions in words."""

import argparse
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, unquote

from senderscore_policy.commands.arguments import add_json, client, configuration
from senderscore_policy.commands.control import find_daemon
from senderscore_policy.commands.output import say, say_json, say_paragraph
from senderscore_policy.maillog.timestamps import as_text
from senderscore_policy.policy.durations import span

EFFECTS: Final = {"accepted": "green", "deferred": "bold red", "rejected": "bold red"}
"""The colour of an effect in a terminal."""
MOST_PRINTED: Final = 10
"""Decisions printed for people, the newest ones; JSON has up to a thousand."""


def verdict(decision: Mapping[str, Any]) -> str:
    word = decision["action"].partition(" ")[0].upper()
    if decision["reason"] == "over-limit" and word == "DUNNO":
        return "accepted, would be deferred"
    if word in {"DUNNO", "OK"}:
        return "accepted"
    if word.startswith(("4", "DEFER")):
        return "deferred"
    return "rejected" if word.startswith("5") or word == "REJECT" else f"answered {word}"


def explanation(decision: Mapping[str, Any], unit: str) -> Iterator[str]:
    """The reason of a decision in sentences; `unit` is such as "messages/hour"."""
    count, limit = decision["count"], decision["limit"]
    match decision["reason"]:
        case "exempt":
            yield "The client's network is in [exempt]: not counted and not limited."
        case "authenticated":
            yield f"The client had logged in as {decision['sasl_username']}: not counted and not limited."
        case "no-address":
            address = decision["client_address"] or "none"
            yield f"Postfix sent no usable client address ({address}): accepted, not counted."
        case "repeat":
            again = "Postfix asked again about a message that was decided within the last minute"
            yield f"{again} (instance {decision['instance']}): the same answer, not counted again."
        case "within-limit":
            yield _origin_of_limit(decision, unit)
            yield f"The window held {count} with this message: within the limit."
        case _:
            yield _origin_of_limit(decision, unit)
            yield f"The window held {count} with this message, above {limit}; deferred messages are not counted."
            if decision["action"] == "DUNNO":
                yield 'With mode = "observe" it was accepted nevertheless.'
    if decision["action"] != "DUNNO":
        yield f"The answer to Postfix: {decision['action']}"


def _origin_of_limit(decision: Mapping[str, Any], unit: str) -> str:
    tier, score = decision["tier"], decision["score"]
    limit = "no limit" if decision["limit"] == "unlimited" else f"{decision['limit']} {unit}"
    match decision["reputation"]:
        case "override" if tier == "override":
            cause = "An [[override]] sets the client's limit"
        case "override":
            cause = f"An [[override]] sets the client's score to {score}, tier {tier}"
        case "scored":
            cause = f"The client's score was {score}{_source(decision)}, tier {tier}"
        case "unknown" if decision["source"] == "none":
            cause = "The zone has no IPv6 and no private addresses, so [unscored] decides"
        case "unknown":
            cause = f"The zone has no score for the client{_source(decision)}, so [unscored] decides"
        case "refused" | "unavailable":
            cause = f"The score could not be read ({decision['detail']}), so [unavailable] decides"
        case _:
            cause = "The client's score was not needed yet; until it is, the smallest limit of all applies"
    return f"{cause}: {limit}."


def _source(decision: Mapping[str, Any]) -> str:
    """The source of a score, in brackets; empty if it is not known any more."""
    age = decision["age"]
    if age is None:
        return ""
    when = "just then" if age < 5 else f"{span(age)} before"
    origin = "looked up over DNS" if decision["source"] == "dns" else "from the shared or saved cache, looked up"
    return f" ({origin} {when})"


def standing_now(client: Mapping[str, Any], unit: str) -> str:
    """A client's count, and when the daemon accepts its next message."""
    text = f"{client['client']} now: {client['count']} of {client['limit']} {unit} (tier {client['tier']})"
    if client["limit"] == "unlimited":
        return f"{text}; it is not limited"
    if client["limit"] == 0:
        return f"{text}; with this limit it can never send"
    if opens_in := client["opens_in"]:
        when = f"in {span(opens_in)} (at {as_text(time.time() + opens_in)})"
        return f"{text}; the daemon accepts one message again {when} if the client sends nothing before"
    score = ", then its score decides" if client["reputation"] == "not-asked" else ""
    return f"{text}; {client['left']} more will be accepted{score}"


def register(parser: argparse.ArgumentParser) -> None:
    parser.description = """Show the recent decisions about a message or a client, and their reasons.

The queue ID is the one in Postfix's log. It leads from a line there to the count, the limit, the score and its source,
and to the time at which the daemon accepts a message of the client again.

The daemon remembers its last 10,000 deferrals and as many other decisions, until it is restarted. If it remembers none,
the exit status is 0, and the output lists the possible reasons."""
    parser.epilog = """examples:
  senderscore-policy explain 4T9xKk3gZ2z1Rw
  senderscore-policy explain 192.0.2.75
  senderscore-policy explain --json 2001:db8::25"""
    add_json(parser)
    help_ = "the message, or the client, as logs write them"
    parser.add_argument("subject", metavar="QUEUE_ID|IP", type=_subject, help=help_)


def _subject(text: str) -> str:
    """The path of the message or client in the daemon's API."""
    # Copied from the log it ends with a colon. Both kinds of Postfix's queue IDs have letters and digits only.
    if found := re.fullmatch(r"([0-9A-Za-z]{1,64}):?", text):
        return f"/api/messages/{found[1]}/decisions"
    try:
        return f"/api/clients/{quote(client(text), safe=':')}/decisions"
    except ValueError:
        raise ValueError(f"{text!r} is neither a queue ID nor an IP address") from None


def run(args: argparse.Namespace) -> int:
    with find_daemon(configuration(args)) as control:
        account = control.call("GET", args.subject)
    unit = f"{account['counted']}/{account['window']}"
    decisions = [each | {"explanation": " ".join(explanation(each, unit))} for each in account["decisions"]]
    if args.json:
        say_json(decisions)
        return 0
    if not decisions:
        say_paragraph(f"Nothing is remembered about {unquote(args.subject.split('/')[3])}. The possible reasons:")
        since = {kind: as_text(moment) for kind, moment in account["remembered_since"].items()}
        begins = f"at {since['over_limit']} for messages above their limit, at {since['others']} for all others"
        for reason in (
            f"The decision is older than the daemon's memory, which begins {begins}. A restart empties it.",
            "Postfix did not ask, since it had rejected the message before, or is not set up to ask (see doctor).",
            "Postfix asked the daemon of another host.",
        ):
            say_paragraph(reason, head=["- "], indent=2)
    elif account["found"] > MOST_PRINTED:
        say(f"The last {MOST_PRINTED} of {account['found']} decisions:\n")
    for decision in decisions[-MOST_PRINTED:]:
        when, effect, *rest = _headline(decision)
        say_paragraph(f"{when}, ", (effect, EFFECTS.get(effect, "bold")), ", ".join(["", *rest]))
        say_paragraph(decision["explanation"], indent=2)
        say("")
    for each in account["clients"]:
        say_paragraph(standing_now(each, unit))
    return 0


def _headline(decision: dict[str, Any]) -> list[str]:
    sender = f"from <{decision['sender']}>"
    parts = [as_text(decision["time"]), verdict(decision), sender, f"client {decision['client_address'] or 'unknown'}"]
    if decision["client"] not in {None, decision["client_address"]}:
        parts.append(f"counted as {decision['client']}")
    if decision["queue_id"]:
        parts.append(f"queue ID {decision['queue_id']}")
    return [*parts, f"at {decision['protocol_state'] or 'an unknown stage'}"]
