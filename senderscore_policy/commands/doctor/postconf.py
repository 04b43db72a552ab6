"""Postfix's configuration, as its own `postconf` tells it."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from senderscore_policy.commands.doctor.restrictions import Hook, hooks
from senderscore_policy.errors import BackendError

_SYSTEM_PATH: Final = "/usr/sbin:/usr/local/sbin:/usr/lib/postfix/sbin"
"""Users' PATH often lacks the directories of administration."""
_PATIENCE: Final = 20.0


@dataclass(frozen=True, slots=True)
class Smtpd:
    """One smtpd service of master.cf.

    Args:
        name: such as "smtp/inet".
        chroot: whether it runs in the queue directory as its root.
        parameters: as they hold for it.
        overridden: those that master.cf sets by -o.
    """

    name: str
    chroot: bool
    parameters: Mapping[str, str]
    overridden: frozenset[str]

    @property
    def hooks(self) -> list[Hook]:
        """The policy services that it asks."""
        return hooks(self.parameters)

    @property
    def takes_mail_from_outside(self) -> bool:
        """Whether it is the one for other hosts' mail: on port 25, or behind postscreen."""
        return self.name.endswith("/pass") or self._port in {"smtp", "25"}

    @property
    def takes_submissions(self) -> bool:
        """Whether it is for users who log in (RFC 6409, RFC 8314)."""
        return self._port in {"submission", "587", "submissions", "smtps", "465"}

    @property
    def _port(self) -> str:
        return self.name.rpartition("/")[0].rpartition(":")[2]


@dataclass(frozen=True, slots=True)
class Postfix:
    """A Postfix instance.

    Args:
        main: the parameters of main.cf, defaults included, expanded.
        smtpd: its smtpd services.
    """

    main: Mapping[str, str]
    smtpd: tuple[Smtpd, ...]

    @property
    def directory(self) -> Path:
        """Of its configuration."""
        return Path(self.main["config_directory"])

    @property
    def queue_directory(self) -> Path:
        """Where chrooted services have their root, and relative sockets theirs."""
        return Path(self.main["queue_directory"])

    @property
    def entrances(self) -> list[Smtpd]:
        """The services for mail from outside; where none is known as such, all that are not for submission."""
        known = [service for service in self.smtpd if service.takes_mail_from_outside]
        return known or [service for service in self.smtpd if not service.takes_submissions]

    @property
    def changed_at(self) -> float:
        """When main.cf or master.cf was written last, seconds since the epoch."""
        return max((self.directory / name).stat().st_mtime for name in ("main.cf", "master.cf"))


def read_postfix(directory: Path | None) -> Postfix:
    """Read an instance.

    Args:
        directory: of its configuration; None: the default instance.

    Raises:
        BackendError: there is no Postfix, or its configuration cannot be read.
    """
    program = shutil.which("postconf", path=f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}")
    if program is None:
        raise BackendError("no Postfix on this host: postconf is not in PATH")
    command = [program, *(["-c", str(directory)] if directory else [])]
    main = _assignments(_run([*command, "-x"]))
    fields: dict[str, dict[str, str]] = {}
    for key, value in _assignments(_run([*command, "-F"])).items():
        service, _, field = key.rpartition("/")
        fields.setdefault(service, {})[field] = value
    overrides: dict[str, dict[str, str]] = {}
    for key, value in _assignments(_run([*command, "-x", "-P"])).items():
        service, _, parameter = key.rpartition("/")
        overrides.setdefault(service, {})[parameter] = value
    smtpd = (
        Smtpd(name, _chroot(field["chroot"], main), main | overrides.get(name, {}), frozenset(overrides.get(name, {})))
        for name, field in fields.items()
        if field["type"] in {"inet", "unix", "pass"} and field["command"].split()[:1] == ["smtpd"]
    )
    return Postfix(main, tuple(smtpd))


def _chroot(field: str, main: Mapping[str, str]) -> bool:
    """Whether the column chroot of master.cf means yes; "-" did so before Postfix 3.0 (COMPATIBILITY_README)."""
    return field == "y" or (field == "-" and main.get("compatibility_level", "0").partition(".")[0] == "0")


def _assignments(output: str) -> dict[str, str]:
    """Lines of `name = value`."""
    pairs = (line.partition(" =") for line in output.splitlines())
    return {name: value.strip() for name, equals, value in pairs if equals}


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - a program of the system, arguments of the administrator
            command, capture_output=True, text=True, errors="replace", timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"{' '.join(command)}: {error}") from error
    if done.returncode:
        raise BackendError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"{command[0]} failed")
    return done.stdout
