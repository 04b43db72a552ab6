"""Listening sockets."""

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import free_port

from senderscore_policy.config.endpoints import Endpoint, Inet, Unix
from senderscore_policy.errors import BackendError
from senderscore_policy.server.sockets import CONTROL_MODE, POLICY_MODE, address_of, bind, listeners, refusals_logged


def test_a_stale_unix_socket_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    """A socket file without a listener is replaced; one with a listener is an error that says so."""
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
    """All processes may use the policy socket, the group also the control socket; the umask stays."""
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


MAKERS: dict[str, Callable[[Path], object]] = {
    "a file": Path.touch,
    "a directory": Path.mkdir,
    "a FIFO": os.mkfifo,
    "a symbolic link": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.parametrize(("kind", "make"), MAKERS.items(), ids=list(MAKERS))
def test_the_error_names_what_has_the_name_of_a_socket(
    tmp_path: Path, kind: str, make: Callable[[Path], object]
) -> None:
    """Only a socket that an ended process left behind is removed; anything else stays, and the error names it."""
    path = tmp_path / "policy.sock"
    make(path)
    with pytest.raises(BackendError, match=f"{kind} has this name"):
        bind(Unix(str(path)))
    assert os.path.lexists(path)


def addresses_of(opened: list[socket.socket]) -> set[Endpoint]:
    """Close the sockets and return where they listened."""
    found = {address_of(listener) for listener in opened}
    for listener in opened:
        listener.close()
    return found


def resolve_to(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Let every host name have these addresses."""
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda _name, port, **_: [(0, 0, 0, "", (host, port, 0, 0)) for host in hosts]
    )


def test_a_host_name_stands_for_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon listens on each address of the name, also where one of them does not exist on this host."""
    port = free_port()
    resolve_to(monkeypatch, "2001:db8::1", "127.0.0.1", "127.0.0.1", "127.0.0.2")
    found = addresses_of(listeners([], "policy", [Inet("localhost", port)]))
    assert found == {Inet("127.0.0.1", port), Inet("127.0.0.2", port)}


@pytest.mark.parametrize("hosts", [["2001:db8::1"], ["127.0.0.1", "127.0.0.2"]])
def test_a_host_name_without_a_usable_address_is_an_error(monkeypatch: pytest.MonkeyPatch, hosts: list[str]) -> None:
    """An address that another process uses is an error even if the name has another one."""
    with socket.create_server(("127.0.0.2", 0)) as other:
        resolve_to(monkeypatch, *hosts)
        with pytest.raises(BackendError, match="cannot listen on"):
            listeners([], "policy", [Inet("localhost", other.getsockname()[1])])


def test_a_host_name_that_does_not_resolve_is_an_error() -> None:
    """The error names the endpoint and the reason."""
    with pytest.raises(BackendError, match=r"cannot listen on mx\.invalid:10045"):
        listeners([], "policy", [Inet("mx.invalid", 10045)])


def test_a_passed_socket_is_not_bound_again() -> None:
    """A wanted address that systemd passed is served from the passed socket."""
    passed = bind(Inet("127.0.0.1", 0))
    address = address_of(passed)
    other = socket.socket(socket.AF_UNIX)
    sockets = [("senderscore-policy.socket", passed), ("control", other)]
    assert listeners(sockets, "policy", (address,)) == [passed]
    assert listeners(sockets, "control", ()) == [other]
    passed.close()
    other.close()


def test_without_a_file_descriptor_the_log_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    """While connections cannot be accepted, the log has one line with the remedy, not a traceback for each try."""
    loop = asyncio.new_event_loop()
    handler = refusals_logged()
    for _ in range(3):
        handler(loop, {"message": "socket.accept() out of system resource", "exception": OSError(errno.EMFILE, "Many")})
    handler(loop, {"message": "something else"})
    loop.close()
    assert caplog.messages == ["cannot accept connections: Many; raise LimitNOFILE=", "something else"]
