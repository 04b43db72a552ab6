"""Sockets that the daemon listens on: bound here, or passed by systemd."""

import asyncio
import contextlib
import errno
import logging
import math
import os
import resource
import socket
import stat
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Final

from senderscore_policy.config.endpoints import Endpoint, Inet, Unix
from senderscore_policy.errors import BackendError

BACKLOG: Final = 1024
"""Connections that the kernel queues while the daemon is busy; above it clients wait a second, or are refused."""
ACCEPT_AT_ONCE: Final = 8
"""Connections that asyncio accepts before the daemon handles them and closes idle ones to make room."""
POLICY_MODE: Final = 0o666
"""Any local process may connect, as to a TCP socket on loopback; the permissions of the directory limit that."""
CONTROL_MODE: Final = 0o660
RESERVED_DESCRIPTORS: Final = 64
"""Files that are not policy connections: memcached, DNS, the log, the state, the status listener."""
CONNECTION: Final = "connection"
"""Name of the policy connections that systemd keeps from one process of the daemon to the next."""
KINDS: Final = frozenset({"policy", "status", "metrics", "control", CONNECTION})
NOTIFY_TIME: Final = 5.0
"""Seconds that a message to systemd waits at most while the queue of its socket is full."""
DESCRIPTORS_AT_ONCE: Final = 253
"""Descriptors in one message (SCM_MAX_FD of unix(7))."""

log = logging.getLogger(__name__)


def bind(endpoint: Endpoint, mode: int = POLICY_MODE) -> socket.socket:
    """Open a listening socket, a unix socket's file with this mode; BackendError has the reason and the remedy."""
    try:
        if isinstance(endpoint, Unix):
            return _bind_unix(Path(endpoint.path), mode)
        family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
        # create_server sets SO_REUSEADDR, and IPV6_V6ONLY for IPv6.
        return socket.create_server((endpoint.host, endpoint.port), family=family, backlog=BACKLOG)
    except OSError as error:
        in_use = error.errno == errno.EADDRINUSE
        reason = os.strerror(error.errno) if error.errno else error  # a path too long for a socket has no errno
        remedy = " (another process listens there: stop it or change [listen])" if in_use else ""
        raise BackendError(f"cannot listen on {endpoint}: {reason}{remedy}") from error


def _bind_unix(path: Path, mode: int) -> socket.socket:
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The umask gives the file its mode when it is made: a chmod afterwards would leave a moment for others.
    umask = os.umask(0o777 & ~mode)
    try:
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(umask)
    return listener


