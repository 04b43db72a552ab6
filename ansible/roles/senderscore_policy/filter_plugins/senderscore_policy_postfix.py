"""Put the policy check into Postfix's restriction lists, or remove it, by editing the text of main.cf and master.cf.

An edit changes only the list that gains or loses the check. Lines, comments and spelling of everything else stay, so
removing the check restores the text. The grammar is that of postconf(5) and master(5): a line that begins with white
space continues the logical line before it, and comments between them do not end it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

CHECK = "check_policy_service"
MYNETWORKS = "permit_mynetworks"
RECIPIENT = "smtpd_recipient_restrictions"
LISTS = (RECIPIENT, "smtpd_data_restrictions", "smtpd_end_of_data_restrictions")
LEADING = {MYNETWORKS, "permit_sasl_authenticated"}
"""Entries that stay before the check in position `first`: the clients that they permit are not limited."""
FINAL = {"permit", "reject", "defer"}
RELAY_GUARDS = {"reject_unauth_destination", "defer_unauth_destination"}
SUBMISSION = {"submission", "587", "submissions", "smtps", "465"}
SEPARATORS = ", \t\r\n"
DEEPEST = 10
"""Classes or variables inside each other; Postfix itself would not end with more."""
ENDPOINT = re.compile(r"(?<![^\s,{}=])(?:inet|unix):[^\s,{}]+", re.IGNORECASE)
VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\}|\((\w+)\))")
MASTER_FIELDS = 7
"""The columns of master.cf before the command."""


@dataclass(frozen=True)
class Value:
    """A parameter's value as a part of a file.

    Args:
        text: the file.
        places: where in the file each character of the value is; comments between its lines are left out.
        anchor: where the value begins, also if it is empty.
        compact: it is an argument of master.cf, which white space would end.
        may_wrap: an entry may have a line of its own.
    """

    text: str
    places: tuple[int, ...]
    anchor: int
    compact: bool = False
    may_wrap: bool = True

    @property
    def chars(self) -> str:
        """The value's text, without the comments."""
        return "".join(self.text[place] for place in self.places)

    @property
    def tokens(self) -> list[tuple[int, int]]:
        """Start and end of each entry."""
        return tokens(self.chars)

    @property
    def words(self) -> list[str]:
        """The entries."""
        return words(self.chars)

    def cut(self, start: int, end: int) -> str:
        """The file without the characters of the value from start to end."""
        if start == end:
            return self.text
        return self.text[: self.places[start]] + self.text[self.places[end - 1] + 1 :]

    def insert(self, index: int, text: str) -> str:
        """The file with text before the character with this index."""
        place = self.places[index - 1] + 1 if index else self.anchor
        return self.text[:place] + text + self.text[place:]

    def line(self, index: int) -> tuple[int, int]:
        """Start and end of the physical line that holds a character; the end is behind its newline."""
        end = self.chars.find("\n", index)
        return self.chars.rfind("\n", 0, index) + 1, len(self.places) if end < 0 else end + 1

    def continues(self, index: int) -> bool:
        """Whether a character is on a line of its own list, after the one with the parameter's name."""
        return self.may_wrap and "\n" in self.chars[:index]


@dataclass(frozen=True)
class Service:
    """A service of master.cf with the parameters that it overrides by -o, and an argument that belongs to no option."""

    name: str
    type: str
    chroot: str
    command: str
    overrides: dict[str, Value]
    stray: str

    @property
    def key(self) -> str:
        """The service as `postconf -P` names it."""
        return f"{self.name}/{self.type}"

    @property
    def port(self) -> str:
        """The port of an inet service, by number or name."""
        return self.name.rpartition(":")[2]

    @property
    def is_internal(self) -> bool:
        """Whether only this host connects to it: it listens on loopback, and not for a proxy."""
        host = self.name.rpartition(":")[0]
        return bool(host) and is_loopback(host) and "smtpd_upstream_proxy_protocol" not in self.overrides


def tokens(chars: str) -> list[tuple[int, int]]:
    """Start and end of the elements of a list: separated by commas and white space, one in braces as a whole."""
    found: list[tuple[int, int]] = []
    start: int | None = None
    depth = 0
    for index, char in enumerate(chars):
        if depth <= 0 and char in SEPARATORS:
            if start is not None:
                found.append((start, index))
            start = None
            continue
        depth += (char == "{") - (char == "}")
        start = index if start is None else start
    return [*found, (start, len(chars))] if start is not None else found


