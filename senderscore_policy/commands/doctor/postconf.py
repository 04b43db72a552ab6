"""Postfix's configuration, as its own `postconf` reads it."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv6Network, ip_network
from itertools import pairwise
from pathlib import Path
from typing import Final

from senderscore_policy.commands.doctor.restrictions import Restrictions, restrictions_of, tokens
from senderscore_policy.commands.doctor.sockets import inside_endpoint
from senderscore_policy.config.endpoints import Endpoint
from senderscore_policy.errors import BackendError
from senderscore_policy.policy.clients import Network, parse_address

_SYSTEM_PATH: Final = "/usr/sbin:/usr/local/sbin:/usr/lib/postfix/sbin"  # users' PATH often lacks these
_ABSENT: Final = re.compile(r"open \S*main\.cf: (No such file|Not a directory|Permission denied)")


class BrokenPostfixError(BackendError):
    """Postfix itself cannot read its configuration."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One directory of configuration: Postfix has several with postmulti(1)."""

    directory: Path
    option: str  # for `postconf` and `postfix`, " -c DIR"; empty for the default instance
    label: str  # what the names of its services begin with in findings; empty if no other instance was read before
    main: Mapping[str, str]  # the parameters of main.cf, defaults included, expanded
    written: Mapping[str, str]  # those that main.cf sets, not expanded
    unused: tuple[str, ...]  # lines of main.cf that set what Postfix does not know

    @property
    def reload(self) -> str:
        return f"postfix{self.option} reload"


@dataclass(frozen=True, slots=True)
class Smtpd:
    """One smtpd service of master.cf."""

    instance: Instance
    service: str  # as master.cf names it, "smtp/inet"
    chroot: bool
    parameters: Mapping[str, str]  # as they hold for it, expanded
    overridden: Mapping[str, str]  # those that master.cf sets by -o, not expanded
    stray: str = ""  # words in master.cf that smtpd takes for arguments, and ends

    @property
    def name(self) -> str:
        return self.instance.label + self.service

    @property
    def restrictions(self) -> Restrictions:
        return restrictions_of(self.parameters)

    def endpoint(self, text: str, *, chrooted: bool = True) -> Endpoint | None:
        """Where an endpoint in main.cf leads to, or would lead to without a chroot; None: it is not an endpoint."""
        chroot, queue = self.chroot and chrooted, self.parameters["queue_directory"]
        return inside_endpoint(text, chroot=chroot, queue_directory=queue)

    @property
    def disabled(self) -> bool:
        """Whether `multi_instance_enable` or `master_service_disable` (by its first match) turns it off."""
        if self.instance.label and self.instance.main.get("multi_instance_enable") != "yes":
            return True
        for pattern in tokens(self.instance.main.get("master_service_disable", "")):
            if pattern.lstrip("!") in {self.service, self.service.rpartition("/")[2]}:
                return not pattern.startswith("!")
        return False

    @property
    def takes_mail_from_outside(self) -> bool:
        """Whether it has port 25 of a public address, or is behind postscreen or a proxy."""
        if self.service.endswith("/pass"):
            return True
        host, _, port = self.service.rpartition("/")[0].rpartition(":")
        hosts = [host] if host else tokens(self.parameters.get("inet_interfaces", ""))
        behind_proxy = bool(self.parameters.get("smtpd_upstream_proxy_protocol"))
        return port in {"smtp", "25"} and (behind_proxy or not hosts or not all(map(_is_loopback, hosts)))

    @property
    def takes_submissions(self) -> bool:
        """Whether it is for users who log in (RFC 6409, RFC 8314)."""
        port = self.service.rpartition("/")[0].rpartition(":")[2]
        return port in {"submission", "587", "submissions", "smtps", "465"}


@dataclass(frozen=True, slots=True)
class Postfix:
    """The Postfix of this host."""

    instances: tuple[Instance, ...]
    smtpd: tuple[Smtpd, ...]
    disabled: tuple[Smtpd, ...] = ()
    unread: tuple[BackendError, ...] = ()  # why further instances could not be read

    @property
    def entrances(self) -> list[Smtpd]:
        """The services for mail from outside; without a known one, all that are not for submission."""
        known = [smtpd for smtpd in self.smtpd if smtpd.takes_mail_from_outside]
        return known or [smtpd for smtpd in self.smtpd if not smtpd.takes_submissions]

    @property
    def changed_at(self) -> float:
        """When a main.cf or master.cf was last written, in seconds since the epoch."""
        files = (each.directory / name for each in self.instances for name in ("main.cf", "master.cf"))
        return max(file.stat().st_mtime for file in files)


