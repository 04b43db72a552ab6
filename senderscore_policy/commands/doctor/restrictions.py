"""Where in Postfix's restriction lists a policy server is asked: from their text to values.

The lists are those of postconf(5) and SMTPD_ACCESS_README.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

END_OF_DATA: Final = "smtpd_end_of_data_restrictions"
DATA: Final = "smtpd_data_restrictions"
RELAY: Final = "smtpd_relay_restrictions"
RECIPIENT: Final = "smtpd_recipient_restrictions"
EARLY: Final = ("smtpd_client_restrictions", "smtpd_helo_restrictions", "smtpd_sender_restrictions")
LATE: Final = (DATA, END_OF_DATA, "smtpd_etrn_restrictions")

_FINAL: Final = frozenset({"permit", "reject", "defer"})
"""What stands behind one of these in its list is never reached."""
_RELAY_GUARDS: Final = frozenset({"reject_unauth_destination", "defer_unauth_destination", "reject", "defer"})
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DEEPEST: Final = 10
"""Restriction classes inside each other; Postfix itself would not end with more."""


@dataclass(frozen=True, slots=True)
class Hook:
    """One `check_policy_service`.

    Args:
        parameter: the restriction list that it stands in.
        endpoint: as it stands there, "inet:127.0.0.1:10045".
        options: its own, such as timeout.
        reached: nothing before it in its list ends the evaluation for every client.
        guarded: asked only about mail that may be relayed: `reject_unauth_destination` comes before.
        warned: behind `warn_if_reject`: a deferral is only logged.
    """

    parameter: str
    endpoint: str
    options: Mapping[str, str]
    reached: bool
    guarded: bool
    warned: bool


def tokens(text: str) -> list[str]:
    """The elements of a list: separated by commas and white space, those in braces as a whole (mystrtokq)."""
    found: list[str] = []
    depth, current = 0, ""
    for character in text:
        depth += (character == "{") - (character == "}")
        if depth <= 0 and character in ", \t\r\n":
            found += [current] if current else []
            current = ""
        else:
            current += character
    return [*found, current] if current else found


def hooks(parameters: Mapping[str, str]) -> list[Hook]:
    """The policy services that one smtpd asks, in the order in which it comes to them.

    Args:
        parameters: as they hold for it, expanded.
    """
    # Before Postfix 3.6, which brought the parameter, it was this way round.
    relaying = (RECIPIENT, RELAY)
    if parameters.get("smtpd_relay_before_recipient_restrictions") == "yes":
        relaying = (RELAY, RECIPIENT)
    found: list[Hook] = []
    guarded = False
    for parameter in (*EARLY, *relaying, *LATE):
        reached = True
        elements = _expanded(parameters.get(parameter, ""), parameters)
        for index, element in enumerate(elements):
            word = element.lower()
            if word == "check_policy_service" and index + 1 < len(elements):
                endpoint, options = _service(elements[index + 1])
                warned = index > 0 and elements[index - 1].lower() == "warn_if_reject"
                found.append(Hook(parameter, endpoint, options, reached, guarded, warned))
            reached &= word not in _FINAL
            # In other lists these words stop only some clients, and say nothing of relaying.
            guarded |= parameter in {RELAY, RECIPIENT} and word in _RELAY_GUARDS
    return found


def _expanded(text: str, parameters: Mapping[str, str], depth: int = 0) -> list[str]:
    """The elements of a list, the restriction classes in it replaced by what they stand for."""
    classes = tokens(parameters.get("smtpd_restriction_classes", ""))
    elements: list[str] = []
    for element in tokens(text):
        if element in classes and depth < _DEEPEST:
            elements += _expanded(parameters.get(element, ""), parameters, depth + 1)
        else:
            elements.append(element)
    return elements


def _service(element: str) -> tuple[str, dict[str, str]]:
    """Endpoint and options of a policy service: `inet:…`, or `{ inet:…, timeout=10s, … }`."""
    endpoint, *options = tokens(_without_braces(element)) or [""]
    pairs = (_without_braces(option).partition("=") for option in options)
    return endpoint, {name.strip(): value.strip() for name, _, value in pairs}


def _without_braces(text: str) -> str:
    return text[1:-1].strip() if text.startswith("{") and text.endswith("}") else text


def seconds(text: str) -> float | None:
    """A time value of Postfix, "10s" or "2m"; None if it is none."""
    found = re.fullmatch(r"(\d+)([smhdw]?)", text)
    return int(found[1]) * _UNITS[found[2] or "s"] if found else None