def words(chars: str) -> list[str]:
    """The elements of a list."""
    return [chars[start:end] for start, end in tokens(chars)]


def inside(word: str) -> str:
    """The text within a pair of braces."""
    return word[1:-1] if word[:1] == "{" and word[-1:] == "}" else word


def logical_lines(text: str) -> list[list[int]]:
    """The places of each logical line of a file."""
    lines: list[list[int]] = []
    for physical in re.finditer(r"[^\n]*\n|[^\n]+", text):
        line = physical[0]
        if not line.strip() or line.lstrip()[0] == "#":
            continue
        if line[0] in " \t" and lines:
            lines[-1].extend(range(*physical.span()))
        else:
            lines.append(list(range(*physical.span())))
    return lines


@lru_cache(maxsize=16)
def assignments(text: str) -> dict[str, Value]:
    """The parameters that main.cf sets; of two assignments to one name Postfix uses the last."""
    found = {}
    for places in logical_lines(text):
        line = "".join(text[place] for place in places)
        name, equals, _ = line.partition("=")
        if equals:
            value = places[len(name) + 1 :]
            found[name.strip()] = Value(text, tuple(value), places[len(name)] + 1)
    return found


@lru_cache(maxsize=16)
def services(text: str) -> list[Service]:
    """The services of master.cf."""
    found = []
    for places in logical_lines(text):
        line = "".join(text[place] for place in places)
        parts = [(start, end) for start, end in tokens(line.replace(",", "."))]
        fields = [line[start:end] for start, end in parts]
        if len(fields) > MASTER_FIELDS:
            overrides = {}
            for start, end in _override_arguments(line, parts[MASTER_FIELDS + 1 :]):
                name, value = _override(text, places[start:end])
                overrides[name] = value
            stray = next(
                (
                    word
                    for before, word in zip(fields[MASTER_FIELDS:], fields[MASTER_FIELDS + 1 :])
                    if not (before.startswith("-") or word.startswith("-"))
                ),
                "",
            )
            found.append(Service(fields[0], fields[1], fields[4], fields[MASTER_FIELDS], overrides, stray))
    return found


