"""Checks of `doctor`: does Postfix ask this daemon, at the right moment and on sensible terms?"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from senderscore_policy.commands.doctor.finding import Finding, Status
from senderscore_policy.commands.doctor.postconf import Postfix, Smtpd
from senderscore_policy.commands.doctor.restrictions import DATA, END_OF_DATA, Hook, hooks, seconds
from senderscore_policy.commands.doctor.sockets import inside_endpoint, is_served, notation, obstacle, somebody_listens
from senderscore_policy.config.endpoints import Endpoint, Inet, Unix
from senderscore_policy.config.model import Config

DEFAULT: Final = Inet("127.0.0.1", 10045)
LONGEST_TIMEOUT: Final = 30.0
"""Seconds for which a daemon that hangs may hold up a message; the recommended line says 10, the default is 100."""


@dataclass(frozen=True, slots=True)
class _Asking:
    """An smtpd that asks a policy server."""

    smtpd: Smtpd
    hook: Hook

    def place(self) -> str:
        """In words."""
        return f"{self.smtpd.name} asks {self.hook.endpoint} in {self.hook.parameter}"


def recommended(served: Sequence[Endpoint]) -> str:
    """The line for main.cf.

    Args:
        served: where the daemon listens; TCP is preferred, as a chroot does not hide it.
    """
    endpoint = min(served, key=lambda endpoint: isinstance(endpoint, Unix), default=DEFAULT)
    if isinstance(endpoint, Inet) and endpoint.host in {"0.0.0.0", "::"}:  # noqa: S104 - not bound to here
        endpoint = Inet("127.0.0.1" if endpoint.host == "0.0.0.0" else "::1", endpoint.port)  # noqa: S104
    return f"{END_OF_DATA} = {_check(notation(endpoint))}"


def _check(endpoint: str) -> str:
    """The check as it should stand in a restriction list."""
    return f"check_policy_service {{ {endpoint}, timeout=10s, default_action=DUNNO }}"


def postfix_findings(postfix: Postfix, served: Sequence[Endpoint], config: Config) -> Iterator[Finding]:
    """What stands in main.cf and master.cf about this daemon.

    Args:
        postfix: one instance.
        served: where the daemon listens.
        config: of the daemon.
    """
    everything = [_Asking(smtpd, hook) for smtpd in postfix.smtpd for hook in smtpd.hooks]
    ours = [each for each in everything if is_served(_endpoint(each, postfix), served)]
    hidden = [each for each in everything if each not in ours and _is_hidden(each, served)]
    line = recommended(served)
    for each in _distinct(hidden):
        yield Finding(
            "chroot",
            Status.FAIL,
            f"{each.place()}, but runs in the chroot {postfix.queue_directory}, where there is no such path",
            f"set policy in [listen] to a TCP address; in main.cf: {recommended([DEFAULT])}; then: postfix reload",
        )
    if ours:
        yield from _entrances(postfix, ours, line)
        yield from _places(ours, config)
        yield from _terms(ours, config)
        yield from _sockets(ours, postfix)
    elif _is_overridden(postfix, served) and not hidden:
        yield from _entrances(postfix, ours, line)
    elif not hidden:
        yield _nobody(everything, postfix, served, line)


def _nobody(everything: Sequence[_Asking], postfix: Postfix, served: Sequence[Endpoint], line: str) -> Finding:
    """No smtpd asks this daemon: what it does instead."""
    others = []
    for each in _distinct(everything):
        endpoint = _endpoint(each, postfix)
        listens = endpoint is not None and somebody_listens(endpoint)
        others.append(f"{each.place()}, {'another service' if listens else 'where nobody listens'}")
    detail = "; ".join(others) or f"no policy service in {postfix.directory / 'main.cf'} or master.cf"
    listening = ", ".join(map(notation, served))
    return Finding(
        "postfix",
        Status.FAIL,
        f"Postfix does not ask this daemon, which listens on {listening}: {detail}",
        f"in main.cf: {line}; then: postfix reload",
    )


def _entrances(postfix: Postfix, ours: Sequence[_Asking], line: str) -> Iterator[Finding]:
    """Whether each smtpd that takes mail from outside asks."""
    asking = {each.smtpd.name for each in ours if each.hook.reached}
    for smtpd in postfix.entrances:
        if smtpd.name in asking:
            continue
        unreached = next((each.hook for each in ours if each.smtpd is smtpd), None)
        if unreached:
            what = f"never comes to the check: permit, reject or defer stands before it in {unreached.parameter}"
            remedy = "put check_policy_service before it"
        elif END_OF_DATA in smtpd.overridden:
            what = f"does not ask: master.cf overrides it with -o {END_OF_DATA}={smtpd.parameters[END_OF_DATA]}"
            remedy = "take that -o out of master.cf, or add the check_policy_service to it"
        else:
            what, remedy = "does not ask", f"in main.cf: {line}"
        yield Finding("postfix", Status.FAIL, f"{smtpd.name} {what}", f"{remedy}; then: postfix reload")
    if asking:
        others = [smtpd.name for smtpd in postfix.smtpd if smtpd.name not in asking and smtpd not in postfix.entrances]
        aside = f" ({', '.join(others)} not, which is usual for mail of one's own)" if others else ""
        yield Finding("postfix", Status.OK, f"{', '.join(sorted(asking))} asks this daemon{aside}")


def _places(ours: Sequence[_Asking], config: Config) -> Iterator[Finding]:
    """Whether the daemon is asked at the end of data, and only there."""
    for each in _distinct(ours):
        hook = each.hook
        if hook.warned:
            detail = f"{each.place()}, behind warn_if_reject: Postfix only logs deferrals"
            yield Finding("restriction", Status.WARN, detail, "take warn_if_reject away; then: postfix reload")
        if hook.parameter == END_OF_DATA:
            continue
        remedy = f"move the check to {END_OF_DATA}; then: postfix reload"
        if hook.parameter != DATA and not hook.guarded:
            detail = f"{each.place()}, before reject_unauth_destination: mail that is refused anyway counts"
            yield Finding("restriction", Status.FAIL, detail, remedy)
            continue
        early = "before the message is there: one that is rejected later counts"
        if config.counters.count == "recipients" and hook.parameter != DATA:
            early += ', and count = "recipients" sees no recipients yet'
        yield Finding("restriction", Status.WARN, f"{each.place()}, {early}", remedy)
    parameters = sorted({each.hook.parameter for each in ours})
    if parameters == [END_OF_DATA] and not any(each.hook.warned for each in ours):
        yield Finding("restriction", Status.OK, f"asked in {END_OF_DATA}, when the whole message is there")


def _terms(ours: Sequence[_Asking], config: Config) -> Iterator[Finding]:
    """What Postfix does when there is no answer, and when it takes long."""
    fine = True
    for each in _distinct(ours):
        options, parameters = each.hook.options, each.smtpd.parameters
        action = options.get("default_action") or parameters["smtpd_policy_service_default_action"]
        timeout = options.get("timeout") or parameters["smtpd_policy_service_timeout"]
        remedy = f"write {_check(each.hook.endpoint)}; then: postfix reload"
        if action.upper() != "DUNNO":
            fine = False
            detail = f"{each.place()} with default_action={action}: while the daemon is down every message gets that"
            yield Finding("default_action", Status.WARN, detail, remedy)
        limit, deadline = seconds(timeout), config.reputation.deadline
        if limit is None or not deadline < limit <= LONGEST_TIMEOUT:
            fine = False
            why = "a daemon that hangs would hold up each message for so long"
            if limit is not None and limit <= deadline:
                why = f"a request may wait {deadline:g} s for its score (reputation.deadline)"
            detail = f"{each.place()} with timeout={timeout}: {why}"
            yield Finding("timeout", Status.WARN, detail, remedy)
    if fine:
        yield Finding("default_action", Status.OK, "mail passes while the daemon is down (default_action=DUNNO)")


def _sockets(ours: Sequence[_Asking], postfix: Postfix) -> Iterator[Finding]:
    """Whether the user that smtpd runs as may use the unix sockets."""
    owner = postfix.main["mail_owner"]
    for each in _distinct(ours):
        endpoint = _endpoint(each, postfix)
        if isinstance(endpoint, Unix) and (closed := obstacle(Path(endpoint.path), owner)):
            yield Finding(
                "socket",
                Status.FAIL,
                f"{each.place()}, but the user {owner} may not pass {closed}",
                f"chmod o+x {closed} (o+rw for the socket itself), or use TCP",
            )


def _is_overridden(postfix: Postfix, served: Sequence[Endpoint]) -> bool:
    """Whether every smtpd would ask this daemon if it went by main.cf."""
    queue = postfix.queue_directory
    return any(
        is_served(inside_endpoint(hook.endpoint, chroot=False, queue_directory=queue), served)
        for hook in hooks(postfix.main)
    )


def _distinct(asking: Iterable[_Asking]) -> list[_Asking]:
    """One for each way of asking, however many services share it."""
    found: dict[tuple[str, str, str, bool], _Asking] = {}
    for each in asking:
        hook = each.hook
        found.setdefault((hook.parameter, hook.endpoint, str(hook.options), hook.warned), each)
    return list(found.values())


def _endpoint(asking: _Asking, postfix: Postfix) -> Endpoint | None:
    """Where it asks; None if that is no endpoint."""
    return inside_endpoint(asking.hook.endpoint, chroot=asking.smtpd.chroot, queue_directory=postfix.queue_directory)


def _is_hidden(asking: _Asking, served: Sequence[Endpoint]) -> bool:
    """Whether the daemon's own socket is meant, and a chroot hides it."""
    kind, _, path = asking.hook.endpoint.partition(":")
    return kind == "unix" and path.startswith("/") and asking.smtpd.chroot and is_served(Unix(path), served)
