"""Lookups in the score zone through dnspython; only this module imports it."""

import asyncio
from pathlib import Path
from typing import Any, Final

import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.reversename

from senderscore_policy.config.endpoints import Inet
from senderscore_policy.config.model import ReputationSettings
from senderscore_policy.policy.reputation import UNKNOWN, Refused, Reputation, Unavailable
from senderscore_policy.reputation.budget import QueryBudget
from senderscore_policy.reputation.lookup import RESOLV_CONF, LookupResult, reputation_of

PATIENCE: Final = 5.0
"""Seconds after which a lookup is given up, or `deadline` if that is longer. A request waits less: a late answer
serves the next one."""


class ScoreResolver:
    """Looks scores up: an A record of the absolute reversed name, nothing else.

    Every nameserver is asked once, in order, a single one twice. Each question sent is taken from the budget, a
    repeated one and the one over TCP after a truncated answer included. `file` names the system's nameservers
    (resolv.conf(5)).
    """

    def __init__(
        self, settings: ReputationSettings, budget: QueryBudget, file: Path = RESOLV_CONF, patience: float = PATIENCE
    ) -> None:
        self._settings = settings
        self._budget = budget
        self._file = file
        self._patience = patience
        self._resolver: dns.asyncresolver.Resolver | None = None

    def reconfigure(self, settings: ReputationSettings) -> None:
        """Apply other settings from the next lookup on, which reads the system's resolver configuration again."""
        self._settings = settings
        self._resolver = None

    async def query_raw(self, address: str) -> LookupResult:
        """Ask for an IPv4 address (canonical text); a failure is an outcome, never an exception."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        patience = max(self._patience, self._settings.deadline)
        backend = _MeteredBackend(self._budget)
        addresses: tuple[str, ...] = ()
        rcode = None
        try:
            # dnspython's own limit comes first, and its error says more; but it uses the wall clock, which may step.
            async with asyncio.timeout(patience):
                outcome, addresses, rcode = await self._resolve(address, backend, 0.95 * patience)
        except dns.resolver.NXDOMAIN:
            outcome, rcode = UNKNOWN, "NXDOMAIN"
        except (dns.exception.DNSException, OSError, ValueError) as error:
            # ValueError: /etc/resolv.conf names no addresses.
            outcome, rcode = Unavailable(_detail_of(error) or f"no answer within {patience:g} s"), _rcode_of(error)
        if backend.refused:
            outcome = Refused(f"query budget spent: {self._budget}")
        return LookupResult(outcome, addresses, rcode, loop.time() - started, backend.nameserver, backend.questions)

    async def zone_rcode(self) -> str | None:
        """Return the rcode of the answer to a question for the zone's SOA record; None: no readable response."""
        zone, backend = dns.name.from_text(self._settings.zone), _MeteredBackend(self._budget)
        try:
            resolver = _make_resolver(self._settings.nameservers, self._file, 0.95 * self._patience)
            async with asyncio.timeout(self._patience):
                answer = await resolver.resolve(
                    zone, dns.rdatatype.SOA, raise_on_no_answer=False, search=False, backend=backend
                )
        except dns.resolver.NXDOMAIN:
            return "NXDOMAIN"
        except (dns.exception.DNSException, OSError, ValueError) as error:
            return _rcode_of(error)
        return dns.rcode.to_text(answer.response.rcode())

    async def _resolve(
        self, address: str, backend: "_MeteredBackend", lifetime: float
    ) -> tuple[Reputation, tuple[str, ...], str]:
        """Return outcome, raw addresses and rcode of an answer.

        Raises:
            dns.exception.DNSException: no answer, or NXDOMAIN.
            OSError, ValueError: no nameserver is known or reachable.
        """
        if self._resolver is None:
            self._resolver = _make_resolver(self._settings.nameservers, self._file, lifetime)
        name = dns.reversename.from_address(address, v4_origin=dns.name.from_text(self._settings.zone))
        answer = await self._resolver.resolve(
            name, dns.rdatatype.A, raise_on_no_answer=False, search=False, backend=backend
        )
        addresses = tuple(record.address for record in answer)
        outcome = reputation_of(addresses)
        if not addresses and _is_referral(answer.response):
            outcome = Unavailable(
                f"{backend.nameserver} refers to other servers: it does not resolve names for this host"
            )
        return outcome, addresses, dns.rcode.to_text(answer.response.rcode())


