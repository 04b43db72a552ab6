"""Fake servers for the tests of the commands."""

import contextlib
import json
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Self, TypeVar

import dns.message
import dns.rrset

Server = TypeVar("Server", bound=socketserver.BaseServer)

Run = Callable[..., tuple[int, str, str]]
"""Runs a command: its arguments to exit status, stdout, stderr."""

STANDING = {
    "client": "192.0.2.75",
    "count": 801,
    "deferred": 1,
    "score": 75,
    "reputation": "scored",
    "tier": "71-80",
    "limit": 800,
    "left": 0,
}
SCORE = {
    "client": "192.0.2.75",
    "score": 75,
    "reputation": "scored",
    "tier": "71-80",
    "limit": 800,
    "source": "cache",
    "age": 330,
    "detail": "",
}


class ControlDaemon(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """A daemon's control socket.

    Attributes:
        answers: the status and JSON object for each "METHOD /path".
        requests: what was asked: method and path, and the body.
    """

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _ControlHandler)
        self.answers: dict[str, tuple[int, Any]] = {}
        self.requests: list[tuple[str, str]] = []


class _ControlHandler(BaseHTTPRequestHandler):
    server: ControlDaemon
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        call = f"{self.command} {self.path}"
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((call, body.decode()))
        status, answer = self.server.answers.get(call, (404, {"error": f"Not Found: {call}"}))
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = _answer  # noqa: N815 - the names are http.server's

    def log_message(self, *_: Any) -> None:
        """Tests have no access log."""


class PolicyServer:
    """Takes one policy request, answers it with some bytes and hangs up; a context manager.

    Args:
        reply: what it answers; None: nothing, it waits until the client hangs up.
        path: a unix socket; None: a TCP port.

    Attributes:
        endpoint: where it listens, in Postfix's notation.
        request: what it was sent.
    """

    def __init__(self, reply: bytes | None, path: Path | None = None) -> None:
        self.request = b""
        self._reply = reply
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.endpoint = f"inet:127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            self._listener.listen()
            self.endpoint = f"unix:{path}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            while b"\n\n" not in self.request:
                self.request += connection.recv(4096)
            if self._reply is None:
                connection.recv(1)
            else:
                connection.sendall(self._reply)


@contextlib.contextmanager
def closed(path: Path) -> Iterator[None]:
    """No user may use the file, directory or socket meanwhile, not even root, which runs tests in containers."""
    root = os.geteuid() == 0
    path.chmod(0)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        path.chmod(0o700)


class Memcached(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A memcached with the commands that counters need (memcached's protocol.txt).

    Attributes:
        items: what is stored.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _MemcachedHandler)
        self.items: dict[bytes, bytes] = {}


class _MemcachedHandler(socketserver.StreamRequestHandler):
    server: Memcached

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(self._answer(*line.split()))

    def _answer(self, command: bytes, *words: bytes) -> bytes:
        items = self.server.items
        answer = b"NOT_FOUND\r\n"
        match command:
            case b"get":
                found = [key for key in words if key in items]
                answer = b"".join(b"VALUE %b 0 %d\r\n%b\r\n" % (key, len(items[key]), items[key]) for key in found)
                answer += b"END\r\n"
            case b"add" | b"set":
                value = self.rfile.read(int(words[3]) + 2)[:-2]
                if command == b"set" or words[0] not in items:
                    items[words[0]] = value
                    answer = b"STORED\r\n"
                else:
                    answer = b"NOT_STORED\r\n"
            case b"incr" if words[0] in items:
                items[words[0]] = b"%d" % (int(items[words[0]]) + int(words[1]))
                answer = items[words[0]] + b"\r\n"
            case b"delete" if items.pop(words[0], None) is not None:
                answer = b"DELETED\r\n"
        return answer


class Nameserver(socketserver.UDPServer):
    """Gives every name the score 42.

    Attributes:
        questions: the names that were asked for.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _NameserverHandler)
        self.questions: list[str] = []


class _NameserverHandler(socketserver.DatagramRequestHandler):
    server: Nameserver

    def handle(self) -> None:
        query = dns.message.from_wire(self.rfile.read())
        name = query.question[0].name
        self.server.questions.append(str(name))
        response = dns.message.make_response(query)
        response.answer.append(dns.rrset.from_text(name, 10, "IN", "A", "127.0.4.42"))
        self.wfile.write(response.to_wire())


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    """The server, in a thread of its own."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    with server:
        thread.start()
        yield server
        server.shutdown()
        thread.join()
