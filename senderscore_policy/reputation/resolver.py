"""Lookups in the score zone through dnspython; only this module imports it."""

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, Final

import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdatatype
import dns.resolver
import dns.reversename

from senderscore_policy.config.endpoints import Inet
from senderscore_policy.config.model import ReputationSettings
from senderscore_policy.config.paths import RESOLV_CONF
from senderscore_policy.policy.reputation import UNKNOWN, Refused, Reputation, Scored, Unavailable
from senderscore_policy.reputation.budget import QueryBudget
from senderscore_policy.reputation.guard import LookupResult

PATIENCE: Final = 5.0
"""Seconds after which a lookup is given up, or `deadline` if that is longer. A request waits less: a late answer
serves the next one."""

_SCORES: Final = IPv4Network("127.0.4.0/24")
_REFUSALS: Final = IPv4Network("127.255.255.0/24")
_FAILURES: Final = (dns.exception.DNSException, OSError, ValueError)
"""ValueError: /etc/resolv.conf names no addresses."""


def reputation_of(addresses: Sequence[str]) -> Reputation:
    """Return the reputation that the A records of an answer mean.

    Only 127.0.4.0 to 127.0.4.100 is a score: a resolver that rewrites NXDOMAIN and an expired zone with a wildcard
    answer for every client. The zone refuses with an address in 127.255.255.0/24.
    """
    if not addresses:  # the name exists without an A record
        return UNKNOWN
    answer = [IPv4Address(address) for address in addresses]
    if any(address in _REFUSALS for address in answer):
        return Refused(", ".join(addresses))
    scores = [address.packed[3] for address in answer if address in _SCORES and address.packed[3] <= 100]
    return Scored(min(scores)) if scores else Unavailable(f"{', '.join(addresses)} is not a score")


class ScoreResolver:
    """Looks scores up: an A record of the absolute reversed name, nothing else.

    Every nameserver is asked once, in order, a single one twice. Each question sent is taken from the budget, a
    repeated one and the one over TCP after a truncated answer included. `file` names the system's nameservers
    (resolv.conf(5)).
    """

    def __init__(
        self, settings: ReputationSettings, budget: QueryBudget, file: Path = RESOLV_CONF, patience: float = PATIENCE
    ) -> None:
        self._budget = budget
        self._file = file
        self._least_patience = patience
        self.reconfigure(settings)

    def reconfigure(self, settings: ReputationSettings) -> None:
        """Apply other settings from the next lookup on, which reads the system's resolver configuration again."""
        self._settings = settings
        self._patience = max(self._least_patience, settings.deadline)
        self._resolver: dns.asyncresolver.Resolver | None = None

    async def query_raw(self, address: str) -> LookupResult:
        """Ask for an IPv4 address (canonical text); a failure is an outcome, never an exception."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        backend = _MeteredBackend(self._budget)
        addresses: tuple[str, ...] = ()
        rcode: str | None = "NOERROR"
        try:
            name = dns.reversename.from_address(address, v4_origin=dns.name.from_text(self._settings.zone))
            answer = await self._resolve(name, dns.rdatatype.A, backend)
            addresses = tuple(record.address for record in answer)
            outcome = reputation_of(addresses)
            types = {rrset.rdtype for rrset in answer.response.authority}
            if not addresses and dns.rdatatype.NS in types and dns.rdatatype.SOA not in types:
                # A referral, not NODATA (RFC 2308, 2.2).
                referral = "refers to other servers: it does not resolve names for this host"
                outcome = Unavailable(f"{backend.nameserver} {referral}")
        except dns.resolver.NXDOMAIN:
            outcome, rcode = UNKNOWN, "NXDOMAIN"
        except _FAILURES as error:
            detail, rcode = _explained(error)
            outcome = Unavailable(detail or f"no answer within {self._patience:g} s")
        if backend.refused:
            outcome = self._budget.refusal
        return LookupResult(outcome, addresses, rcode, loop.time() - started, backend.nameserver, backend.questions)

    async def zone_rcode(self) -> str | None:
        """Return the rcode of the answer to a question for the zone's SOA record; None: no readable response."""
        zone = dns.name.from_text(self._settings.zone)
        try:
            await self._resolve(zone, dns.rdatatype.SOA, _MeteredBackend(self._budget))
        except dns.resolver.NXDOMAIN:
            return "NXDOMAIN"
        except _FAILURES as error:
            return _explained(error)[1]
        return "NOERROR"

    async def _resolve(
        self, name: dns.name.Name, kind: dns.rdatatype.RdataType, backend: "_MeteredBackend"
    ) -> dns.resolver.Answer:
        """Return an answer with the rcode NOERROR; any other is an exception, NXDOMAIN or one of `_FAILURES`."""
        if self._resolver is None:
            self._resolver = _make_resolver(self._settings.nameservers, self._file, 0.95 * self._patience)
        # dnspython's own limit comes first, and its error says more; but it uses the wall clock, which may step.
        async with asyncio.timeout(self._patience):
            return await self._resolver.resolve(name, kind, raise_on_no_answer=False, search=False, backend=backend)


