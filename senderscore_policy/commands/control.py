"""The client of a running daemon's control socket: HTTP over a unix socket."""

import contextlib
import grp
import http.client
import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from senderscore_policy.config.endpoints import Endpoint, Unix
from senderscore_policy.config.model import Config
from senderscore_policy.config.paths import control_paths
from senderscore_policy.errors import BackendError, InputError

if TYPE_CHECKING:
    from senderscore_policy.commands.offline import DirectAccess

PATIENCE: Final = 40.0
"""Seconds that the daemon may take for an answer; a score takes as long as `deadline`, 30 at most."""


class NoDaemonError(BackendError):
    """No daemon listens on any of the control sockets."""


def connect(endpoint: Endpoint, timeout: float) -> socket.socket:
    if not isinstance(endpoint, Unix):
        return socket.create_connection((endpoint.host, endpoint.port), timeout)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout)
    try:
        connection.connect(endpoint.path)
    except OSError:
        connection.close()
        raise
    return connection


class ControlClient(http.client.HTTPConnection, contextlib.AbstractContextManager["ControlClient"]):
    """Asks the daemon of a control socket; OSError: no daemon answers there.

    The methods `client` to `call` raise BackendError if the daemon does not answer or reports an error, and InputError
    if it does not count the address, or the network, as one client.
    """

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = str(path)
        self.connect()

    def connect(self) -> None:
        self.sock = connect(Unix(self._path), PATIENCE)

    def __exit__(self, *_: object) -> None:
        self.close()

    def client(self, address: str) -> dict[str, Any]:
        """A client's status: the object of `get --json`."""
        return self.call("GET", f"/api/clients/{quote(address, safe=':')}")

    def score(self, address: str) -> dict[str, Any]:
        """A client's score: the object of `score --json`."""
        return self.call("GET", f"/api/scores/{quote(address, safe=':')}")

    def increment(self, address: str, by: int) -> dict[str, Any]:
        """Count messages for a client; return its status after that."""
        return self.call("POST", f"/api/clients/{quote(address, safe=':')}/increment", json.dumps({"by": by}))

    def reset(self, address: str) -> list[dict[str, Any]]:
        """Forget the messages of a client, or of all in a network; return their status after that, with a "note"."""
        answer = self.call("POST", f"/api/clients/{quote(address, safe=':')}/reset")
        return list(answer.get("clients", [answer]))

    def call(self, method: str, path: str, body: str | None = None) -> dict[str, Any]:
        """Call the daemon's API with GET or POST."""
        try:
            self.request(method, path, body)
            response = self.getresponse()
            answer = json.loads(response.read())
        except TimeoutError as error:
            raise BackendError(f"the daemon on {self._path} did not answer within {PATIENCE:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
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


def find_daemon(config: Config) -> ControlClient:
    """The daemon of the first control socket that has one.

    Raises:
        PermissionError: a control socket denies access; the others are not tried then.
        NoDaemonError: no daemon listens on any of them.
    """
    paths = control_paths(config)
    for path in paths:
        try:
            return ControlClient(path)
        except PermissionError as error:
            group = "the daemon's group"
            with contextlib.suppress(OSError, KeyError):
                group = f"the group {grp.getgrgid(path.stat().st_gid).gr_name}"
            remedy = f"run this as root or as a member of {group}"
            raise PermissionError(f"{path}: permission denied; {remedy}") from error
        except OSError:
            # Not there, or left behind by a daemon that was killed.
            continue
    raise NoDaemonError(f"no daemon is running: no answer on {' or '.join(map(str, paths))}")


def open_access(config: Config, *, counters: bool) -> "ControlClient | DirectAccess":
    """Access to clients through the running daemon; without one, through memcached and DNS.

    Raises:
        PermissionError: the daemon's control socket denies access.
        NoDaemonError: no daemon is running, the command needs counters, and only the daemon has them (memory store).
    """
    try:
        return find_daemon(config)
    except NoDaemonError:
        if counters and config.counters.store == "memory":
            raise
    # Only here: DNS and memcached libraries take longer to import than a command with a daemon to run.
    from senderscore_policy.commands.offline import DirectAccess  # noqa: PLC0415

    return DirectAccess(config)
