"""A name server on loopback that gives the answers that a test wants, wrong ones too.

It runs in threads of this process, over UDP and TCP on one port:

    with Nameserver() as nameserver:
        nameserver.answers["192.0.2.75"] = addresses("127.0.4.75")
        ...
        assert nameserver.questions == [Question("udp", "75.2.0.192.score.test.", "A")]
"""

import contextlib
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Self

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.reversename
import dns.rrset

ZONE = "score.test"
_TTL = 10


class Question(NamedTuple):
    """A question: "udp" or "tcp", the absolute name, the type."""

    transport: str
    name: str
    type: str


Reply = Callable[[dns.message.Message, str], bytes | None]
"""Makes the bytes to send for a query that came over "udp" or "tcp"; None: say nothing."""
Forgeries = Callable[[bytes], Iterable[tuple[socket.socket | None, bytes]]]
"""Makes the false answers to a query."""


def addresses(*values: str) -> Reply:
    """An answer with these A records."""

    def reply(query: dns.message.Message, _transport: str) -> bytes:
        response = dns.message.make_response(query)
        response.answer.append(dns.rrset.from_text(query.question[0].name, _TTL, "IN", "A", *values))
        return response.to_wire()

    return reply


def alias(target: str, *values: str) -> Reply:
    """An answer by a CNAME, with the A records of its target."""

    def reply(query: dns.message.Message, _transport: str) -> bytes:
        response = dns.message.make_response(query)
        response.answer.append(dns.rrset.from_text(query.question[0].name, _TTL, "IN", "CNAME", target))
        if values:
            response.answer.append(dns.rrset.from_text(target, _TTL, "IN", "A", *values))
        return response.to_wire()

    return reply


def rcode(name: str) -> Reply:
    """An empty response with this rcode: NXDOMAIN, SERVFAIL, REFUSED, FORMERR …; NOERROR means no data."""

    def reply(query: dns.message.Message, _transport: str) -> bytes:
        response = dns.message.make_response(query)
        response.set_rcode(dns.rcode.from_text(name))
        response.authority.append(
            dns.rrset.from_text(ZONE + ".", _TTL, "IN", "SOA", f"ns.{ZONE}. admin.{ZONE}. 1 3600 600 86400 10")
        )
        return response.to_wire()

    return reply


def referral(query: dns.message.Message, _transport: str) -> bytes:
    """What a server says that resolves no names for others: ask somebody else."""
    response = dns.message.make_response(query)
    response.authority.append(dns.rrset.from_text("test.", _TTL, "IN", "NS", "ns.elsewhere.test."))
    return response.to_wire()


def truncated(reply: Reply) -> Reply:
    """Over UDP an empty response that is marked as truncated; over TCP the reply."""

    def truncated_reply(query: dns.message.Message, transport: str) -> bytes | None:
        if transport == "tcp":
            return reply(query, transport)
        response = dns.message.make_response(query)
        response.flags |= dns.flags.TC
        return response.to_wire()

    return truncated_reply


def wrong_id(reply: Reply) -> Reply:
    """The reply under another query's ID."""

    def stray(query: dns.message.Message, transport: str) -> bytes | None:
        wire = reply(query, transport)
        return wire and bytes([wire[0] ^ 0xFF]) + wire[1:]

    return stray


def late(reply: Reply, seconds: float) -> Reply:
    """The same answer after some time."""

    def delayed(query: dns.message.Message, transport: str) -> bytes | None:
        time.sleep(seconds)
        return reply(query, transport)

    return delayed


def garbage(_query: dns.message.Message, _transport: str) -> bytes:
    """Bytes that are not a DNS message."""
    return b"\x00garbage\xff" * 9


def silence(_query: dns.message.Message, _transport: str) -> None:
    """No response at all."""


