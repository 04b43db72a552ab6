"""Sockets that the daemon listens on: bound here, or passed by systemd."""

import asyncio
import errno
import logging
import math
import os
import resource
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from senderscore_policy.config.endpoints import Endpoint, Inet, Unix
from senderscore_policy.errors import BackendError

BACKLOG: Final = 1024
"""Connections that wait while the daemon is busy; above it the kernel makes them wait a second, or refuses them."""
ACCEPT_AT_ONCE: Final = 8
"""Connections that asyncio takes before it lets them in and closes idle ones in their place."""
POLICY_MODE: Final = 0o666
"""Of a policy socket: any local process may ask, as with a TCP socket on loopback; the folder limits who gets there."""
CONTROL_MODE: Final = 0o660
RESERVED_DESCRIPTORS: Final = 64
"""Files beside policy connections: memcached, DNS, the log, the state, the status listener."""

log = logging.getLogger(__name__)


def bind(endpoint: Endpoint, mode: int = POLICY_MODE) -> socket.socket:
    """A listening socket.

    Args:
        endpoint: where; a host name is resolved, its first address taken.
        mode: of a unix socket's file.

    Raises:
        BackendError: it cannot be had, with the reason and the remedy.
    """
    try:
        return _bind_unix(endpoint.path, mode) if isinstance(endpoint, Unix) else _bind_inet(endpoint)
    except OSError as error:
        remedy = "another process listens there: stop it or change [listen]" if error.errno == errno.EADDRINUSE else ""
        # A path that is too long for a socket has no strerror.
        reason = error.strerror or error
        raise BackendError(f"cannot listen on {endpoint}: {reason}{remedy and f' ({remedy})'}") from error


def _bind_inet(endpoint: Inet) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        return _listening(listener)
    except OSError:
        listener.close()
        raise


def _bind_unix(path: str, mode: int) -> socket.socket:
    _remove_stale(Path(path))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The mode is right from the first moment: nobody else may connect before a chmod.
        umask = os.umask(0o777 & ~mode)
        try:
            listener.bind(path)
        finally:
            os.umask(umask)
        return _listening(listener)
    except OSError:
        listener.close()
        raise


def _listening(listener: socket.socket) -> socket.socket:
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def _remove_stale(path: Path) -> None:
    """Remove a socket that a process left behind; one that still answers is left alone, and bind() fails."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.connect(str(path))
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
    except FileNotFoundError:
        return


def address_of(listener: socket.socket) -> Endpoint:
    """Where a listening socket is, in the configuration's terms."""
    name = listener.getsockname()
    return Unix(name) if listener.family == socket.AF_UNIX else Inet(name[0], name[1])


def take(
    passed: list[tuple[str, socket.socket]], kind: str, wanted: tuple[Endpoint, ...], mode: int = POLICY_MODE
) -> list[socket.socket]:
    """The sockets of one kind: those passed by systemd, and the wanted ones that were not passed, bound.

    Args:
        passed: sockets with their names; those of this kind are removed from the list. A name that
            is no kind ("policy", "status", "control") is a policy socket.
        kind: "policy", "status" or "control".
        wanted: from the configuration.
        mode: of a unix socket that is bound here.

    Raises:
        BackendError: a socket cannot be bound.
    """
    kinds = {"policy", "status", "control"}
    mine = [item for item in passed if item[0] == kind or (kind == "policy" and item[0] not in kinds)]
    for item in mine:
        passed.remove(item)
    listeners = [listener for _, listener in mine]
    there = {address_of(listener) for listener in listeners}
    for address in there - set(wanted):
        log.info("serving %s on %s, passed by systemd, though [listen] does not name it", kind, address)
    return listeners + [bind(endpoint, mode) for endpoint in wanted if endpoint not in there]


def refusals_logged() -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """An exception handler for an event loop: one line a minute while no file can be opened for newcomers.

    asyncio has them wait and tries again every second; its own handler would write pages of tracebacks meanwhile.
    """
    logged_at = -math.inf

    def handler(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal logged_at
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in {errno.EMFILE, errno.ENFILE}:
            loop.default_exception_handler(context)
        elif loop.time() - logged_at > 60:
            logged_at = loop.time()
            log.error("no connection can be accepted: %s; raise LimitNOFILE=", error.strerror)

    return handler


def connections_possible(wanted: int) -> int:
    """Raise the limit of open files to the hard limit; how many connections then fit, at most `wanted`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError) as error:
            log.warning("the limit of open files stays at %d: %s", soft, error)
    possible = wanted if soft == resource.RLIM_INFINITY else min(wanted, soft - RESERVED_DESCRIPTORS)
    if possible < wanted:
        log.warning(
            "max_connections lowered from %d to %d: the limit of open files is %d; raise LimitNOFILE=",
            wanted, possible, soft,
        )  # fmt: skip
    return possible


FIRST_FD: Final = 3


def notify(*assignments: str) -> None:
    """Send lines such as "READY=1" to the service manager; without one, do nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        try:
            manager.connect(address)
            manager.sendall("\n".join(assignments).encode())
        except OSError:
            # A manager that is gone must not take the service along.
            return


def listen_sockets() -> list[tuple[str, socket.socket]]:
    """The sockets that systemd has opened for this process, each with its FileDescriptorName=.

    The variables are removed, so that a child does not take them for its own.
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    sockets = []
    for index in range(int(count)):
        descriptor = FIRST_FD + index
        os.set_inheritable(descriptor, False)
        passed = socket.socket(fileno=descriptor)
        passed.setblocking(False)
        sockets.append((names[index] if index < len(names) else "", passed))
    return sockets


def watchdog_interval() -> float | None:
    """Seconds between two signs of life: half of what the manager allows; None: it does not watch."""
    pid, microseconds = os.environ.get("WATCHDOG_PID", ""), os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or pid not in ("", str(os.getpid())):
        return None
    return int(microseconds) / 2_000_000


async def feed_watchdog(interval: float) -> None:
    """Show the manager that the event loop turns, for ever."""
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval)
