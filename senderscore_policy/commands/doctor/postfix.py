"""Checks of `doctor`: does Postfix ask this daemon, at the right moment and on sensible terms?"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final

from senderscore_policy.commands.doctor import restrictions as lists
from senderscore_policy.commands.doctor.finding import FAIL, OK, WARN, Finding, Status
from senderscore_policy.commands.doctor.postconf import Postfix, Smtpd, networks_in
from senderscore_policy.commands.doctor.restrictions import CHECK, DATA, END_OF_DATA, OWN_NETWORKS, Fault, Hook
from senderscore_policy.commands.doctor.sockets import inside_endpoint, is_served, listens, obstacle
from senderscore_policy.config.endpoints import Endpoint, Inet, Unix, notation
from senderscore_policy.config.model import Config
from senderscore_policy.policy.clients import Network
from senderscore_policy.policy.tiers import UNLIMITED

DEFAULT: Final = Inet("127.0.0.1", 10045)
TERMS: Final = {"timeout": "5s", "try_limit": "1", "default_action": "DUNNO"}  # the recommended attributes of the check
_DEFERS: Final = "Postfix defers every message that reaches it (451 4.3.5 Server configuration error)"

Arrange = Callable[[list[str], list[str], list[str]], list[str]]


@dataclass(frozen=True, slots=True)
class _Check:
    """An smtpd that asks a policy server."""

    smtpd: Smtpd
    hook: Hook
    ours: bool  # it asks this daemon
    hidden: bool  # it would ask this daemon, but its chroot hides the socket

    @property
    def place(self) -> str:
        return f"{self.smtpd.name} asks {self.hook.endpoint} in {self.hook.parameter}"


def _checks(services: Iterable[Smtpd], served: Sequence[Endpoint]) -> list[_Check]:
    found = []
    for smtpd in services:
        for hook in smtpd.restrictions.hooks:
            ours, named = (is_served(smtpd.endpoint(hook.endpoint, chrooted=each), served) for each in (True, False))
            found.append(_Check(smtpd, hook, ours, hidden=named and not ours))
    return found


def recommended(served: Sequence[Endpoint]) -> str:
    """The endpoint that Postfix should ask: a TCP address if there is one, as a chroot does not hide it."""
    endpoint = notation(min(served, key=lambda endpoint: isinstance(endpoint, Unix), default=DEFAULT))
    return endpoint.replace(":0.0.0.0:", ":127.0.0.1:").replace("[::]", "[::1]")


def check(endpoint: str, options: Mapping[str, str] | None = None) -> list[str]:
    """The two elements of a check with the recommended attributes and further options."""
    terms = {**(options or {}), **TERMS}.items()
    shown = [f"{{ {name} = {text} }}" if re.search("[ ,]", text) else f"{name}={text}" for name, text in terms]
    return [CHECK, f"{{ {', '.join([endpoint, *shown])} }}"]


def postfix_findings(postfix: Postfix, served: Sequence[Endpoint], config: Config, *, asked: bool) -> Iterator[Finding]:
    """Check what main.cf and master.cf say about this daemon, which listens on the served endpoints.

    Where Postfix asked within the hour with its present configuration, no finding says that it does not ask.
    """
    broken = [smtpd for smtpd in postfix.smtpd if smtpd.stray or smtpd.restrictions.faults]
    for smtpd in broken:
        yield from _mistakes(smtpd, served)
    checks = _checks([smtpd for smtpd in postfix.smtpd if smtpd not in broken], served)
    hidden = [each for each in checks if each.hidden]
    for each in _distinct(hidden):
        queue, endpoint = Path(each.smtpd.parameters["queue_directory"]), notation(DEFAULT)
        detail = f"{each.place}, but runs in the chroot {queue}, which has no such path"
        remedy = f'set policy = ["{endpoint}"] in [listen], and in {each.hook.parameter} write '
        remedy += f"{lists.joined(check(endpoint))}; then: {each.smtpd.instance.reload}"
        yield Finding("chroot", FAIL, detail, remedy)
    blind = [*broken, *(each.smtpd for each in hidden)]
    yield from _entrances(postfix, checks, blind, served, asked=asked)
    reached = [each for each in checks if each.ours and not each.hook.blocked_by]
    for each in _distinct(reached):
        yield from _place(each, served, config)
        yield from _terms(each, config)
        yield from _socket(each)
    yield from _own_networks(reached, config)
    yield _references(postfix, served)


def _mistakes(smtpd: Smtpd, served: Sequence[Endpoint]) -> Iterator[Finding]:
    """Report what keeps smtpd from starting, or from taking mail."""
    if smtpd.stray:
        remedy = f"write -o {{ name = value }} where a value has white space; then: {smtpd.instance.reload}"
        if END_OF_DATA in smtpd.overridden:
            written = [word for word in _written(smtpd, END_OF_DATA) if word.lower() != CHECK]
            remedy = _command(smtpd, {END_OF_DATA: lists.with_check(written, check(recommended(served)))})
        detail = f'master.cf gives it the argument "{smtpd.stray}", as white space ends the value of an -o'
        yield Finding("postfix", FAIL, f"{smtpd.name}: smtpd does not start: {detail}", remedy)
        return
    for fault in smtpd.restrictions.faults:
        effect = "smtpd does not start" if fault.fatal else _DEFERS
        detail = f"{smtpd.name}: {fault.detail}, in {fault.parameter}: {effect}"
        yield Finding("restriction", FAIL, detail, _correction(smtpd, fault, served))


def _correction(smtpd: Smtpd, fault: Fault, served: Sequence[Endpoint]) -> str:
    written, word = _written(smtpd, fault.parameter), fault.word
    index = written.index(word) if word in written else 0
    before, behind = written[:index], written[index + 1 :]
    new: list[str] = []
    if word.startswith("#"):
        new = before
    elif (meant := lists.similar(word)) and meant != word:
        new = [*before, meant, *behind]
    else:
        if "=" in word and before[-2:-1] == [CHECK]:
            word = before.pop()
            behind = [each for each in behind if "=" not in each]
        endpoint, options, _ = lists.service_of(word)
        for text in (endpoint, f"inet:{endpoint}"):
            if is_served(smtpd.endpoint(text), served):
                before = before[:-1] if before[-1:] == [CHECK] else before
                new = [*before, *check(text, options), *behind]
    if new and fault.word in written:
        return _command(smtpd, {fault.parameter: new})
    return f"correct it in {smtpd.instance.directory}/main.cf or master.cf; then: {smtpd.instance.reload}"


def _entrances(
    postfix: Postfix, checks: Sequence[_Check], blind: Sequence[Smtpd], served: Sequence[Endpoint], *, asked: bool
) -> Iterator[Finding]:
    """Check that each entrance asks the daemon, but for the blind ones, which have a finding already."""
    asking = sorted({each.smtpd.name for each in checks if each.ours and not each.hook.blocked_by})
    silent = [smtpd for smtpd in postfix.entrances if smtpd.name not in asking and smtpd not in blind]
    for smtpd in silent:
        status, what, remedy = _silence(smtpd, [each for each in checks if each.smtpd is smtpd], served)
        if asked and len(silent) == len(postfix.entrances):
            status, what = WARN, f"{what}; yet Postfix asked within the hour, in a way that doctor cannot see"
        yield Finding("postfix", status, f"{smtpd.name} {what}", remedy)
    if asking:
        others = [s.name for s in postfix.smtpd if s.name not in asking and s not in postfix.entrances]
        aside = f" ({', '.join(others)} not, which is usual for the site's own mail)" if others else ""
        verb = "asks" if len(asking) == 1 else "ask"
        yield Finding("postfix", OK, f"{', '.join(asking)} {verb} this daemon{aside}")
    if not postfix.entrances:
        off = ", ".join(smtpd.name for smtpd in postfix.disabled)
        off = f": master_service_disable or multi_instance_enable turns off {off}" if off else ""
        remedy = "enable an smtpd for port 25 in master.cf, or name the instance that takes mail with --postfix-config"
        yield Finding("postfix", FAIL, f"no smtpd takes mail from outside{off}", remedy)


def _silence(smtpd: Smtpd, checks: Sequence[_Check], served: Sequence[Endpoint]) -> tuple[Status, str, str]:
    """Why an smtpd with these checks does not ask this daemon, and the remedy."""
    if unreached := next((each for each in checks if each.ours), None):
        hook = unreached.hook
        remedy = _change(unreached, partial(_with_check, smtpd, hook.parameter), "put the check before it")
        what = f"never comes to the check: {hook.blocked_by} before it ends {hook.parameter} for every client"
        return FAIL, what, remedy
    if any(is_served(smtpd.endpoint(hook.endpoint), served) for hook in smtpd.restrictions.by_map):
        what = "may ask: a restriction class has the check, and an access map"
        return WARN, f"{what}, which doctor cannot follow, names the class", "see the check requests"
    found = []
    for each in checks:
        endpoint = smtpd.endpoint(each.hook.endpoint)
        there = "another service" if endpoint and listens(endpoint) else "where nothing listens"
        found.append(f"it asks {each.hook.endpoint} in {each.hook.parameter}, {there}")
    if END_OF_DATA in smtpd.overridden:
        found.append(f"master.cf sets -o {END_OF_DATA}={smtpd.overridden[END_OF_DATA]}")
    unused = (text.partition("=")[0] for text in smtpd.instance.unused if CHECK in text)
    found += [f"main.cf sets {name}, which Postfix does not know" for name in unused]
    why = "; ".join(found) or f"no policy service in {smtpd.instance.directory}/main.cf or master.cf"
    written, new = _written(smtpd, END_OF_DATA), check(recommended(served))
    # At the beginning of a list it would keep own hosts from the checks that are there.
    if not written or (OWN_NETWORKS not in written and _limited_networks(smtpd, Config())):
        new = [OWN_NETWORKS, *new]
    remedy = _command(smtpd, {END_OF_DATA: _with_check(smtpd, END_OF_DATA, written, new, [])})
    listening = ", ".join(map(notation, served))
    return FAIL, f"does not ask this daemon, which listens on {listening}: {why}", remedy


def _place(each: _Check, served: Sequence[Endpoint], config: Config) -> Iterator[Finding]:
    """Check that the daemon is asked at the end of data and about all messages, and that its answer counts."""
    hook, status, problems, remedy = each.hook, WARN, [], ""
    if hook.parameter != END_OF_DATA:
        remedy = _change(each, None, f"move the check to {END_OF_DATA}")
        problems.append("before the message is there: one that is rejected later counts")
        if hook.parameter != DATA and not hook.guarded:
            status, problems = FAIL, ["before reject_unauth_destination: mail that is refused anyway counts"]
        elif config.counters.count == "recipients" and hook.parameter != DATA:
            problems.append('count = "recipients" sees no recipients yet')
    if hook.warned:
        problems.append("behind warn_if_reject: Postfix only logs deferrals")
        remedy = remedy or f"remove warn_if_reject before the check; then: {each.smtpd.instance.reload}"
    if before := [word for word in hook.skipped_by if not is_served(each.smtpd.endpoint(word), served)]:
        problems.append(f"behind {', '.join(before)}: what that lets through with OK skips this check")
        remedy = remedy or _change(each, _ahead, "put the check before it, or let it answer DUNNO in place of OK")
    if problems:
        yield Finding("restriction", status, f"{each.place}, {', and '.join(problems)}", remedy)
    else:
        yield Finding("restriction", OK, f"asked in {END_OF_DATA}, when the whole message is there")


def _terms(each: _Check, config: Config) -> Iterator[Finding]:
    """Check what Postfix does without an answer, and how long each message waits for one."""
    options, parameters, prefix = each.hook.options, each.smtpd.parameters, "smtpd_policy_service_"
    given = {name: options.get(name) or parameters.get(prefix + name, "") for name in ("retry_delay", *TERMS)}
    new = check(each.hook.endpoint, options)
    remedy = _change(each, lambda before, _, behind: [*before, *new, *behind], f"write {lists.joined(new)}")
    if given["default_action"].upper() == "DUNNO":
        yield Finding("default_action", OK, "mail passes while the daemon is down (default_action=DUNNO)")
    else:
        detail = f"while the daemon is down, every message gets default_action={given['default_action']}"
        yield Finding("default_action", WARN, f"{each.place}: {detail}", remedy)
    timeout, pause = lists.seconds(given["timeout"]) or 0, lists.seconds(given["retry_delay"]) or 0
    tries = int(given["try_limit"]) if given["try_limit"].isdigit() else 1
    down, hung = pause * (tries - 1), timeout * tries + pause * (tries - 1)
    cost = f"a message waits {down:g} s while the daemon is down, {hung:g} s while it hangs"
    terms = f"timeout={given['timeout']}, {tries} {'try' if tries == 1 else 'tries'}"
    longest = config.reputation.deadline + config.counters.timeout
    if timeout <= longest:
        cost = f"the daemon may need {longest:g} s (reputation.deadline and counters.timeout)"
    # A message waits 5 s for a daemon that hangs with the recommended line, 201 s by default.
    if timeout <= longest or hung > 30:
        yield Finding("timeout", WARN, f"{each.place} with {terms}: {cost}", remedy)
    else:
        yield Finding("timeout", OK, f"{cost} ({terms})")


def _socket(each: _Check) -> Iterator[Finding]:
    """Check that the user that smtpd runs as may use a unix socket."""
    endpoint, owner = each.smtpd.endpoint(each.hook.endpoint), each.smtpd.parameters["mail_owner"]
    if isinstance(endpoint, Unix) and (closed := obstacle(Path(endpoint.path), owner)):
        remedy = f"chmod o+x {closed} (o+rw for the socket itself), or use TCP"
        yield Finding("socket", FAIL, f"{each.place}, but the user {owner} may not pass {closed}", remedy)


def _own_networks(reached: Sequence[_Check], config: Config) -> Iterator[Finding]:
    exposed = [each for each in reached if not each.hook.own_networks]
    for each in exposed:
        if limited := _limited_networks(each.smtpd, config):
            detail = f"{each.smtpd.name}: mynetworks has {', '.join(limited)}, [exempt] does not, "
            detail += f"and no {OWN_NETWORKS} comes before the check: these hosts are limited"
            otherwise = f"put {OWN_NETWORKS} before the check"
            remedy = _change(each, lambda before, found, behind: [*before, OWN_NETWORKS, *found, *behind], otherwise)
            yield Finding("mynetworks", WARN, detail, remedy)
            return
    if reached:
        how = "is exempt" if exposed else f"passes by {OWN_NETWORKS} before the check"
        yield Finding("mynetworks", OK, f"mail from mynetworks {how}")


def _limited_networks(smtpd: Smtpd, config: Config) -> list[str]:
    """The elements of mynetworks that the daemon does not exempt."""
    networks, others = networks_in(smtpd.parameters.get("mynetworks", ""))
    free = [*config.exempt.networks]
    free += [network for each in config.overrides if each.limit == UNLIMITED for network in each.networks]
    limited = [n for n in networks if not any(n.version == f.version and n.subnet_of(f) for f in free)]  # type: ignore[arg-type]
    return [*map(str, limited), *(each for each in others if not each.startswith("!"))]


def permitted_networks(postfix: Postfix, served: Sequence[Endpoint]) -> list[Network]:
    """Mynetworks if `permit_mynetworks` comes before each check of this daemon: Postfix does not ask then."""
    if not all(each.hook.own_networks for each in _checks(postfix.entrances, served) if each.ours):
        return []
    return [each for smtpd in postfix.entrances for each in networks_in(smtpd.parameters.get("mynetworks", ""))[0]]


def _references(postfix: Postfix, served: Sequence[Endpoint]) -> Finding:
    """List every parameter that names this daemon, in use or not: without the daemon they may stop mail."""
    settings = [
        (f"{each.directory}/main.cf", name, value, each.main["queue_directory"])
        for each in postfix.instances
        for name, value in each.written.items()
    ]
    for smtpd in (*postfix.smtpd, *postfix.disabled):
        file, queue = f"{smtpd.instance.directory}/master.cf", smtpd.parameters["queue_directory"]
        options = {**smtpd.overridden, "": smtpd.stray}.items()
        settings += [(file, f"{smtpd.service} -o {name}".strip(), value, queue) for name, value in options]
    found: dict[str, list[str]] = {}
    for file, name, value, queue in settings:
        named = re.findall(r"(?:inet|unix|local):[^\s,{}]+", value)
        places = [inside_endpoint(n, chroot=chroot, queue_directory=queue) for n in named for chroot in (False, True)]
        if any(is_served(place, served) for place in places):
            found.setdefault(file, []).append(name)
    detail = "; ".join(f"{file}: {', '.join(names)}" for file, names in found.items())
    return Finding("references", OK, detail or "none")


def _change(each: _Check, arrange: Arrange | None, otherwise: str) -> str:
    """Return the command that changes the list of a check and keeps all other elements.

    `arrange` puts together what comes before the check, the check, and what comes behind it; without it the check moves
    to the end of data. `otherwise` is the remedy where the check is in a class or a variable.
    """
    smtpd, parameter = each.smtpd, each.hook.parameter
    written = _written(smtpd, parameter)
    for index, (word, argument) in enumerate(pairwise(written)):
        if word.lower() == CHECK and lists.service_of(argument)[0] == each.hook.endpoint:
            before, found, behind = written[:index], [word, argument], written[index + 2 :]
            if arrange is not None:
                return _command(smtpd, {parameter: arrange(before, found, behind)})
            moved = lists.with_check(_written(smtpd, END_OF_DATA), found)
            return _command(smtpd, {parameter: [*before, *behind], END_OF_DATA: moved})
    return f"{otherwise}; then: {smtpd.instance.reload}"


def _with_check(smtpd: Smtpd, parameter: str, before: list[str], new: list[str], behind: list[str]) -> list[str]:
    """Put a check at the end of a list, or at its beginning if something would end the list before the check."""
    rest = [*before, *behind]
    elements = lists.with_check(rest, new)
    hooks = lists.restrictions_of({**smtpd.parameters, parameter: lists.joined(elements)}).hooks
    blocked = any(hook.blocked_by for hook in hooks if hook.parameter == parameter)
    return [*new, *rest] if blocked else elements


def _ahead(before: list[str], found: list[str], behind: list[str]) -> list[str]:
    """Move a check ahead of what may skip it."""
    skips = {CHECK, "permit_auth_destination"}
    first = next((index for index, word in enumerate(before) if word.lower() in skips), 0)
    return [*before[:first], *found, *before[first:], *behind]


def _command(smtpd: Smtpd, changed: Mapping[str, Sequence[str]]) -> str:
    """What sets restriction lists of an smtpd in the file that sets them now, in a form that can be pasted."""
    instance = smtpd.instance
    settings = [f"{name} = {lists.joined(elements)}" for name, elements in changed.items()]
    if not smtpd.overridden.keys().isdisjoint(changed):
        options = " ".join(f"-o {{ {setting} }}" for setting in settings)
        return f"in {instance.directory}/master.cf, at {smtpd.service}: {options}; then: {instance.reload}"
    quoted = ['"' + re.sub(r'(["$`\\])', r"\\\1", setting) + '"' for setting in settings]
    return f"postconf{instance.option} -e {' '.join(quoted)} && {instance.reload}"


def _written(smtpd: Smtpd, parameter: str) -> list[str]:
    """The elements of a list in master.cf or main.cf; variables and classes are not expanded."""
    return lists.tokens(smtpd.overridden.get(parameter, smtpd.instance.written.get(parameter, "")))


def _distinct(checks: Iterable[_Check]) -> list[_Check]:
    """The first check of each way of asking."""
    return list({str(each.hook): each for each in reversed(list(checks))}.values())[::-1]
