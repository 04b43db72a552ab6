"""The command `ask`: one policy request, as Postfix sends it (SMTPD_POLICY_README), and its action."""

import argparse
import contextlib
import difflib
import secrets
import socket
import sys
from collections.abc import Mapping
from typing import Final

from senderscore_policy.commands.arguments import add_json, address, configuration, seconds
from senderscore_policy.commands.control import connect
from senderscore_policy.commands.output import say, say_json
from senderscore_policy.config.endpoints import Endpoint, endpoint, notation
from senderscore_policy.errors import BackendError, InputError
from senderscore_policy.monitoring.decisions import TRIAL

LARGEST_REPLY: Final = 64 * 1024
DEFAULT_CLIENT: Final = "192.0.2.1"
ATTRIBUTES: Final = frozenset(
    """request protocol_state protocol_name helo_name queue_id sender recipient recipient_count client_address
    client_name reverse_client_name instance sasl_method sasl_username sasl_sender size ccert_subject ccert_issuer
    ccert_fingerprint ccert_pubkey_fingerprint encryption_protocol encryption_cipher encryption_keysize etrn_domain
    stress client_port policy_context server_address server_port compatibility_level mail_version""".split()  # noqa: SIM905 - words of a text fit on four lines
)
"""All that SMTPD_POLICY_README describes, up to Postfix 3.9."""


def request(attributes: Mapping[str, str]) -> bytes:
    """A policy request on the wire; by default it is about a new message with one recipient, at end of data."""
    defaults = {
        "request": "smtpd_access_policy",
        "protocol_state": "END-OF-MESSAGE",
        "protocol_name": "ESMTP",
        "helo_name": "mail.example.org",
        "queue_id": "ASK" + secrets.token_hex(4).upper(),
        "instance": TRIAL + secrets.token_hex(8),
        "client_address": DEFAULT_CLIENT,
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
    """Send one request and return the daemon's action, such as "DUNNO"; each step may take `timeout` seconds.

    Raises:
        PermissionError: the unix socket denies access.
        BackendError: no daemon listens there, or it does not reply.
    """
    where = notation(endpoint)
    try:
        with connect(endpoint, timeout) as connection:
            reply = _exchange(connection, request(attributes))
    except PermissionError as error:
        raise PermissionError(f"{where}: permission denied; run this as root or as a member of its group") from error
    except TimeoutError as error:
        raise BackendError(f"{where}: no answer within {timeout:g} s") from error
    except OSError as error:
        raise BackendError(f"{where}: {error.strerror or error}; is the daemon running?") from error
    if not reply:
        raise BackendError(f"{where}: the connection was closed without a reply; the daemon's log says why")
    first, end, _ = reply.partition(b"\n\n")
    name, equals, action = first.decode("utf-8", "backslashreplace").partition("=")
    if not end or not equals or name != "action" or not action.isprintable():
        raise BackendError(f"{where}: the answer is not a policy reply: {reply[:60]!r}")
    return action


def _exchange(connection: socket.socket, message: bytes) -> bytes:
    """Send the request; return the reply up to its empty line, or as much as arrives."""
    received = b""
    # A daemon that hangs up without a reply may do so with a reset.
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        connection.sendall(message)
        while b"\n\n" not in received and len(received) < LARGEST_REPLY and (data := connection.recv(4096)):
            received += data
    return received


def register(parser: argparse.ArgumentParser) -> None:
    parser.description = """Send one policy request to the running daemon, as Postfix does, and print the action.

The daemon counts it like a message: each call sends a new instance, unless one is given."""
    parser.epilog = """examples:
  senderscore-policy ask 192.0.2.75
  senderscore-policy ask 2001:db8::25 recipient_count=50 sasl_username=joe
  senderscore-policy ask --endpoint unix:/run/senderscore-policy/policy.sock"""
    add_json(parser)
    add = parser.add_argument
    help_ = "the daemon's endpoint in Postfix's notation: inet:HOST:PORT or unix:/PATH (default: the first of policy)"
    add("--endpoint", metavar="E", type=endpoint, help=help_)
    add("--timeout", metavar="S", type=seconds(0.01), default=10.0, help="seconds to wait (default: 10)")
    help_ = "the client's address, and attributes of the request (see Postfix's SMTPD_POLICY_README); the others have "
    add("attributes", metavar="IP|key=value", nargs="*", type=_attribute, help=f"{help_}sensible values")


def _attribute(text: str) -> tuple[str, str]:
    """An attribute; an address alone is the client's."""
    name, equals, value = text.partition("=")
    if set("\n\r\0") & set(text):
        raise ValueError(f"{text!r} is not one line")
    if not equals or name in {"client", "client_address"}:
        return "client_address", address(text) if value or not equals else ""
    if name not in ATTRIBUTES:
        close = difflib.get_close_matches(name, ATTRIBUTES, 1)
        hint = f"did you mean {close[0]}?" if close else "SMTPD_POLICY_README lists them"
        raise ValueError(f"{name!r} is not an attribute of a policy request; {hint}")
    return name, value


def run(args: argparse.Namespace) -> int:
    attributes = dict(args.attributes)
    if len(attributes) < len(args.attributes):
        raise InputError("the same attribute is given twice; see senderscore-policy ask --help")
    where = args.endpoint or configuration(args).listen.policy[0]
    action = ask(where, attributes, args.timeout)
    if "client_address" not in attributes:
        sys.stderr.write(f"senderscore-policy: no address is given, so the client is {DEFAULT_CLIENT}\n")
    if args.json:
        say_json({"action": action})
    else:
        say(f"action={action}")
    return 0
