"""Decisions in words that a mail administrator understands."""

from collections.abc import Iterator, Mapping
from typing import Any

from senderscore_policy.daemon.spans import span
from senderscore_policy.tools.maillog_stamps import as_text

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
        case "unknown" if ":" in decision["client"]:
            cause = "The zone holds no IPv6 addresses, so the client falls under [unscored]"
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