class Held:
    """A reply that is sent when the test says so: an answer that comes late.

    Args:
        reply: what to send then.
    """

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._released = threading.Event()

    def __call__(self, query: dns.message.Message, transport: str) -> bytes | None:
        """Wait, then reply."""
        self._released.wait(60)
        return self._reply(query, transport)

    def release(self) -> None:
        """Send it, and every later one at once."""
        self._released.set()


class Nameserver:
    """The server; started and stopped by `with`.

    Args:
        host: a loopback address.
        port: 0 lets the system choose one.

    Attributes:
        host, port: where it listens.
        answers: the reply for a client, by the client's IPv4 address.
        otherwise: the reply for all other clients.
        zone: the reply to a question for the zone itself.
        questions: all that came in, in order.
        forgeries: what somebody else sends before the answer to a query over UDP, each through a socket of his
            own or (None) the server's.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host = host
        self.answers: dict[str, Reply] = {}
        self.otherwise: Reply = rcode("NXDOMAIN")
        self.zone: Reply = rcode("NOERROR")
        self.questions: list[Question] = []
        self.forgeries: Forgeries = lambda _: ()
        self._udp, self._tcp = self._bind(port)
        self.port: int = self._udp.socket.getsockname()[1]
        self._arrived = threading.Condition()

    def __enter__(self) -> Self:
        for server in (self._udp, self._tcp):
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self._udp, self._tcp):
            server.shutdown()
            server.server_close()

    def wait_for_questions(self, count: int) -> list[Question]:
        """The questions, once `count` have arrived: the last may still be on its way when a lookup ends."""
        with self._arrived:
            self._arrived.wait_for(lambda: len(self.questions) >= count, timeout=30)
            return list(self.questions)

    def _bind(self, port: int) -> tuple["_UdpServer", "_TcpServer"]:
        """Sockets for UDP and TCP with the same port, one that the system has free for both."""
        for _ in range(20):
            udp = _UdpServer((self.host, port), self._handler(_UdpHandler))
            try:
                return udp, _TcpServer((self.host, udp.server_address[1]), self._handler(_TcpHandler))
            except OSError:
                udp.server_close()
        raise OSError(f"no port on {self.host} is free for UDP and TCP")

    def _handler(self, kind: type[socketserver.BaseRequestHandler]) -> Any:
        return type(kind.__name__, (kind,), {"nameserver": self})

    def respond(self, wire: bytes, transport: str) -> bytes | None:
        """The bytes to send for the bytes received."""
        try:
            query = dns.message.from_wire(wire)
        except dns.exception.DNSException:
            return None
        asked = query.question[0]
        with self._arrived:
            self.questions.append(Question(transport, asked.name.to_text(), dns.rdatatype.to_text(asked.rdtype)))
            self._arrived.notify_all()
        if asked.name == dns.name.from_text(ZONE):
            return self.zone(query, transport)
        reversed_address = dns.name.Name((*asked.name.labels[:4], b"in-addr", b"arpa", b""))
        client = dns.reversename.to_address(reversed_address)
        return self.answers.get(client, self.otherwise)(query, transport)


class _UdpServer(socketserver.ThreadingUDPServer):
    daemon_threads = True
    block_on_close = False


class _TcpServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True


class _UdpHandler(socketserver.BaseRequestHandler):
    nameserver: Nameserver

    def handle(self) -> None:
        wire, server = self.request
        for elsewhere, forged in self.nameserver.forgeries(wire):
            (elsewhere or server).sendto(forged, self.client_address)
        reply = self.nameserver.respond(wire, "udp")
        if reply is not None:
            with contextlib.suppress(OSError):  # the server, or the client, is gone
                server.sendto(reply, self.client_address)


class _TcpHandler(socketserver.StreamRequestHandler):
    nameserver: Nameserver

    def handle(self) -> None:
        prefix = self.rfile.read(2)
        if len(prefix) < 2:
            return
        reply = self.nameserver.respond(self.rfile.read(struct.unpack("!H", prefix)[0]), "tcp")
        if reply is not None:
            with contextlib.suppress(OSError):
                self.wfile.write(struct.pack("!H", len(reply)) + reply)
