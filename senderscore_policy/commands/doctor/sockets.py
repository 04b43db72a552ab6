"""What an endpoint in main.cf leads to, seen from inside smtpd."""

import pwd
import socket
import stat
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from senderscore_policy.commands.ask import connect
from senderscore_policy.config.endpoints import Endpoint, Inet, Unix

_PATIENCE: Final = 2.0
"""Seconds for a connection."""


def inside_endpoint(text: str, *, chroot: bool, queue_directory: Path) -> Endpoint | None:
    """Where an endpoint in main.cf leads to; None: it is not an endpoint.

    A unix socket is looked for below the queue directory, unless its name begins with a slash and smtpd is not
    chrooted (SMTPD_POLICY_README, "Client side configuration").
    """
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest:
        return Unix(rest if rest.startswith("/") and not chroot else str(queue_directory / rest.lstrip("/")))
    host, _, service = rest.rpartition(":")
    if kind != "inet" or not service:
        return None
    try:
        port = int(service) if service.isdigit() else socket.getservbyname(service, "tcp")
    except OSError:
        return None
    return Inet(host.strip("[]") or "localhost", port)


def is_served(asked: Endpoint | None, served: Sequence[Endpoint]) -> bool:
    if isinstance(asked, Unix):
        path = Path(asked.path).resolve()
        return any(isinstance(each, Unix) and Path(each.path).resolve() == path for each in served)
    if asked is None:
        return False
    hosts = _addresses(asked)
    for each in served:
        if isinstance(each, Inet) and each.port == asked.port:
            own = _addresses(each)
            everywhere = any(ip_address(host).is_unspecified for host in own)
            if hosts & own or (everywhere and any(map(_is_of_this_host, hosts))):
                return True
    return False


def listens(endpoint: Endpoint) -> bool:
    try:
        connect(endpoint, _PATIENCE).close()
    except OSError:
        return False
    return True


def obstacle(path: Path, user: str) -> Path | None:
    """What keeps a user from a socket: the socket, or a directory on the way; None: nothing that can be seen."""
    try:
        entry = pwd.getpwnam(user)
        for part in [*reversed(path.parents), path]:
            status = part.stat()
            wanted = stat.S_IXOTH if stat.S_ISDIR(status.st_mode) else stat.S_IWOTH
            if status.st_uid == entry.pw_uid:
                wanted <<= 6
            elif status.st_gid == entry.pw_gid:
                wanted <<= 3
            if not status.st_mode & wanted:
                return part
    except (KeyError, OSError):
        return None
    return None


def _addresses(endpoint: Inet) -> set[str]:
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    return {str(address[0]) for *_, address in found}


def _is_of_this_host(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True
