"""Where something listens: an Internet address with a port, or a unix socket; and how the file writes it."""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from senderscore_policy.config.options import absolute_path, refuse

DNS_PORT: Final = 53
LONGEST_SOCKET_PATH: Final = 107
"""Bytes of a unix socket's path (sockaddr_un holds 108 with its final NUL, unix(7))."""

_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_HOST_AND_PORT: Final = re.compile(r"(?:\[(?P<six>[^\[\]]*)\]|(?P<host>[^\[\]:]*)):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Inet:
    """A TCP address: an IP address (IPv6 without brackets) or a host name, and a port (0: any, in tests)."""

    host: str
    port: int

    @property
    def local(self) -> bool:
        """Whether only this host can reach the address."""
        address = _address(self.host)
        return address.is_loopback if address else self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Unix:
    """A unix socket by its absolute path."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Endpoint = Inet | Unix


def notation(endpoint: Endpoint) -> str:
    """An endpoint as Postfix writes it."""
    return str(endpoint) if isinstance(endpoint, Unix) else f"inet:{endpoint}"


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _inet(text: str, allowed: str, prefix: str = "") -> Inet:
    """Host and port: "192.0.2.1:25", "mx.example.org:25" or "[2001:db8::1]:25"; the file has `prefix` before them."""
    found = _HOST_AND_PORT.fullmatch(text)
    if not found:
        refuse(prefix + text, allowed)
    port = int(found["port"])
    if not 1 <= port <= 65535:
        refuse(prefix + text, "must have a port from 1 to 65535")
    if (host := found["host"]) is not None:
        looks_numeric = host.rpartition(".")[2].isdigit()
        if not (_address(host) or (HOST_NAME.fullmatch(host) and len(host) <= 253 and not looks_numeric)):
            refuse(host, allowed)
        return Inet(host, port)
    six = _address(found["six"])
    if not isinstance(six, IPv6Address):
        refuse(text, "must have an IPv6 address in its brackets")
    return Inet(str(six), port)


def _socket_path(text: str, allowed: str) -> str:
    path = absolute_path(text, allowed)
    if len(path.encode()) > LONGEST_SOCKET_PATH:
        refuse(text, f"must have at most {LONGEST_SOCKET_PATH} bytes, the longest path of a unix socket")
    return path


def control_socket(text: str) -> str:
    return text and _socket_path(text, 'must be an absolute path such as "/run/senderscore-policy/control.sock", or ""')


def endpoint(text: str) -> Endpoint:
    """An endpoint in Postfix's notation: inet:host:port or unix:/path."""
    allowed = 'must be such as "inet:127.0.0.1:10045", "inet:[::1]:10045" or "unix:/run/senderscore-policy/policy.sock"'
    kind, _, rest = text.partition(":")
    if kind not in {"inet", "unix"}:
        refuse(text, allowed)
    return Unix(_socket_path(rest, allowed)) if kind == "unix" else _inet(rest, allowed, "inet:")


def server(text: str) -> Endpoint:
    """A memcached server: host:port or unix:/path."""
    allowed = 'must be such as "127.0.0.1:11211", "[::1]:11211", "mx2.example.org:11211" or "unix:/run/memcached.sock"'
    if text.startswith("unix:"):
        return Unix(_socket_path(text.removeprefix("unix:"), allowed))
    return _inet(text, allowed)


def http_listener(text: str) -> Inet | None:
    """The IP address and port of an HTTP listener; None if an empty text turns it off."""
    if not text:
        return None
    allowed = 'must be an IP address and a port such as "127.0.0.1:10046" or "[::1]:10046", or "" to turn it off'
    found = _inet(text, allowed)
    return found if _address(found.host) else refuse(text, allowed)


def nameserver(text: str) -> Inet:
    """A name server's IP address, with a port if it is not 53."""
    examples = '"192.0.2.53", "192.0.2.53:5353" or "[2001:db8::53]:5353"'
    allowed = f"must be an IP address, with a port if it is not {DNS_PORT}, such as {examples}"
    if address := _address(text.removeprefix("[").removesuffix("]")):
        return Inet(str(address), DNS_PORT)
    found = _inet(text, allowed)
    return found if _address(found.host) else refuse(text, allowed)
