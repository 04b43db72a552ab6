"""Asks a running daemon as Postfix does (SMTPD_POLICY_README): one request, one action."""

import contextlib
import secrets
import socket
from collections.abc import Mapping
from typing import Final

from senderscore_policy.config.model import Endpoint, Unix
from senderscore_policy.daemon.recent import TRIAL
from senderscore_policy.errors import BackendError

LARGEST_REPLY: Final = 64 * 1024


def request(attributes: Mapping[str, str]) -> bytes:
    """A policy request on the wire.

    Args:
        attributes: go before the defaults: a message of one recipient at end of data, each a new one.
    """
    defaults = {
        "request": "smtpd_access_policy",
        "protocol_state": "END-OF-MESSAGE",
        "protocol_name": "ESMTP",
        "helo_name": "mail.example.org",
        "queue_id": "ASK" + secrets.token_hex(4).upper(),
        "instance": TRIAL + secrets.token_hex(8),
        "client_address": "192.0.2.1",
        "client_name": "unknown",
        "reverse_client_name": "unknown",
        "sender": "sender@example.org",
        "recipient": "recipient@example.org",
        "recipient_count": "1",
        "size": "1000",
    }
    lines = [f"{name}={value}\n" for name, value in (defaults | dict(attributes)).items()]
    return "".join([*lines, "\n"]).encode("utf-8", "surrogateescape")


def ask(endpoint: Endpoint, attributes: Mapping[str, str], timeout: float) -> str:
    """Send one request and return the daemon's action, such as "DUNNO".

    Args:
        endpoint: where the daemon listens.
        attributes: see `request`.
        timeout: seconds that each step may take.

    Raises:
        PermissionError: the unix socket denies access.
        BackendError: nobody listens there, or there is no reply.
    """
    where = str(endpoint) if isinstance(endpoint, Unix) else f"inet:{endpoint}"
    try:
        with _connect(endpoint, timeout) as connection:
            return _action(_exchange(connection, request(attributes)), where)
    except PermissionError as error:
        raise PermissionError(f"{where}: permission denied; run this as root or as a member of its group") from error
    except TimeoutError as error:
        raise BackendError(f"{where}: no answer within {timeout:g} s") from error
    except OSError as error:
        raise BackendError(f"{where}: {error.strerror or error}; is the daemon running?") from error


def _connect(endpoint: Endpoint, timeout: float) -> socket.socket:
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


def _exchange(connection: socket.socket, message: bytes) -> bytes:
    """Send the request; the reply, up to its empty line or as far as it came."""
    received = b""
    # A daemon that hangs up without a reply may do so with a reset.
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        connection.sendall(message)
        while b"\n\n" not in received and len(received) < LARGEST_REPLY and (data := connection.recv(4096)):
            received += data
    return received


def _action(reply: bytes, where: str) -> str:
    first, end, _ = reply.partition(b"\n\n")
    name, equals, action = first.decode("utf-8", "backslashreplace").partition("=")
    if not reply:
        raise BackendError(f"{where}: the connection was closed without a reply; the daemon's log says why")
    if not end or not equals or name != "action" or not action.isprintable():
        raise BackendError(f"{where}: answered what is no policy reply: {reply[:60]!r}")
    return action
