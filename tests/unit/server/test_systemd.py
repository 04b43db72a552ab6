"""Messages between systemd and the service."""

import os
import socket
import time
from pathlib import Path

import pytest

from senderscore_policy.server import sockets


def test_notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Assignments go to $NOTIFY_SOCKET in one datagram; a manager that is gone does not raise."""
    path = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        assert sockets.notify("READY=1", "STATUS=x")
        assert manager.recv(100) == b"READY=1\nSTATUS=x"
    assert not sockets.notify("STOPPING=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert not sockets.notify("READY=1")


def test_connections_are_stored_in_messages_that_the_kernel_accepts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message carries at most 253 descriptors; all have the name that the next process knows."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        sockets.store([manager.fileno()] * 300)
        for count in (253, 47):
            message, descriptors, _, _ = socket.recv_fds(manager, 100, 300)
            assert (message, len(descriptors)) == (b"FDSTORE=1\nFDNAME=connection", count)
            for descriptor in descriptors:
                os.close(descriptor)


def test_a_manager_that_reads_nothing_does_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full queue costs the stop one waiting time, however many connections there are."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setattr(sockets, "NOTIFY_TIME", 0.001)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        while sockets.notify("WATCHDOG=1"):
            pass
        monkeypatch.setattr(sockets, "NOTIFY_TIME", 0.1)
        began = time.monotonic()
        sockets.store([manager.fileno()] * 253 * 100)
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("pid", "microseconds", "interval"),
    [(None, "3000000", 1.5), ("own", "3000000", 1.5), ("1", "3000000", None), (None, "", None), (None, "x", None)],
)
def test_watchdog(pid: str | None, microseconds: str, interval: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the manager's time, if the variables are meant for this process."""
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    assert sockets.watchdog_interval() == interval


def test_sockets_of_another_process_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """LISTEN_FDS counts only with this process in LISTEN_PID, and does not stay in the environment."""
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert sockets.listen_sockets() == []
    assert "LISTEN_FDS" not in os.environ
