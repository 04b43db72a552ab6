"""The part of Postfix in the policy delegation protocol (Postfix SMTPD_POLICY_README)."""

import itertools
import os
import socket
from pathlib import Path
from typing import Self

Endpoint = Path | int
"""A unix socket by its path, or a TCP port of 127.0.0.1."""

_MESSAGES = itertools.count()


def request(client_address: str = "192.0.2.75", **attributes: str | int) -> bytes:
    """A request on the wire, as Postfix sends it at end of data.

    Each is a message of its own (a fresh `instance`) unless an instance is given; an attribute of
    None-like emptiness is sent empty.
    """
    given = {
        "request": "smtpd_access_policy",
        "protocol_state": "END-OF-MESSAGE",
        "protocol_name": "ESMTP",
        "client_address": client_address,
        "client_name": "mx.example.net",
        "sender": "sender@example.net",
        "recipient": "user@example.org",
        "recipient_count": 1,
        "queue_id": "3FkQ2r0Xyz",
        "instance": f"{os.getpid():x}.{next(_MESSAGES):x}",
        "sasl_username": "",
    }
    return "".join(f"{name}={value}\n" for name, value in (given | attributes).items()).encode() + b"\n"


class PolicyClient:
    """One connection to a policy server.

    Args:
        endpoint: where it listens.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        if isinstance(endpoint, Path):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(str(endpoint))
        else:
            self.socket = socket.create_connection(("127.0.0.1", endpoint))
        self.socket.settimeout(30)
        self._replies = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._replies.close()
        self.socket.close()

    def ask(self, client_address: str = "192.0.2.75", **attributes: str | int) -> str:
        """Send one request and return its action."""
        self.socket.sendall(request(client_address, **attributes))
        return self.action()

    def action(self) -> str:
        """The next reply's action.

        Raises:
            EOFError: the server has closed the connection.
        """
        line = self._replies.readline().decode()
        if not line:
            raise EOFError
        assert line.startswith("action="), line
        assert self._replies.readline() == b"\n", "a reply ends with an empty line"
        return line.removeprefix("action=").removesuffix("\n")