class _Address(str):
    """A nameserver's address, equal only to itself: dnspython finds the port by it, and two may share an address."""

    __slots__ = ()
    __eq__ = object.__eq__
    __hash__ = object.__hash__


def _make_resolver(nameservers: tuple[Inet, ...], file: Path, lifetime: float) -> dns.asyncresolver.Resolver:
    """Make a resolver that asks these nameservers; without any, those that the file names."""
    resolver = dns.asyncresolver.Resolver(str(file), configure=not nameservers)
    if nameservers:
        ports: dict[str, int] = {_Address(server.host): server.port for server in nameservers}
        resolver.nameservers = list(ports)
        resolver.nameserver_ports = ports
    resolver.lifetime = lifetime
    resolver.timeout = lifetime / max(2, len(resolver.nameservers))
    return resolver


def _explained(error: Exception) -> tuple[str, str | None]:
    """Return why a lookup failed, and the rcode of the last nameserver that responded without an answer.

    The reason is one line, without the client's address that dnspython's text has.
    """
    reasons, rcode = [], None
    for server, _, port, cause, _ in (getattr(error, "kwargs", None) or {}).get("errors", []):
        if isinstance(cause, str):
            rcode = cause
        # From version 2.4 on the nameserver is "Do53:192.0.2.53@53".
        nameserver = Inet(str(server).removeprefix("Do53:").partition("@")[0], port)
        reasons.append(f"{nameserver}: {getattr(cause, 'strerror', None) or cause}")
    return " ".join("; ".join(dict.fromkeys(reasons) or [str(error)]).split()), rcode


class _MeteredBackend(dns.asyncbackend.Backend):  # type: ignore[name-defined,misc]  # its types hide a public name
    """Opens the sockets of one lookup, each for one question that the budget allows."""

    def __init__(self, budget: QueryBudget) -> None:
        self.questions = 0  # sent
        self.refused = False  # whether the budget refused one
        self.nameserver: str | None = None  # the one asked last
        self._budget = budget
        self._asyncio = dns.asyncbackend.get_backend("asyncio")

    def datagram_connection_required(self) -> bool:
        """Yes: a connected socket reports at once that a nameserver is down (ICMP, port unreachable)."""
        return True

    async def sleep(self, interval: float) -> None:
        await asyncio.sleep(interval)

    async def make_socket(self, *arguments: Any) -> Any:
        """Open a socket for one question; OSError: the server is unreachable, or the budget does not allow it.

        After an OSError dnspython does not try this nameserver again.
        """
        _family, _type, _protocol, _source, (host, port), *_ = arguments
        if not self._budget.spend():
            self.refused = True
            raise OSError("query budget spent")
        self.questions += 1
        self.nameserver = str(Inet(host, port))
        return await self._asyncio.make_socket(*arguments)  # type: ignore[no-untyped-call]