def read_postfix(directory: Path | None) -> Postfix:
    """Read the instance of a directory (None: the default instance), and all others that it manages (postmulti(1)).

    Raises:
        BackendError: Postfix is not installed, or the directory has no main.cf.
        BrokenPostfixError: Postfix cannot read its configuration, so that it takes no mail.
    """
    first = _read_instance(directory, "")
    instances, services, unread = [first], _services(first), []
    for path in map(Path, tokens(first.main.get("multi_instance_directories", ""))):
        try:
            instance = _read_instance(path, f"{path}: ")
            services += _services(instance)
            instances.append(instance)
        except BackendError as error:
            unread.append(error)
    enabled, disabled = ([each for each in services if each.disabled is off] for off in (False, True))
    return Postfix(tuple(instances), tuple(enabled), tuple(disabled), tuple(unread))


def _read_instance(directory: Path | None, label: str) -> Instance:
    option = ["-c", str(directory)] if directory else []
    # It reads main.cf as all of Postfix's programs do, so it knows of values that postconf does not look at.
    _run("postmap", [*option, "-q", "x", "static:x"])
    main = _assignments(_run("postconf", [*option, "-x"])[0])
    written, warnings = _run("postconf", [*option, "-n"])
    unused = tuple(filter(None, (line.partition("unused parameter: ")[2] for line in warnings)))
    place, shown = directory or Path(main["config_directory"]), f" -c {directory}" if directory else ""
    return Instance(place, shown, label, main, _assignments(written), unused)


def _services(instance: Instance) -> list[Smtpd]:
    option = ["-c", str(instance.directory)]
    output, warnings = _run("postconf", [*option, "-F"])
    for line in warnings:
        if line.startswith("master.cf: missing '}'"):
            raise BrokenPostfixError(f"{instance.directory}/{line}")
    overrides = _by_service(_run("postconf", [*option, "-P"])[0])
    found = []
    for service, columns in _by_service(output).items():
        words, own, parameters = tokens(columns["command"], " \t"), overrides.get(service, {}), instance.main
        if columns["type"] not in {"inet", "unix", "pass"} or words[:1] != ["smtpd"]:
            continue
        if own:
            # An override may be a variable that other parameters have in them: postconf expands them with it.
            given = [word for name, value in own.items() for word in ("-o", f"{name}={value}")]
            parameters = _assignments(_run("postconf", [*option, "-x", *given])[0])
        # "-" meant yes before Postfix 3.0 (COMPATIBILITY_README).
        old = instance.main.get("compatibility_level", "0").partition(".")[0] == "0"
        chroot = columns["chroot"] in ({"y", "-"} if old else {"y"})
        pairs = pairwise(words)
        stray = [word for last, word in pairs if ("=" not in word if last == "-o" else not word.startswith("-"))]
        found.append(Smtpd(instance, service, chroot, parameters, own, " ".join(stray)))
    return found


def _is_loopback(host: str) -> bool:
    address = parse_address(host.strip("[]"))
    return address.is_loopback if address else host in {"localhost", "loopback-only"}


def networks_in(text: str) -> tuple[list[Network], list[str]]:
    """The networks of a parameter such as mynetworks, and its elements that only Postfix can look up."""
    networks: list[Network] = []
    others: list[str] = []
    for element in tokens(text):
        try:
            if element.startswith("/"):
                # A file has networks, and no further files: they end here.
                inner = networks_in(re.sub(r"#.*|(?<!\S)/\S*", "", Path(element).read_text("utf-8", "replace")))
                networks, others = [*networks, *inner[0]], [*others, *inner[1]]
                continue
            network = ip_network(re.sub(r"[\[\]]", "", element), strict=False)
            if isinstance(network, IPv6Network) and (mapped := network.network_address.ipv4_mapped):
                network = ip_network(f"{mapped}/{network.prefixlen - 96}")
            networks.append(network)
        except (OSError, ValueError):
            others.append(element)
    return networks, others


def _by_service(output: str) -> dict[str, dict[str, str]]:
    """Group lines of `service/type/name = value` by their service."""
    found: dict[str, dict[str, str]] = {}
    for key, value in _assignments(output).items():
        service, _, name = key.rpartition("/")
        found.setdefault(service, {})[name] = value
    return found


def _assignments(output: str) -> dict[str, str]:
    pairs = (line.partition(" =") for line in output.splitlines())
    return {name: value.strip() for name, equals, value in pairs if equals}


def _run(name: str, arguments: list[str]) -> tuple[str, list[str]]:
    """Run one of Postfix's programs; return its output and the lines that it wrote to stderr."""
    program = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}")
    if program is None:
        raise BackendError(f"no Postfix on this host: {name} is not in PATH")
    try:
        done = subprocess.run(  # noqa: S603 - a program of the system, arguments of the administrator
            [program, *arguments], capture_output=True, text=True, errors="replace", timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"{name}: {error}") from error
    said = [re.sub(rf"^\S*{name}: (fatal|error|warning): ", "", line) for line in done.stderr.splitlines()]
    if done.returncode and not (name == "postmap" and not said):
        reason = said[-1] if said else f"{name} ended with status {done.returncode}"
        raise BackendError(reason) if _ABSENT.search(reason) else BrokenPostfixError(reason)
    return done.stdout, said
