"""What an endpoint in main.cf leads to, seen from inside smtpd."""

import contextlib
import pwd
import socket
import stat
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from senderscore_policy.commands.control import connect
from senderscore_policy.config.endpoints import Endpoint, Inet, Unix


def inside_endpoint(text: str, *, chroot: bool, queue_directory: str | Path) -> Endpoint | None:
    """Where an endpoint in main.cf leads to; None: it is not an endpoint.

    A unix socket is looked for below the queue directory, unless its name begins with a slash and smtpd is not
    chrooted (SMTPD_POLICY_README, "Client side configuration").
    """
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest:
        return Unix(rest if rest.startswith("/") and not chroot else str(Path(queue_directory, rest.lstrip("/"))))
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
    own = {host for each in served if isinstance(each, Inet) and each.port == asked.port for host in _addresses(each)}
    everywhere = any(ip_address(host).is_unspecified for host in own)
    return not hosts.isdisjoint(own) or (everywhere and any(map(_is_of_this_host, hosts)))


def listens(endpoint: Endpoint) -> bool:
    with contextlib.suppress(OSError):
        connect(endpoint, timeout=2.0).close()
        return True
    return False


def obstacle(path: Path, user: str) -> Path | None:
    """What keeps a user from a socket: the socket, or a directory on the way; None: nothing that can be seen."""
    with contextlib.suppress(KeyError, OSError):
        entry = pwd.getpwnam(user)
        for part in [*reversed(path.parents), path]:
            status = part.stat()
            wanted = stat.S_IXOTH if stat.S_ISDIR(status.st_mode) else stat.S_IWOTH
            shift = 6 if status.st_uid == entry.pw_uid else 3 if status.st_gid == entry.pw_gid else 0
            if not status.st_mode & wanted << shift:
                return part
    return None


def _addresses(endpoint: Inet) -> set[str]:
    with contextlib.suppress(OSError):
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
        return {str(address[0]) for *_, address in found}
    return set()


def _is_of_this_host(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((address, 0))
        return True
    return False
