"""Clients: from an attribute's text to the key that is counted and the address that is looked up."""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from senderscore_policy.policy.reputation import UNKNOWN, Reputation, Scored
from senderscore_policy.policy.tiers import Limit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
V = TypeVar("V")
_AROUND: Final = " \t\"'<>(),;."  # signs around an address in logs and mails
_LABEL: Final = re.compile(r"(?:\w+=<?|inet:)?(?:IPv6:)?", re.IGNORECASE)
_IN_BRACKETS: Final = re.compile(r"\[(?:IPv6:)?([^\[\]]+)\]((?:/[0-9]+)?)", re.IGNORECASE)
_WITH_PORT: Final = re.compile(r"([0-9.]+):[0-9]*|(.*[^:]):")


@dataclass(frozen=True, slots=True)
class Client:
    """A client as the engine sees it."""

    key: str  # what it is counted under: "192.0.2.75", or "2001:db8::/64" for an IPv6 network
    address: str | None = None  # IPv4 text to look up; None where the zone is not asked
    exempt: bool = False  # never counted, never limited
    # From an override, or `Unknown` where the zone is not asked; None: the zone decides.
    reputation: Reputation | None = None
    limit: Limit | None = None  # from an override, whatever the score

    @property
    def overridden(self) -> bool:
        return self.limit is not None or isinstance(self.reputation, Scored)


@dataclass(frozen=True, slots=True)
class Override:
    """A score or a limit of its own for some networks; exactly one of the two is given."""

    networks: tuple[Network, ...]
    score: int | None = None
    limit: float | None = None


def parse_address(text: str) -> Address | None:
    """Read an IP address; v4-mapped IPv6 becomes IPv4. None: the text is not an address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if address.version == 4:
        return address
    return None if address.scope_id else address.ipv4_mapped or address


def unlogged(text: str) -> str:
    """The address or network in a text that people copy from logs, as in "client=mx.example.net[192.0.2.75],"."""
    bare = _LABEL.sub("", text.strip(_AROUND), count=1)
    if len(inside := _IN_BRACKETS.findall(bare)) == 1:
        return "".join(inside[0])
    parts = _WITH_PORT.fullmatch(bare)
    return parts[1] or parts[2] if parts else bare


class NetworkTable(Generic[V]):
    """Longest-prefix match over networks; of two values for a network the last one counts."""

    def __init__(self, entries: Iterable[tuple[Network, V]]) -> None:
        tables: dict[tuple[int, int], dict[int, V]] = {}
        for network, value in entries:
            shift = network.max_prefixlen - network.prefixlen
            tables.setdefault((network.version, shift), {})[int(network.network_address) >> shift] = value
        # A table for each prefix length, the longest first: thousands of networks need a few look-ups.
        self._tables = {
            wanted: [(shift, tables[version, shift]) for version, shift in sorted(tables) if version == wanted]
            for wanted in (4, 6)
        }

    def match(self, address: Address) -> V | None:
        """The value of the longest prefix that contains the address, or None."""
        number = int(address)
        for shift, table in self._tables[address.version]:
            value = table.get(number >> shift)
            if value is not None:
                return value
        return None


_WITHOUT_SCORE: Final = NetworkTable(
    (ipaddress.ip_network(network), True)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.168.0.0/16", "224.0.0.0/4", "240.0.0.0/4",
    )
)  # fmt: skip
"""Private, shared, loopback, link-local, multicast and reserved networks (RFC 6890): a query would cost budget and show
internal addresses to others. The networks for documentation and benchmarks are missing: tests ask for them."""


class ClientDirectory:
    """Makes `Client` values from addresses, by the configured networks.

    IPv6 clients are counted together per prefix of the length `ipv6_prefix`, 1 to 128; a longer network of `exempt` or
    `overrides` is counted on its own.
    """

    def __init__(self, exempt: Sequence[Network], overrides: Sequence[Override], ipv6_prefix: int) -> None:
        self._exempt = NetworkTable((network, network.prefixlen) for network in exempt)
        self._overrides = NetworkTable((network, (network.prefixlen, o)) for o in overrides for network in o.networks)
        self._ipv6_prefix = ipv6_prefix

    def ruled_network(self, address: Address) -> Network | None:
        """The network of the exemption, else of the override, that applies to the address; None: neither does."""
        exempt, override = self._exempt.match(address), self._overrides.match(address)
        length = exempt if exempt is not None or override is None else override[0]
        return None if length is None else ipaddress.ip_network((address, length), strict=False)

    def client(self, address: Address) -> Client:
        exempt = self._exempt.match(address)
        length, override = self._overrides.match(address) or (0, None)
        lookup: str | None = None
        if address.version == 4:
            key = str(address)
            lookup = None if _WITHOUT_SCORE.match(address) else key
        else:
            # A network with a rule of its own must not share a counter with its neighbours.
            longest = max(self._ipv6_prefix, length, exempt or 0)
            key = str(ipaddress.IPv6Network((address, longest), strict=False))
        if exempt is not None:
            return Client(key, lookup, exempt=True)
        reputation: Reputation | None = UNKNOWN if lookup is None else None
        if override is not None and override.score is not None:
            reputation = Scored(override.score)
        limit = None if override is None or override.limit is None else Limit("override", override.limit)
        return Client(key, lookup, reputation=reputation, limit=limit)
