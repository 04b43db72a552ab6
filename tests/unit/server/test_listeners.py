"""Listening sockets."""

import asyncio
import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from senderscore_policy.config.endpoints import Inet, Unix
from senderscore_policy.errors import BackendError
from senderscore_policy.server.sockets import CONTROL_MODE, POLICY_MODE, address_of, bind, refusals_logged, take


def test_a_stale_unix_socket_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    """A socket file that nobody answers on is taken over; one that somebody does is an error that says so."""
    path = Unix(str(tmp_path / "policy.sock"))
    first = bind(path)
    with pytest.raises(BackendError, match="another process listens there"):
        bind(path)
    first.close()
    second = bind(path, 0o660)
    assert stat.S_IMODE(Path(path.path).stat().st_mode) == 0o660
    second.close()


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_unix_socket_has_its_mode_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    """The policy socket is open to who can reach its folder, the control socket to its group; the umask is put back."""
    before = os.umask(umask)
    try:
        for name, mode in (("policy", POLICY_MODE), ("control", CONTROL_MODE)):
            listener = bind(Unix(str(tmp_path / name)), mode)
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode
            listener.close()
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert (POLICY_MODE, CONTROL_MODE) == (0o666, 0o660)


def test_a_file_that_is_no_socket_stays(tmp_path: Path) -> None:
    """A plain file in the place of the socket is never removed."""
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(BackendError):
        bind(Unix(str(path)))
    assert path.read_text() == "precious"


def test_a_passed_socket_is_not_bound_again() -> None:
    """Of the wanted addresses those that systemd passed are served from its sockets, matched by address."""
    passed = bind(Inet("127.0.0.1", 0))
    address = address_of(passed)
    other = socket.socket(socket.AF_UNIX)
    sockets = [("senderscore-policy.socket", passed), ("control", other)]
    assert take(sockets, "policy", (address,)) == [passed]
    assert sockets == [("control", other)]
    passed.close()
    other.close()


def test_without_a_file_descriptor_the_log_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    """While newcomers cannot be accepted there is one line with the remedy, not a traceback for each attempt."""
    loop = asyncio.new_event_loop()
    handler = refusals_logged()
    for _ in range(3):
        handler(loop, {"message": "socket.accept() out of system resource", "exception": OSError(errno.EMFILE, "Many")})
    handler(loop, {"message": "something else"})
    loop.close()
    assert caplog.messages == ["no connection can be accepted: Many; raise LimitNOFILE=", "something else"]