class _Address(str):
    """A nameserver's address, equal only to itself: dnspython finds the port by it, and two may share an address."""

    __slots__ = ()
    __eq__ = object.__eq__
    __hash__ = object.__hash__


def _make_resolver(nameservers: tuple[Inet, ...], file: Path, lifetime: float) -> dns.asyncresolver.Resolver:
    """Make a resolver that asks these nameservers; without any, those that the file names.

    Raises:
        dns.resolver.NoResolverConfiguration, ValueError: the file does not name any.
    """
    resolver = dns.asyncresolver.Resolver(str(file), configure=not nameservers)
    if nameservers:
        ports: dict[str, int] = {_Address(server.host): server.port for server in nameservers}
        resolver.nameservers = list(ports)
        resolver.nameserver_ports = ports
    resolver.lifetime = lifetime
    resolver.timeout = lifetime / max(2, len(resolver.nameservers))
    return resolver


def _is_referral(response: dns.message.Message) -> bool:
    """Whether an answer without records points to other servers, and is not NODATA (RFC 2308, 2.2)."""
    types = {rrset.rdtype for rrset in response.authority}
    return dns.rdatatype.NS in types and dns.rdatatype.SOA not in types


def _errors_of(error: Exception) -> list[tuple[str, Any]]:
    """Return each nameserver that dnspython has tried, and an rcode or the exception that it met there."""
    tried = (getattr(error, "kwargs", None) or {}).get("errors", [])
    # From version 2.4 on the nameserver is "Do53:192.0.2.53@53".
    return [
        (str(Inet(str(server).removeprefix("Do53:").partition("@")[0], port)), cause)
        for server, _, port, cause, _ in tried
    ]


def _rcode_of(error: Exception) -> str | None:
    """Return the rcode of the last nameserver that responded without an answer."""
    rcodes = [cause for _, cause in _errors_of(error) if isinstance(cause, str)]
    return rcodes[-1] if rcodes else None


def _detail_of(error: Exception) -> str:
    """Return the reason of a failed lookup on one line, without the client's address that dnspython's text has."""
    reasons = [
        f"{server}: {cause if isinstance(cause, str) else getattr(cause, 'strerror', None) or cause}"
        for server, cause in _errors_of(error)
    ]
    return " ".join("; ".join(dict.fromkeys(reasons) or [str(error)]).split())


class _BudgetSpentError(OSError):
    """Raised in place of a socket; after an OSError dnspython does not try this nameserver again."""


class _MeteredBackend(dns.asyncbackend.Backend):  # type: ignore[name-defined,misc]  # its types hide a public name
    """Opens the sockets of one lookup, each for one question that the budget allows."""

    def __init__(self, budget: QueryBudget) -> None:
        self.questions = 0  # sent
        self.refused = False  # whether the budget refused one
        self.nameserver: str | None = None  # the one asked last
        self._budget = budget
        self._asyncio = dns.asyncbackend.get_backend("asyncio")

    def name(self) -> str:
        return self._asyncio.name()

    def datagram_connection_required(self) -> bool:
        """Yes: a connected socket reports at once that a nameserver is down (ICMP, port unreachable)."""
        return True

    async def sleep(self, interval: float) -> None:
        await asyncio.sleep(interval)

    async def make_socket(  # noqa: PLR0917 - dnspython's signature
        self,
        af: int,
        socktype: int,
        proto: int = 0,
        source: Any = None,
        destination: Any = None,
        timeout: float | None = None,  # noqa: ASYNC109 - likewise
        ssl_context: Any = None,
        server_hostname: str | None = None,
    ) -> Any:
        """Open a socket for one question, or raise `_BudgetSpentError`; other OSErrors: the server is unreachable."""
        if not self._budget.spend():
            self.refused = True
            raise _BudgetSpentError("query budget spent")
        self.questions += 1
        self.nameserver = str(Inet(destination[0], destination[1]))
        return await self._asyncio.make_socket(  # type: ignore[no-untyped-call]
            af, socktype, proto, source, destination, timeout, ssl_context, server_hostname
        )
