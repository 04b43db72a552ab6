"""Postfix's restriction lists: where they ask a policy server, and what smtpd cannot read in them.

The lists and their words are those of postconf(5), access(5) and SMTPD_ACCESS_README; what smtpd makes of a mistake
is in its source (smtpd_check.c, attr_override.c).
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final

END_OF_DATA: Final = "smtpd_end_of_data_restrictions"
DATA: Final = "smtpd_data_restrictions"
RELAY: Final = "smtpd_relay_restrictions"
RECIPIENT: Final = "smtpd_recipient_restrictions"
_EARLY: Final = ("smtpd_client_restrictions", "smtpd_helo_restrictions", "smtpd_sender_restrictions")
_LATE: Final = (DATA, END_OF_DATA, "smtpd_etrn_restrictions")
CHECK: Final = "check_policy_service"
OWN_NETWORKS: Final = "permit_mynetworks"

_CLASSES: Final = "smtpd_restriction_classes"
_ENDS: Final = frozenset({"permit", "reject", "defer"})  # the words that end a list for every client
_STATIC_END: Final = re.compile(r"(?i)\{?\s*(ok|relay|permit|\d+|(?:reject|defer|[45]\d\d|discard)\b(?!_).*)\s*\}?")
"""A result of an access map that ends the list (access(5))."""
_RELAY_GUARDS: Final = frozenset({"reject_unauth_destination", "defer_unauth_destination", "reject", "defer"})
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DEEPEST: Final = 10  # restriction classes inside each other; Postfix itself would not end with more

_CLIENT_OR_ADDRESS: Final = ("client", "reverse_client_hostname", "helo", "sender", "recipient")
_SUBJECTS: Final = [who + what for who in _CLIENT_OR_ADDRESS for what in ("", "_a", "_mx", "_ns")]
_ACCESS: Final = frozenset(f"check_{name}_access" for name in ("etrn", "ccert", "sasl", *_SUBJECTS))
_WITH_ARGUMENT: Final = frozenset(
    """sleep reject_rbl reject_rbl_client reject_rhsbl_client reject_rhsbl_reverse_client reject_rhsbl_helo
    reject_rhsbl_sender reject_rhsbl_recipient permit_dnswl_client permit_rhswl_client""".split()  # noqa: SIM905 - as a list of literals it fills a screen
)
_PLAIN: Final = frozenset(
    """permit reject defer defer_if_permit defer_if_reject reject_unauth_pipelining reject_plaintext_session
    reject_unknown_client reject_unknown_client_hostname reject_unknown_reverse_client_hostname permit_inet_interfaces
    permit_mynetworks reject_maps_rbl reject_invalid_helo_hostname reject_invalid_hostname reject_unknown_helo_hostname
    reject_unknown_hostname permit_naked_ip_address reject_non_fqdn_helo_hostname reject_non_fqdn_hostname
    reject_unknown_address reject_unknown_sender_domain reject_unverified_sender reject_non_fqdn_sender
    reject_sender_login_mismatch reject_authenticated_sender_login_mismatch reject_known_sender_login_mismatch
    reject_unauthenticated_sender_login_mismatch reject_unlisted_sender permit_mx_backup permit_auth_destination
    reject_unauth_destination defer_unauth_destination check_relay_domains permit_sasl_authenticated
    permit_tls_all_clientcerts permit_tls_clientcerts reject_unknown_recipient_domain reject_non_fqdn_recipient
    check_recipient_maps reject_unlisted_recipient reject_multi_recipient_bounce reject_unverified_recipient""".split()  # noqa: SIM905 - as a list of literals it fills a screen
)
_ATTRIBUTES: Final = {
    **dict.fromkeys(("timeout", "max_idle", "max_ttl", "retry_delay"), r"0*[1-9]\d*([smhdw].*)?"),
    "try_limit": r"0*[1-9]\d*",
    "request_limit": r"\d+",
    **dict.fromkeys(("default_action", "policy_context"), r".+"),
}


@dataclass(frozen=True, slots=True)
class Hook:
    """One `check_policy_service`."""

    parameter: str
    endpoint: str  # as the list has it, "inet:127.0.0.1:10045"
    options: Mapping[str, str]
    blocked_by: str  # the word before it that ends the list for every client; empty: the check is reached
    skipped_by: tuple[str, ...]  # what may end the list for outside mail before: endpoints of policy services, words
    guarded: bool  # asked only about mail that may be relayed: `reject_unauth_destination` comes before
    warned: bool  # behind `warn_if_reject`, so that Postfix only logs a deferral
    own_networks: bool  # `permit_mynetworks` comes before


@dataclass(frozen=True, slots=True)
class Fault:
    """A mistake in a restriction list."""

    parameter: str  # the restriction list, or the class
    word: str
    detail: str
    fatal: bool  # smtpd does not start; otherwise it answers 451 to each message that reaches the word


@dataclass(frozen=True, slots=True)
class Restrictions:
    """What smtpd reads in its restriction lists."""

    hooks: tuple[Hook, ...]  # the policy services that it asks, in the order in which it comes to them
    faults: tuple[Fault, ...]
    by_map: tuple[Hook, ...]  # the policy services of restriction classes that no list names: access maps may


def tokens(text: str, separators: str = ", \t\r\n") -> list[str]:
    """The elements of a list: separated by commas and white space, those in braces as a whole (mystrtokq)."""
    found, depth = [""], 0
    for character in text:
        depth = max(0, depth + (character == "{") - (character == "}"))
        if depth == 0 and character in separators:
            found.append("")
        else:
            found[-1] += character
    return list(filter(None, found))


def restrictions_of(parameters: Mapping[str, str]) -> Restrictions:
    reader = _Reader(parameters)
    # Before Postfix 3.6, which brought the parameter, recipient restrictions came first.
    relay_first = parameters.get("smtpd_relay_before_recipient_restrictions") == "yes"
    relaying = (RELAY, RECIPIENT) if relay_first else (RECIPIENT, RELAY)
    for parameter in (*_EARLY, *relaying, *_LATE):
        reader.read(parameter)
    hooks, has_maps = tuple(reader.hooks), reader.has_maps
    reader.hooks.clear()
    for name in [name for name in reader.classes if name not in reader.named]:
        reader.read(name)
    # smtpd reads a class that nothing names when it starts, and never goes through it.
    faults = (fault for fault in reader.faults if fault.fatal or has_maps or fault.parameter not in reader.classes)
    return Restrictions(hooks, tuple(dict.fromkeys(faults)), tuple(reader.hooks) if has_maps else ())


class _Reader:
    """Goes through lists as smtpd does."""

    def __init__(self, parameters: Mapping[str, str]) -> None:
        self.hooks: list[Hook] = []
        self.faults: list[Fault] = []
        self.classes = tokens(parameters.get(_CLASSES, ""))
        self.named: set[str] = set()
        self.has_maps = False
        self._parameters = parameters
        self._everybody = not {"0.0.0.0/0", "[::]/0", "::/0"}.isdisjoint(tokens(parameters.get("mynetworks", "")))
        self._guarded = False
        for name in self.classes:
            if not parameters.get(name):
                self.faults.append(Fault(_CLASSES, name, f'the class "{name}" has no definition', fatal=True))

    def read(self, parameter: str) -> None:
        self._parameter = parameter
        self._blocked_by, self._own_networks = "", False
        self._before: list[str] = []
        self._walk(parameter, 0, warned=False)

    def _walk(self, name: str, depth: int, *, warned: bool) -> None:
        """Go through a list, or a class in it."""
        self.named.add(name)
        elements = self._parameters.get(name, "") if depth <= _DEEPEST else ""
        words, only_logged = iter(tokens(elements)), warned
        for element in words:
            if element.lower() == "warn_if_reject":
                only_logged = True
                continue
            self._take(element, words, depth, warned=only_logged)
            only_logged = warned

    def _take(self, element: str, words: Iterator[str], depth: int, *, warned: bool) -> None:
        word = element.lower()
        if ":" in element:
            # A bare access map is allowed where it is clear what it is asked about (smtpd_check_eod, smtpd_check_data).
            if self._parameter in {DATA, END_OF_DATA}:
                self._fault(element, f'"{element}" is not the argument of a check before it')
            self.has_maps = True
        elif word == CHECK:
            self._service(next(words, ""), warned=warned)
        elif word in _ACCESS:
            self._map(word, next(words, ""), depth, warned=warned)
        elif word in _WITH_ARGUMENT:
            next(words, None)
        elif word in _PLAIN:
            self._plain(word, warned=warned)
        elif element in self.classes:
            self._walk(element, depth + 1, warned=warned)
        else:
            why = " (Postfix knows no comments behind a value)" if element.startswith("#") else ""
            if "=" in element:
                why = f" ({CHECK} takes attributes only within braces, together with its endpoint)"
            self._fault(element, f'"{element}" is not a restriction{why}')

    def _plain(self, word: str, *, warned: bool) -> None:
        if word in _ENDS and not (warned and word != "permit"):
            self._block(word)
        elif word == OWN_NETWORKS:
            self._own_networks = True
            if self._everybody:
                self._block(f"{word}, and mynetworks has every address,")
        elif word == "permit_auth_destination":
            self._before.append(word)
        # In other lists these words stop only some clients, and say nothing of relaying.
        self._guarded |= self._parameter in {RELAY, RECIPIENT} and word in _RELAY_GUARDS

    def _map(self, word: str, argument: str, depth: int, *, warned: bool) -> None:
        self.has_maps = True
        if ":" not in argument:
            self._fault(word, f'{word} needs a map of the form type:name, not "{argument}"')
        elif argument.startswith("static:") and word in {"check_client_access", "check_sender_access"}:
            result = argument.removeprefix("static:")
            if result in self.classes:
                self._walk(result, depth + 1, warned=warned)
            elif _STATIC_END.fullmatch(result):
                self._block(f"{word} {argument}")

    def _service(self, element: str, *, warned: bool) -> None:
        endpoint, options, problem = service_of(element)
        if problem:
            self._fault(element, f"{CHECK} {problem}", fatal=bool(element))
            return
        place = (self._parameter, endpoint, options, self._blocked_by, tuple(self._before))
        self.hooks.append(Hook(*place, self._guarded, warned, self._own_networks))
        self._before.append(endpoint)

    def _block(self, word: str) -> None:
        self._blocked_by = self._blocked_by or word

    def _fault(self, word: str, detail: str, *, fatal: bool = False) -> None:
        if fatal or not self._blocked_by:
            self.faults.append(Fault(self._parameter, word, detail, fatal))
        self._block(word)


def service_of(element: str) -> tuple[str, dict[str, str], str]:
    """The endpoint and valid options of `inet:…` or `{ inet:…, timeout=5s }`, and what smtpd cannot read in it."""
    text, problem = _inside(element)
    endpoint, *rest = tokens(text) or [""]
    if not re.match(r"(inet|unix|local):.", endpoint):
        problem = problem or f'needs an endpoint such as inet:127.0.0.1:10045, not "{endpoint}"'
    options = {}
    for option in rest:
        inner, unbalanced = _inside(option)
        name, equals, value = (part.strip() for part in inner.partition("="))
        valid = name in _ATTRIBUTES and re.fullmatch(_ATTRIBUTES[name], value)
        if valid:
            options[name] = value
        if not equals or not name:
            problem = problem or f'has the attribute "{inner}" without "=": write name=value, or {{ name = value }}'
        elif name not in _ATTRIBUTES:
            problem = problem or f'has an unknown attribute "{name}"'
        elif unbalanced or not valid:
            problem = problem or unbalanced or f'has an invalid value in "{name}={value}"'
    return endpoint, options, problem


def _inside(text: str) -> tuple[str, str]:
    """The text in a pair of braces, or all of a text that has none, and what is wrong with the braces (extpar)."""
    if not text.startswith("{"):
        return text, ""
    depths = list(accumulate((character == "{") - (character == "}") for character in text))
    if 0 not in depths:
        return text[1:].strip(), "has no closing brace"
    end = depths.index(0)
    behind = text[end + 1 :]
    return text[1:end].strip(), f'has "{behind}" behind its closing brace' if behind else ""


def with_check(elements: Sequence[str], check: Sequence[str]) -> list[str]:
    """A list with a check behind all that it has, but before a word that would end it."""
    end = next((index for index, word in enumerate(elements) if word.lower() in _ENDS), len(elements))
    return [*elements[:end], *check, *elements[end:]]


def joined(elements: Sequence[str]) -> str:
    text = "".join(elements[:1])
    for word, element in pairwise(elements):
        text += f"{' ' if word.lower() in _ACCESS | _WITH_ARGUMENT | {CHECK} else ', '}{element}"
    return text


def similar(word: str) -> str:
    """The restriction that a misspelt word means; empty: none is like it."""
    return next(iter(difflib.get_close_matches(word.lower(), _PLAIN | _ACCESS | _WITH_ARGUMENT | {CHECK}, 1, 0.8)), "")


def seconds(text: str) -> float | None:
    """The seconds of a time value such as "10s" or "2m"; None: it is not a time value."""
    found = re.match(r"(\d+)\s*($|[smhdw])", text)
    return int(found[1]) * _UNITS[found[2] or "s"] if found else None
