"""Messages between systemd and the service."""

import os
import socket
from pathlib import Path

import pytest

from senderscore_policy.server import sockets


def test_notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Assignments go to $NOTIFY_SOCKET in one datagram; a manager that is gone does not raise."""
    path = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        sockets.notify("READY=1", "STATUS=x")
        assert manager.recv(100) == b"READY=1\nSTATUS=x"
    sockets.notify("STOPPING=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    sockets.notify("READY=1")


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
