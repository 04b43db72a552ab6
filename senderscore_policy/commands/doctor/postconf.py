"""Postfix's configuration, as its own `postconf` reads it."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from itertools import pairwise
from pathlib import Path
from typing import Final

from senderscore_policy.commands.doctor.restrictions import Restrictions, restrictions_of, tokens
from senderscore_policy.errors import BackendError

_SYSTEM_PATH: Final = "/usr/sbin:/usr/local/sbin:/usr/lib/postfix/sbin"
"""Users' PATH often lacks the directories of administration."""
_PATIENCE: Final = 20.0
_ABSENT: Final = re.compile(r"open \S*main\.cf: (No such file|Not a directory|Permission denied)")
_MAPPED: Final = IPv6Network("::ffff:0:0/96")

Network = IPv4Network | IPv6Network


class BrokenPostfixError(BackendError):
    """Postfix itself cannot read its configuration."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One directory of configuration: Postfix has several with postmulti(1).

    Args:
        option: for `postconf` and `postfix`, " -c DIR"; empty for the default instance.
        label: what the names of its services begin with in findings; empty if no other instance was read before.
        main: the parameters of main.cf, defaults included, expanded.
        written: those that main.cf sets, not expanded.
        unused: lines of main.cf that set what Postfix does not know.
    """

    directory: Path
    option: str
    label: str
    main: Mapping[str, str]
    written: Mapping[str, str]
    unused: tuple[str, ...]

    @property
    def reload(self) -> str:
        return f"postfix{self.option} reload"


@dataclass(frozen=True, slots=True)
class Smtpd:
    """One smtpd service of master.cf.

    Args:
        service: as master.cf names it, "smtp/inet".
        parameters: as they hold for it, expanded.
        overridden: those that master.cf sets by -o, not expanded.
        stray: words in master.cf that smtpd takes for arguments, and ends; empty: none.
    """

    instance: Instance
    service: str
    chroot: bool
    parameters: Mapping[str, str]
    overridden: Mapping[str, str]
    stray: str = ""

    @property
    def name(self) -> str:
        return self.instance.label + self.service

    @property
    def restrictions(self) -> Restrictions:
        return restrictions_of(self.parameters)

    @property
    def queue_directory(self) -> Path:
        """Return the root of chrooted services, to which relative sockets belong."""
        return Path(self.parameters["queue_directory"])

    @property
    def disabled(self) -> bool:
        """Return whether `multi_instance_enable` or `master_service_disable` (by its first match) turns it off."""
        if self.instance.label and self.instance.main.get("multi_instance_enable") != "yes":
            return True
        for pattern in tokens(self.instance.main.get("master_service_disable", "")):
            if pattern.lstrip("!") in {self.service, self.service.rpartition("/")[2]}:
                return not pattern.startswith("!")
        return False

    @property
    def takes_mail_from_outside(self) -> bool:
        """Return whether it takes mail of other hosts: port 25 of a public address, or behind postscreen or a proxy."""
        if self.service.endswith("/pass"):
            return True
        host, _, port = self.service.rpartition("/")[0].rpartition(":")
        hosts = [host] if host else tokens(self.parameters.get("inet_interfaces", ""))
        behind_proxy = bool(self.parameters.get("smtpd_upstream_proxy_protocol"))
        return port in {"smtp", "25"} and (behind_proxy or not hosts or not all(map(_is_loopback, hosts)))

    @property
    def takes_submissions(self) -> bool:
        """Return whether it is for users who log in (RFC 6409, RFC 8314)."""
        port = self.service.rpartition("/")[0].rpartition(":")[2]
        return port in {"submission", "587", "submissions", "smtps", "465"}


@dataclass(frozen=True, slots=True)
class Postfix:
    """The Postfix of this host; `unread` says why further instances could not be read."""

    instances: tuple[Instance, ...]
    smtpd: tuple[Smtpd, ...]
    disabled: tuple[Smtpd, ...] = ()
    unread: tuple[BackendError, ...] = ()

    @property
    def entrances(self) -> list[Smtpd]:
        """Return the services for mail from outside; without a known one, all that are not for submission."""
        known = [smtpd for smtpd in self.smtpd if smtpd.takes_mail_from_outside]
        return known or [smtpd for smtpd in self.smtpd if not smtpd.takes_submissions]

    @property
    def changed_at(self) -> float:
        """Return when a main.cf or master.cf was last written, in seconds since the epoch."""
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
        found.append(Smtpd(instance, service, chroot, parameters, own, _stray(words[1:])))
    return found


def _stray(words: list[str]) -> str:
    """Return the words in the command of a service that are neither options nor their values."""
    pairs = pairwise(["", *words])
    return " ".join(word for last, word in pairs if ("=" not in word if last == "-o" else not word.startswith("-")))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host in {"localhost", "loopback-only"}


def networks_in(text: str) -> tuple[list[Network], list[str]]:
    """Return the networks of a parameter such as mynetworks, and its elements that only Postfix can look up."""
    networks: list[Network] = []
    others: list[str] = []
    for element in tokens(text):
        try:
            network = ip_network(re.sub(r"[\[\]]", "", element), strict=False)
            if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
                network = ip_network((network.network_address.packed[12:], network.prefixlen - 96))
            networks.append(network)
        except ValueError:
            try:
                # A file has networks, and no further files: they end here.
                content = Path(element if element.startswith("/") else "").read_text("utf-8", "replace")
                inner = networks_in(re.sub(r"#.*|(?<!\S)/\S*", "", content))
                networks, others = [*networks, *inner[0]], [*others, *inner[1]]
            except OSError:
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
    """Parse lines of `name = value`."""
    pairs = (line.partition(" =") for line in output.splitlines())
    return {name: value.strip() for name, equals, value in pairs if equals}


def _run(name: str, arguments: list[str]) -> tuple[str, list[str]]:
    """Run one of Postfix's programs; return its output and the lines that it wrote to stderr."""
    program = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}")
    if program is None:
        raise BackendError(f"no Postfix on this host: {name} is not in PATH")
    try:
        done = subprocess.run(  # noqa: S603 - a program of the system, arguments of the administrator
            [program, *arguments], capture_output=True, text=True, errors="replace", timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"{name}: {error}") from error
    said = [re.sub(rf"^\S*{name}: (fatal|error|warning): ", "", line) for line in done.stderr.splitlines()]
    if done.returncode and not (name == "postmap" and not said):
        reason = said[-1] if said else f"{name} ended with status {done.returncode}"
        raise BackendError(reason) if _ABSENT.search(reason) else BrokenPostfixError(reason)
    return done.stdout, said
