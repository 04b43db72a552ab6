#!/usr/bin/env python3
"""Send messages to a Postfix as other hosts would, and report every reply at the end of data.

usage: smtp_client.py HOST CLIENT=MESSAGES... [--connections N] [--pause SECONDS]

CLIENT is the address that Postfix is told by XCLIENT (it must allow this host to). The clients are played one after the
other, each over N connections at once, each with a pause between its messages. Prints a JSON list, for each of them
{"client": CLIENT, "accepted": messages, "refused": {REPLY: messages}}.
"""

import argparse
import json
import socket
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

TIMEOUT = 60.0
"""Seconds that one reply may take; Postfix waits up to five for a daemon that hangs."""
ACCEPTED = "250 "
BODY = b"From: <sender@example.net>\r\nTo: <user@example.org>\r\nSubject: test\r\n\r\nHello.\r\n.\r\n"
ENVELOPE = b"MAIL FROM:<sender@example.net>\r\nRCPT TO:<user@example.org>\r\nDATA\r\n"


class UnexpectedReplyError(Exception):
    """Postfix said something else where only the end of data may be refused."""


class Session:
    """One SMTP connection, in the name of another client."""

    def __init__(self, host: str, client: str) -> None:
        self._socket = socket.create_connection((host, 25), timeout=TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._replies = self._socket.makefile("rb")
        address = f"IPV6:{client}" if ":" in client else client
        self._expect(b"2")
        for line in ("EHLO lab.example.net", f"XCLIENT ADDR={address} NAME=mx.example.net", "EHLO mx.example.net"):
            self._socket.sendall(line.encode() + b"\r\n")
            self._expect(b"2")
        self._socket.sendall(ENVELOPE)

    def message(self) -> str:
        """Send a message, and the envelope of the next one behind it. Returns the reply at its end of data."""
        for code in (b"250", b"250", b"354"):
            self._expect(code)
        self._socket.sendall(BODY + ENVELOPE)
        return self._reply().decode(errors="replace")

    def close(self) -> None:
        """End the connection without a word."""
        self._replies.close()
        self._socket.close()

    def _expect(self, code: bytes) -> None:
        reply = self._reply()
        if not reply.startswith(code):
            raise UnexpectedReplyError(f"expected {code.decode()}, got: {reply.decode(errors='replace')}")

    def _reply(self) -> bytes:
        while (line := self._replies.readline())[3:4] == b"-":
            pass
        if not line:
            raise UnexpectedReplyError("Postfix closed the connection without a reply")
        return line.rstrip()


def play(host: str, client: str, messages: int, connections: int, pause: float) -> Counter[str]:
    """Send the messages of one client. Returns how often each reply came."""
    tickets = iter(range(messages))
    lock = threading.Lock()
    replies: Counter[str] = Counter()

    def sender() -> None:
        session: Session | None = None
        while True:
            with lock:
                if next(tickets, None) is None:
                    break
            session = session or Session(host, client)
            reply = session.message()
            with lock:
                replies[ACCEPTED if reply.startswith(ACCEPTED) else reply] += 1
            time.sleep(pause)
            if reply.startswith("421"):
                session.close()
                session = None
        if session:
            session.close()

    with ThreadPoolExecutor(connections) as pool:
        for done in [pool.submit(sender) for _ in range(connections)]:
            done.result()
    return replies


def main() -> None:
    """Play the clients of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host")
    parser.add_argument("clients", nargs="+", metavar="CLIENT=MESSAGES")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0)
    arguments = parser.parse_args()
    outcome = []
    for item in arguments.clients:
        client, _, messages = item.partition("=")
        try:
            replies = play(arguments.host, client, int(messages), arguments.connections, arguments.pause)
        except (OSError, UnexpectedReplyError) as error:
            sys.exit(f"{client}: {error}")
        outcome.append({"client": client, "accepted": replies.pop(ACCEPTED, 0), "refused": replies})
    sys.stdout.write(json.dumps(outcome) + "\n")


if __name__ == "__main__":
    main()
