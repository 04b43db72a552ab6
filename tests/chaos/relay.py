"""A relay in front of a real memcached that spoils its answers."""

import contextlib
import itertools
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Self

Spoiler = Callable[[bytes, socket.socket], None]
"""Passes an answer of memcached on to the daemon, in its own way. A ConnectionError closes the connection."""


def honest(answer: bytes, daemon: socket.socket) -> None:
    """Pass it on unchanged."""
    daemon.sendall(answer)


def late(seconds: float) -> Spoiler:
    """Pass it on after this many seconds."""

    def spoiler(answer: bytes, daemon: socket.socket) -> None:
        time.sleep(seconds)
        daemon.sendall(answer)

    return spoiler


def half(answer: bytes, daemon: socket.socket) -> None:
    """Pass the first half on, then close."""
    daemon.sendall(answer[: len(answer) // 2])
    raise ConnectionAbortedError


_NONSENSE = itertools.cycle(
    [
        b"\x00\xff\x80garbage" * 20,
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"99999999999999999999999999\r\n",
        b"VALUE x 0 999999999\r\n",
        b"-1\r\nEND\r\n",
        b"SERVER_ERROR lost my mind\r\n",
    ]
)


def garbage(_answer: bytes, daemon: socket.socket) -> None:
    """Send something else, each time another."""
    daemon.sendall(next(_NONSENSE))


class Relay:
    """Relays to the server at `port` from the moment of `with` to its end.

    Attributes:
        port: where the relay listens, on 127.0.0.1.
        spoiler: passes the answers on; may be changed at any time.
    """

    def __init__(self, port: int) -> None:
        self.spoiler: Spoiler = honest
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # Not close() alone: accept() in the other thread would go on.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                daemon, _ = self._listener.accept()
                threading.Thread(target=self._pass_on, args=[daemon], daemon=True).start()

    def _pass_on(self, daemon: socket.socket) -> None:
        with daemon, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._server_port)) as server:
            while True:
                ready, _, _ = select.select([daemon, server], [], [])
                for source in ready:
                    data = source.recv(65536)
                    if not data:
                        return
                    if source is daemon:
                        server.sendall(data)
                    else:
                        self.spoiler(data, daemon)