def _remove_stale(path: Path) -> None:
    """Remove a socket that an ended process left behind; if a process still accepts on it, bind() fails.

    BackendError: something else has this name. OSError: the socket cannot be reached or removed.
    """
    try:
        mode = path.lstat().st_mode
        if not stat.S_ISSOCK(mode):
            reason = f"{kind_of(mode)} has this name: remove it or change [listen]"
            raise BackendError(f"cannot listen on unix:{path}: {reason}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            # With a full backlog a blocking connect() would wait for the process to accept.
            probe.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                probe.connect(str(path))
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
    except FileNotFoundError:
        return


def kind_of(mode: int) -> str:
    """Name a file's kind, with its article, by the `st_mode` of its inode(7)."""
    kinds = {"-": "a file", "d": "a directory", "l": "a symbolic link", "p": "a FIFO", "s": "a socket"}
    return kinds.get(stat.filemode(mode)[0], "a device")


def address_of(listener: socket.socket) -> Endpoint:
    """Return where a socket listens, in the configuration's terms."""
    name = listener.getsockname()
    return Unix(name) if listener.family == socket.AF_UNIX else Inet(name[0], name[1])


def listeners(
    passed: list[tuple[str, socket.socket]], kind: str, wanted: Iterable[Endpoint], mode: int = POLICY_MODE
) -> list[socket.socket]:
    """Return the sockets of one kind: those that systemd passed, and the other wanted ones, bound here.

    A host name means all its addresses: on most hosts `localhost` is 127.0.0.1 and ::1. A passed socket whose name is
    not among `KINDS` is a policy socket. BackendError: a wanted one cannot be bound.
    """
    result = [each for name, each in passed if name == kind or (kind == "policy" and name not in KINDS)]
    there = {address_of(listener) for listener in result}
    alternatives = [_addresses(endpoint) for endpoint in wanted]
    for address in there.difference(*alternatives):
        log.info("serving %s on %s, passed by systemd, though [listen] does not name it", kind, address)
    for endpoints in alternatives:
        result += _bind_all([endpoint for endpoint in endpoints if endpoint not in there], mode)
    return result


def _addresses(endpoint: Endpoint) -> list[Endpoint]:
    """Return the addresses of a host name, or the endpoint itself; BackendError: the name has no address."""
    if isinstance(endpoint, Unix):
        return [endpoint]
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise BackendError(f"cannot listen on {endpoint}: {error.strerror or error}") from error
    return list(dict.fromkeys(Inet(str(address[0]), int(address[1])) for *_, address in found))


def _bind_all(endpoints: Sequence[Endpoint], mode: int) -> list[socket.socket]:
    """Bind the addresses of one host; without IPv6 in the kernel, or on its interfaces, those of IPv4 suffice."""
    bound: list[socket.socket] = []
    for number, endpoint in enumerate(endpoints, 1):
        try:
            bound.append(bind(endpoint, mode))
        except BackendError as error:
            missing = getattr(error.__cause__, "errno", None) in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
            if not missing or (number == len(endpoints) and not bound):
                for listener in bound:
                    listener.close()
                raise
    return bound


def refusals_logged() -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """Make an exception handler for an event loop: one line a minute while no connection can be accepted.

    asyncio tries again every second, and its own handler would write a traceback each time.
    """
    logged_at = -math.inf

    def handler(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal logged_at
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in {errno.EMFILE, errno.ENFILE}:
            loop.default_exception_handler(context)
        elif loop.time() - logged_at > 60:
            logged_at = loop.time()
            log.error("cannot accept connections: %s; raise LimitNOFILE=", error.strerror)

    return handler


def connections_possible(wanted: int) -> int:
    """Raise the limit of open files to the hard limit, and return how many connections fit, at most `wanted`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError) as error:
            log.warning("the limit of open files stays at %d: %s", soft, error)
    possible = wanted if soft == resource.RLIM_INFINITY else min(wanted, soft - RESERVED_DESCRIPTORS)
    if possible < wanted:
        message = "max_connections lowered from %d to %d: the limit of open files is %d; raise LimitNOFILE="
        log.warning(message, wanted, possible, soft)
    return possible


def notify(*assignments: str, descriptors: Sequence[int] = ()) -> bool:
    """Send lines such as "READY=1" to the service manager (sd_notify(3)); False: it is missing or its queue is full."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    # A missing or busy manager does not stop the daemon.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(NOTIFY_TIME)
        manager.connect(address)
        socket.send_fds(manager, ["\n".join(assignments).encode()], descriptors)
        return True
    return False


def store(descriptors: Sequence[int]) -> None:
    """Let systemd keep these connections for the next process, as many as FileDescriptorStoreMax= of the unit allows.

    systemd reads what a process sent before it notices its end, so there is nothing to wait for.
    """
    for start in range(0, len(descriptors), DESCRIPTORS_AT_ONCE):
        batch = descriptors[start : start + DESCRIPTORS_AT_ONCE]
        if not notify("FDSTORE=1", f"FDNAME={CONNECTION}", descriptors=batch):
            return


def listen_sockets() -> list[tuple[str, socket.socket]]:
    """Return the sockets that systemd passed to this process, with their names (sd_listen_fds(3)).

    They are the listeners of a socket unit, with its FileDescriptorName=, and the policy connections of the process
    before. systemd drops its copies of those: a connection that the daemon closes would else stay open.
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    sockets = []
    for descriptor, name in zip(range(3, 3 + int(count)), chain(names, repeat("")), strict=False):
        os.set_inheritable(descriptor, False)
        sockets.append((name, socket.socket(fileno=descriptor)))
    if CONNECTION in names:
        notify("FDSTOREREMOVE=1", f"FDNAME={CONNECTION}")
    return sockets


def watchdog_interval() -> float | None:
    """Return the seconds between two signs of life, half of what the manager allows; None: it does not watch."""
    pid, microseconds = os.environ.get("WATCHDOG_PID", ""), os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or pid not in ("", str(os.getpid())):
        return None
    return int(microseconds) / 2_000_000


async def feed_watchdog(interval: float) -> None:
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval)
