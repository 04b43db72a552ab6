"""The client of a running daemon's control socket: HTTP over a unix socket."""

import contextlib
import grp
import http.client
import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

from senderscore_policy.config.model import Config
from senderscore_policy.config.paths import control_paths
from senderscore_policy.errors import BackendError, InputError

if TYPE_CHECKING:
    from senderscore_policy.commands.offline import DirectAccess

PATIENCE: Final = 40.0
"""Seconds that the daemon may take for an answer; a score takes as long as `deadline`, 30 at most."""


class NoDaemonError(BackendError):
    """No daemon listens on any of the control sockets."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP to a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self._path)


class ControlClient:
    """Asks the daemon of a control socket; a context manager, which closes the connection.

    Raises:
        OSError: no daemon answers there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = _UnixConnection(path)
        try:
            self._connection.connect()
        except OSError:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def client(self, address: str) -> dict[str, Any]:
        """A client's status: the object of `get --json`.

        Raises:
            BackendError: the daemon does not answer, or reports an error (all methods).
            InputError: the daemon does not count the address, or the network, as one client (all methods).
        """
        return self.request("GET", f"/api/clients/{quote(address, safe=':')}")

    def score(self, address: str) -> dict[str, Any]:
        """A client's score: the object of `score --json`."""
        return self.request("GET", f"/api/scores/{quote(address, safe=':')}")

    def increment(self, address: str, by: int) -> dict[str, Any]:
        """Count messages for a client; return its status after that."""
        return self.request("POST", f"/api/clients/{quote(address, safe=':')}/increment", {"by": by})

    def reset(self, address: str) -> dict[str, Any]:
        """Forget a client's messages; return its status after that, with a "note"."""
        return self.request("POST", f"/api/clients/{quote(address, safe=':')}/reset")

    def request(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Call the daemon's API with GET or POST; a body that is not None is sent as JSON."""
        content = None if body is None else json.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            self._connection.request(method, path, content, headers)
            response = self._connection.getresponse()
            answer = json.loads(response.read())
        except TimeoutError as error:
            raise BackendError(f"the daemon on {self._path} did not answer within {PATIENCE:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
            raise BackendError(f"the daemon on {self._path} broke off: {reason}; its log may say why") from error
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise BackendError(f"another program than senderscore-policy listens on {self._path}")
        if response.status == http.client.BAD_REQUEST:
            raise InputError(str(answer.get("error", response.reason)))
        if response.status > http.client.BAD_REQUEST:
            raise BackendError(f"the daemon reports: {answer.get('error', response.reason)}")
        return answer


def find_daemon(paths: Sequence[Path]) -> ControlClient:
    """The daemon of the first of these control sockets that has one.

    Raises:
        PermissionError: a control socket denies access; the others are not tried then.
        NoDaemonError: no daemon listens on any of them.
    """
    for path in paths:
        try:
            return ControlClient(path)
        except PermissionError as error:
            remedy = f"run this as root or as a member of {_group(path)}"
            raise PermissionError(f"{path}: permission denied; {remedy}") from error
        except OSError:
            # Not there, or left behind by a daemon that was killed.
            continue
    raise NoDaemonError(f"no daemon is running: no answer on {' or '.join(map(str, paths))}")


def _group(path: Path) -> str:
    with contextlib.suppress(OSError, KeyError):
        return f"the group {grp.getgrgid(path.stat().st_gid).gr_name}"
    return "the daemon's group"


def open_access(config: Config, *, counters: bool) -> "ControlClient | DirectAccess":
    """Access to clients through the running daemon; without one, through memcached and DNS.

    Raises:
        PermissionError: the daemon's control socket denies access.
        NoDaemonError: no daemon is running, the command needs counters, and only the daemon has them (memory store).
    """
    try:
        return find_daemon(control_paths(config))
    except NoDaemonError:
        if counters and config.counters.store == "memory":
            raise
    # Only here: DNS and memcached libraries take longer to import than a command with a daemon to run.
    from senderscore_policy.commands.offline import DirectAccess  # noqa: PLC0415

    return DirectAccess(config)
