"""The texts of a configuration file, each read into its value; a ValueError says what would be allowed."""

import re
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, NoReturn

from senderscore_policy.config.endpoints import Endpoint, Inet, Unix
from senderscore_policy.policy.clients import Network
from senderscore_policy.policy.tiers import UNLIMITED

LONGEST_SOCKET_PATH: Final = 107
"""Bytes of a unix socket's path (sockaddr_un holds 108 with its final NUL, unix(7))."""
LONGEST_ZONE: Final = 237
"""Characters of a zone: a name has 253 (RFC 1035, 2.3.4), and "255.255.255.255." goes before it."""
LONGEST_KEY_PREFIX: Final = 100
"""A memcached key has 250 bytes at most, and client and bucket follow the prefix."""
LARGEST_LIMIT: Final = 1_000_000_000
DNS_PORT: Final = 53

_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_HOST_AND_PORT: Final = re.compile(r"(?:\[(?P<six>[^\[\]]*)\]|(?P<host>[^\[\]:]*)):(?P<port>[0-9]{1,5})")
_SCORES: Final = re.compile(r"([0-9]{1,3})\s*-\s*([0-9]{1,3})")
_KEY_PREFIX: Final = re.compile(r"[!-~]*")


def shown(value: object) -> str:
    """A value as an error message shows it: on one line, and cut when it is long."""
    if isinstance(value, bool):
        return str(value).lower()
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _refuse(text: str, allowed: str) -> NoReturn:
    raise ValueError(f"{allowed}, not {shown(text)}")


def _absolute_path(text: str, allowed: str) -> str:
    if not text.startswith("/") or not text.isprintable():
        _refuse(text, allowed)
    return text


def directory(text: str) -> str:
    """A directory's absolute path, or nothing."""
    return text and _absolute_path(text, 'must be an absolute path such as "/var/lib/senderscore-policy", or ""')


def _socket_path(text: str, allowed: str) -> str:
    path = _absolute_path(text, allowed)
    if len(path.encode()) > LONGEST_SOCKET_PATH:
        _refuse(text, f"must have at most {LONGEST_SOCKET_PATH} bytes, as every unix socket's path")
    return path


def control_socket(text: str) -> str:
    """The control socket's absolute path, or nothing."""
    return text and _socket_path(text, 'must be an absolute path such as "/run/senderscore-policy/control.sock", or ""')


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _host(text: str, allowed: str) -> str:
    """An IPv4 address or a host name."""
    looks_numeric = text.rpartition(".")[2].isdigit()
    if not (_address(text) or (_NAME.fullmatch(text) and len(text) <= 253 and not looks_numeric)):
        _refuse(text, allowed)
    return text


def _inet(text: str, allowed: str, prefix: str = "") -> Inet:
    """Host and port: "192.0.2.1:25", "mx.example.org:25" or "[2001:db8::1]:25"; the file has `prefix` before them."""
    found = _HOST_AND_PORT.fullmatch(text)
    if not found:
        _refuse(prefix + text, allowed)
    port = int(found["port"])
    if not 1 <= port <= 65535:
        _refuse(prefix + text, "must have a port from 1 to 65535")
    if found["six"] is None:
        return Inet(_host(found["host"], allowed), port)
    six = _address(found["six"])
    if not isinstance(six, IPv6Address):
        _refuse(text, "must have an IPv6 address in its brackets")
    return Inet(str(six), port)


def endpoint(text: str) -> Endpoint:
    """An endpoint in Postfix's notation: inet:host:port or unix:/path."""
    allowed = 'must be such as "inet:127.0.0.1:10045", "inet:[::1]:10045" or "unix:/run/senderscore-policy/policy.sock"'
    kind, _, rest = text.partition(":")
    if kind == "inet":
        return _inet(rest, allowed, "inet:")
    if kind == "unix":
        return Unix(_socket_path(rest, allowed))
    _refuse(text, allowed)


def server(text: str) -> Endpoint:
    """A memcached server: host:port or unix:/path."""
    allowed = 'must be such as "127.0.0.1:11211", "[::1]:11211", "mx2.example.org:11211" or "unix:/run/memcached.sock"'
    if text.startswith("unix:"):
        return Unix(_socket_path(text.removeprefix("unix:"), allowed))
    return _inet(text, allowed)


def status(text: str) -> Inet | None:
    """The status listener's IP address and port; None if it is turned off by an empty text."""
    if not text:
        return None
    allowed = 'must be an IP address and a port such as "127.0.0.1:10046" or "[::1]:10046", or "" to turn it off'
    address = _inet(text, allowed)
    if not _address(address.host):
        _refuse(text, allowed)
    return address


def nameserver(text: str) -> Inet:
    """A name server's IP address, with a port if it is not 53."""
    allowed = (
        'must be an IP address, with a port if it is not 53, such as "192.0.2.53", "192.0.2.53:5353" or '
        '"[2001:db8::53]:5353"'
    )
    if address := _address(text.removeprefix("[").removesuffix("]")):
        return Inet(str(address), DNS_PORT)
    found = _inet(text, allowed)
    if not _address(found.host):
        _refuse(text, allowed)
    return found


def zone(text: str) -> str:
    """A DNS zone's name, without its final dot."""
    name = text.removesuffix(".")
    if not _NAME.fullmatch(name) or len(name) > LONGEST_ZONE:
        _refuse(text, f'must be a DNS name of at most {LONGEST_ZONE} characters such as "score.senderscore.com"')
    return name


def key_prefix(text: str) -> str:
    """What the keys in memcached begin with."""
    if not _KEY_PREFIX.fullmatch(text) or len(text) > LONGEST_KEY_PREFIX:
        _refuse(text, f"must be at most {LONGEST_KEY_PREFIX} printable ASCII characters without spaces")
    return text


def network(text: str) -> Network:
    """A network, or a single address."""
    try:
        found = ip_network(text, strict=False)
    except ValueError:
        _refuse(text, 'must be a network such as "192.0.2.0/24" or "2001:db8::/32", or an address')
    address, slash, _ = text.partition("/")
    if "%" in address:
        _refuse(text, "must be without a zone index")
    if slash and ip_address(address) != found.network_address:
        raise ValueError(
            f'{shown(text)} has bits set behind its prefix: write "{found}", or "{address}" for this address alone'
        )
    mapped = found.network_address.ipv4_mapped if isinstance(found, IPv6Network) else None
    if mapped and found.prefixlen >= 96:
        plain = f"{mapped}/{found.prefixlen - 96}"
        raise ValueError(f'{shown(text)} is IPv4 in IPv6, under which no client is known: write "{plain}"')
    return found


def scores(text: str) -> tuple[int, int]:
    """The scores of a tier, lowest and highest, both included."""
    found = _SCORES.fullmatch(text)
    low, high = (int(found[1]), int(found[2])) if found else (1, 0)
    if not 0 <= low <= high <= 100:
        _refuse(text, 'must be the lowest and the highest score of the tier, from 0 to 100, such as "71-80"')
    return low, high


def limit(value: object) -> float:
    """Messages per window, a TOML integer, or the word "unlimited"."""
    if value == "unlimited":
        return UNLIMITED
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_LIMIT:
        return float(value)
    raise ValueError(f'must be a whole number from 0 to {LARGEST_LIMIT}, or "unlimited", not {shown(value)}')