def _override_arguments(line: str, parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Start and end of each `name=value` or `{ name = value }` behind -o."""
    found, expected = [], False
    for start, end in parts:
        if expected:
            found.append((start, end))
        elif line[start:end].startswith("-o") and end - start > len("-o"):
            found.append((start + len("-o"), end))
        expected = not expected and line[start:end] == "-o"
    return found


def _override(text: str, places: list[int]) -> tuple[str, Value]:
    argument = "".join(text[place] for place in places)
    braced = argument.startswith("{")
    name, _, _ = argument.partition("=")
    behind = len(argument) - 1 if braced else len(argument)
    value = tuple(places[len(name) + 1 : behind])
    anchor = places[min(len(name), len(places) - 1)] + 1
    return name.strip("{ \t\r\n"), Value(text, value, anchor, compact=not braced, may_wrap=False)


def entrances(known: Iterable[Service]) -> list[Service]:
    """The services where other hosts deliver: port 25 and postscreen; if there is none, all that are not for users."""
    smtpd = [each for each in known if each.command.rpartition("/")[2] == "smtpd" and not each.is_internal]
    outside = [each for each in smtpd if each.type == "pass" or (each.type == "inet" and each.port in {"smtp", "25"})]
    return outside or [each for each in smtpd if each.type == "inet" and each.port not in SUBMISSION]


def is_loopback(host: str) -> bool:
    """Whether a host of an endpoint is this one; without a host Postfix connects to localhost."""
    host = host.strip("[]").lower()
    return host in {"", "localhost", "ip6-localhost", "localhost.localdomain", "::1"} or host.startswith("127.")


def normal(endpoint: str, queue_directory: str) -> tuple[str, str, str]:
    """An endpoint in the one form that all notations of it share: kind, host or path, port."""
    kind, _, rest = endpoint.partition(":")
    if kind.lower() == "unix":
        return "unix", rest if rest.startswith("/") else f"{queue_directory.rstrip('/')}/{rest}", ""
    host, _, port = rest.rpartition(":")
    host = host.strip("[]").lower()
    # A daemon that listens on every address is asked on loopback.
    if is_loopback(host) or host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        return "inet", "loopback", port
    with suppress(ValueError):
        host = str(ipaddress.ip_address(host))
    return "inet", host, port


@dataclass
class Instance:
    """The configuration of a Postfix instance.

    Args:
        main, master: texts of the files.
        parameters: all of them, expanded, as `postconf -x` prints them; for what main.cf does not set.
        endpoints: of the daemon, in any notation.
    """

    main: str
    master: str
    parameters: dict[str, str] = field(default_factory=dict)
    endpoints: tuple[str, ...] = ()

    def services(self) -> list[Service]:
        """The services of master.cf."""
        return services(self.master)

    def value(self, key: str) -> Value | None:
        """A parameter, or "service/type/parameter" where master.cf overrides it; None if it is not set."""
        service, _, parameter = key.rpartition("/")
        if not service:
            return assignments(self.main).get(key)
        found = [each for each in self.services() if each.key == service]
        return found[0].overrides.get(parameter) if found else None

    def write(self, key: str, text: str) -> None:
        """Take the new text of the file that holds a list."""
        if "/" in key:
            self.master = text
        else:
            self.main = text

    def expanded(self, text: str, service: Service | None = None, depth: int = 0) -> str:
        """A text with the values of its variables, as they hold for a service."""

        def value_of(found: re.Match[str]) -> str:
            name = found[1] or found[2] or found[3]
            value = self.setting(name, service)
            return found[0] if value is None else self.expanded(value, service, depth + 1)

        return VARIABLE.sub(value_of, text) if depth < DEEPEST else text

    def setting(self, name: str, service: Service | None = None) -> str | None:
        """The value of a parameter as it holds for a service, not expanded; None if it is unknown."""
        if service and name in service.overrides:
            return service.overrides[name].chars.strip()
        value = assignments(self.main).get(name)
        return value.chars.strip() if value else self.parameters.get(name)

    def entries(self, text: str, service: Service | None = None, depth: int = 0) -> list[str]:
        """The elements of a list, its classes replaced by their elements."""
        classes = words(self.expanded(self.setting("smtpd_restriction_classes", service) or "", service))
        found = []
        for word in words(self.expanded(text, service)):
            if word in classes and depth < DEEPEST:
                found += self.entries(self.setting(word, service) or "", service, depth + 1)
            else:
                found.append(word)
        return found

    def names_us(self, text: str) -> bool:
        """Whether a text holds an endpoint of the daemon, in whatever notation."""
        queue_directory = self.parameters.get("queue_directory", "/var/spool/postfix")
        ours = {normal(endpoint, queue_directory) for endpoint in self.endpoints}
        return any(normal(found, queue_directory) in ours for found in ENDPOINT.findall(self.expanded(text)))

    def checks(self, value: Value) -> list[tuple[int, int]]:
        """Start and end of each check of ours in a list, with a warn_if_reject before it."""
        found = []
        entries = value.tokens
        chars = value.chars
        for index, (start, _) in enumerate(entries[:-1]):
            end = entries[index + 1][1]
            if chars[start : entries[index][1]].lower() == CHECK and self.names_us(chars[entries[index + 1][0] : end]):
                before = index
                while before and chars[slice(*entries[before - 1])].lower() == "warn_if_reject":
                    before -= 1
                found.append((entries[before][0], end))
        return found

    def asks(self, text: str, service: Service | None = None) -> bool:
        """Whether a list has the check in itself, in a class or in a variable."""
        entries = self.entries(text, service)
        return any(word.lower() == CHECK and self.names_us(behind) for word, behind in zip(entries[:-1], entries[1:]))

    def mentions(self, directory: str) -> list[str]:
        """Every parameter that names an endpoint of the daemon."""
        found = [
            f"{directory}/main.cf: {name}"
            for name, value in assignments(self.main).items()
            if self.names_us(value.chars)
        ]
        for service in self.services():
            found += [
                f"{directory}/master.cf: {service.key}/{name}"
                for name, value in service.overrides.items()
                if self.names_us(self.expanded(value.chars, service))
            ]
        return found


def removed(value: Value, start: int, end: int) -> str:
    """The file without an entry of a list, and without the separator that came with it."""
    chars = value.chars
    before, after = chars[:start].rstrip(SEPARATORS), chars[end:].lstrip(SEPARATORS)
    gap = chars[end : len(chars) - len(after)]
    line_start, line_end = value.line(start)[0], value.line(end - 1)[1]
    if value.continues(start) and not (chars[line_start:start] + chars[end:line_end]).strip(SEPARATORS):
        text = value.cut(line_start, line_end)
        # What is the last entry now has a comma if, and only if, the removed one had.
        comma = chars.find(",", len(before), start)
        if before and not after and comma >= 0 and "," not in gap:
            text = text[: value.places[comma]] + text[value.places[comma] + 1 :]
        return text
    if not after:
        return value.cut(len(before), end + (0 if before else len(gap.rstrip(" \t\r\n"))))
    if "\n" in gap:
        return value.cut(len(chars[:start].rstrip(" \t")), end + len(gap.partition("\n")[0].rstrip("\r")))
    return value.cut(start, end + len(gap))


def inserted(value: Value, lead: int, entry: str) -> str:
    """The file with a new entry in a list, behind `lead` entries."""
    entries, chars = value.tokens, value.chars
    separator = "," if value.compact else ", "
    if not entries:
        return value.insert(0, entry if value.compact else f" {entry}")
    outside = re.sub(r"\{[^{}]*\}", "", re.sub(r"\{[^{}]*\}", "", chars))
    comma = "," if "," in outside else ""
    if lead < len(entries):
        start = entries[lead][0]
        line_start, line_end = value.line(start)
        if not value.continues(start) or chars[line_start:start].strip():
            return value.insert(start, entry + separator)
        newline = "\r\n" if chars[:line_end].endswith("\r\n") else "\n"
        return value.insert(line_start, chars[line_start:start] + entry + comma + newline)
    start, end = entries[-1]
    line_start, line_end = value.line(end - 1)
    if not value.continues(start):
        return value.insert(end, separator + entry)
    trailing = "," if "," in chars[end:] else ""
    indent = chars[line_start : len(chars) - len(chars[line_start:].lstrip())]
    newline = "\r\n" if chars[:line_end].endswith("\r\n") else "\n"
    ended = chars[:line_end].endswith("\n")
    line = indent + entry + trailing + (newline if ended else "")
    text = value.insert(line_end, line if ended else newline + line)
    return text if trailing else text[: value.places[end - 1] + 1] + comma + text[value.places[end - 1] + 1 :]


def same_entry(one: str, other: str) -> bool:
    """Whether two entries differ in white space and separators at most."""

    def parts(text: str) -> list[Any]:
        return [parts(inside(word)) if word.startswith("{") else word for word in words(text)]

    return parts(one) == parts(other)


def place(entries: list[str], position: str) -> int:
    """Behind how many entries of a list the check belongs."""
    if position != "first":
        return len(entries)
    others = (index for index, word in enumerate(entries) if word.lower() not in LEADING)
    return next(others, len(entries))


class Plan:
    """What becomes of an instance's files, and the reasons not to change them.

    Args:
        instance: the instance; its texts become the new ones.
        wish: the role's variables: state, list, position, services, check.
        lists: what the role found in each list that it has filled since it first came, "empty" or "missing".
    """

    def __init__(self, instance: Instance, wish: dict[str, Any], lists: dict[str, str]) -> None:
        self.instance, self.wish, self.lists = instance, wish, dict(lists)
        self.refusals: list[str] = []
        self.present = wish["state"] == "present"
        known = {service.key: service for service in instance.services()}
        self.entrances = [each for each in known.values() if each.key in wish["services"]] or entrances(known.values())
        if self.present:
            self.refusals += [
                f"senderscore_policy_postfix_services: master.cf has no service {name}. It has {', '.join(known)}."
                for name in wish["services"]
                if name not in known
            ]
            self.refusals += [
                f"{each.key} in master.cf gives smtpd the argument {each.stray}, with which it does not start. "
                "Behind -o, write a list with commas instead of white space, or as { name = value }."
                for each in self.entrances
                if each.stray
            ]

    def make(self) -> None:
        """Edit every list that should gain or lose the check."""
        keys = [*LISTS, *(f"{each.key}/{name}" for each in self.entrances for name in each.overrides if name in LISTS)]
        keys += [key for key in self.lists if key not in keys]
        for key in keys:
            value = self.instance.value(key)
            chosen = self.present and key.rpartition("/")[2] == self.wish["list"]
            if not chosen and not (value and (self.instance.checks(value) or key in self.lists)):
                continue
            if value and value.chars.count("{") != value.chars.count("}"):
                self.refusals.append(
                    f"{key} has a brace too many or too few, and Postfix would defer all mail: "
                    f"{' '.join(value.chars.split())}. Correct it in Postfix's configuration."
                )
            elif not chosen:
                self.remove(key)
            elif not self.asks_elsewhere(key):
                self.add(key)
        if self.present:
            self.examine()

    def asks_elsewhere(self, key: str) -> bool:
        """Whether a list asks by a class or a variable already."""
        value = self.instance.value(key)
        service = next((each for each in self.entrances if key.startswith(f"{each.key}/")), None)
        return bool(value and not self.instance.checks(value) and self.instance.asks(value.chars, service))

    def add(self, key: str) -> None:
        """Have the check in a list once, in its place."""
        value, instance = self.instance.value(key), self.instance
        check = self.wish["check"]
        if value and value.compact:
            check = re.sub(r"[ ,]+", ",", re.sub(r"(?<=\{) +| +(?=\})", "", check))
        checks = instance.checks(value) if value else []
        if value and len(checks) == 1:
            start, end = checks[0]
            before, after = words(value.chars[:start]), words(value.chars[end:])
            if (before or after) and len(before) == place(before + after, self.wish["position"]):
                if not same_entry(value.chars[start:end], check):
                    text = value.cut(start, end)
                    at = value.places[start]
                    instance.write(key, text[:at] + check + text[at:])
                return
        self.strip(key)
        value = instance.value(key)
        first = f"{MYNETWORKS},{check}" if value and value.compact else f"{MYNETWORKS}, {check}"
        if value is None:
            self.lists[key] = "missing"
            newline = "" if instance.main.endswith("\n") or not instance.main else "\n"
            instance.write(key, f"{instance.main}{newline}{key} = {first}\n")
        elif not value.words:
            self.lists.setdefault(key, "empty")
            instance.write(key, inserted(value, 0, first))
        else:
            instance.write(key, inserted(value, place(value.words, self.wish["position"]), check))

    def strip(self, key: str) -> None:
        """Take every check of ours out of a list."""
        while (value := self.instance.value(key)) and (checks := self.instance.checks(value)):
            self.instance.write(key, removed(value, *checks[-1]))

    def remove(self, key: str) -> None:
        """Take the check out of a list, and what the role put before it where there was nothing."""
        self.strip(key)
        value, found = self.instance.value(key), self.lists.pop(key, "")
        if value is None or not found or value.words not in ([], [MYNETWORKS]):
            return
        if found == "empty":
            self.instance.write(key, value.cut(0, value.tokens[0][1] if value.words else 0))
            return
        line = next(line for line in logical_lines(value.text) if line[0] < value.anchor <= line[-1] + 1)
        self.instance.write(key, value.text[: line[0]] + value.text[line[-1] + 1 :])

    def examine(self) -> None:
        """Refuse a place that mail does not reach, or reaches too early."""
        instance = self.instance
        key = self.wish["list"]
        copies: dict[str, Service | None] = {key: None}
        for each in self.entrances:
            name = f"{each.key}/{key}" if key in each.overrides else key
            copies[name] = each
            if self.wish["endpoint"].startswith("unix:/") and is_chroot(each, instance):
                self.refusals.append(
                    f"senderscore_policy_postfix_endpoint: {each.key} runs in a chroot (master.cf) and cannot see "
                    f"{self.wish['endpoint']}. Set inet:127.0.0.1:10045, or end the chroot."
                )
        for name, service in copies.items():
            value = instance.value(name)
            before, after = split_at_check(instance, instance.entries(value.chars if value else "", service))
            final = sorted(FINAL.intersection(before))
            if final:
                self.refusals.append(
                    f"{name} holds an unconditional {', '.join(final)} before the place of the check, which Postfix "
                    "would never reach. Take it out of Postfix's configuration, or set "
                    "senderscore_policy_postfix_position to first."
                )
            if key == RECIPIENT:
                self.guard(name, before, after, service)

    def guard(self, name: str, before: list[str], after: list[str], service: Service | None) -> None:
        """Refuse a place in the recipient list that reject_unauth_destination does not guard."""
        earlier: list[str] = []
        if self.instance.parameters.get("smtpd_relay_before_recipient_restrictions", "yes") == "yes":
            earlier = self.instance.entries(self.instance.setting("smtpd_relay_restrictions", service) or "", service)
        if RELAY_GUARDS.isdisjoint(earlier + before) or not RELAY_GUARDS.isdisjoint(after):
            self.refusals.append(
                "senderscore_policy_postfix_restriction_list and senderscore_policy_postfix_position would put the "
                f"check into {name} before reject_unauth_destination, where it would count mail that this host does "
                "not accept. Set senderscore_policy_postfix_restriction_list to smtpd_end_of_data_restrictions, or "
                "senderscore_policy_postfix_position to last behind a reject_unauth_destination."
            )


def is_chroot(service: Service, instance: Instance) -> bool:
    """Whether a service runs in the queue directory; "-" meant yes before Postfix 3.0 (COMPATIBILITY_README)."""
    level = instance.parameters.get("compatibility_level", "3")
    return service.chroot == "y" or (service.chroot == "-" and level.partition(".")[0] == "0")


def split_at_check(instance: Instance, entries: list[str]) -> tuple[list[str], list[str]]:
    """The entries before and after the check in lower case, without those that are only warned about."""
    pairs = zip(["", *entries], entries)
    bare = [word for before, word in pairs if "warn_if_reject" not in {before.lower(), word.lower()}]
    lower = [word.lower() for word in bare]
    for index, word in enumerate(lower[:-1]):
        if word == CHECK and instance.names_us(bare[index + 1]):
            return lower[:index], lower[index + 2 :]
    return lower, []


def parameters_of(output: str) -> dict[str, str]:
    """The lines of postconf."""
    pairs = (line.partition(" =") for line in output.splitlines())
    return {name: value.strip() for name, equals, value in pairs if equals}


def plan(reading: dict[str, Any], wish: dict[str, Any]) -> dict[str, Any]:
    """The role's one filter: the new texts of main.cf and master.cf.

    Args:
        reading: directory, main and master (texts), parameters (of `postconf -x`), others (directory, main and master
            of each further instance), remembered (the result's `remember` of the last run).
        wish: state (present, absent, or unmanaged to change nothing), list, position, services, check, endpoint and
            listen (where the daemon listens).

    Returns:
        main, master: the new texts. refusals: reasons not to write them. mentions: each parameter that still names the
        daemon's endpoint then. remember: what the next run needs to know.
    """
    remembered = reading.get("remembered") or {}
    last = remembered.get(reading["directory"], {})
    endpoints = tuple(filter(None, [wish["endpoint"], *wish["listen"], last.get("endpoint")]))
    instance = Instance(reading["main"], reading["master"], parameters_of(reading.get("parameters", "")), endpoints)
    made = Plan(instance, wish, last.get("lists", {}))
    if wish["state"] != "unmanaged":
        made.make()
    mentions = instance.mentions(reading["directory"])
    for other in reading.get("others", []):
        mentions += Instance(other["main"], other["master"], {}, endpoints).mentions(other["directory"])
    remember = {name: each for name, each in remembered.items() if name != reading["directory"]}
    if made.present:
        remember[reading["directory"]] = {"endpoint": wish["endpoint"], "lists": made.lists}
    return {
        "main": instance.main,
        "master": instance.master,
        "refusals": made.refusals,
        "mentions": mentions,
        "remember": remember,
    }


class FilterModule:
    """Ansible's way to find filters."""

    def filters(self) -> dict[str, Any]:
        """The filter by its name."""
        return {"senderscore_policy_postfix": plan}
