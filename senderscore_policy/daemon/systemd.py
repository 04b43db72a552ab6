"""What systemd and a service tell each other: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3)."""

import asyncio
import os
import socket
from typing import Final

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
