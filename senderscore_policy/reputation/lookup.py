"""A lookup's result, and the resolver that is imported when the first lookup needs it."""

import asyncio
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Final

from senderscore_policy.config.model import ReputationSettings
from senderscore_policy.policy.reputation import UNKNOWN, Refused, Reputation, Scored, Unavailable
from senderscore_policy.reputation.budget import QueryBudget

if TYPE_CHECKING:
    from senderscore_policy.reputation.resolver import ScoreResolver

_SCORES: Final = IPv4Network("127.0.4.0/24")
_REFUSALS: Final = IPv4Network("127.255.255.0/24")
RESOLV_CONF: Final = Path("/etc/resolv.conf")


@dataclass(frozen=True, slots=True)
class LookupResult:
    """What the zone said about one client."""

    outcome: Reputation
    addresses: tuple[str, ...]  # the A records of the answer
    rcode: str | None  # "NOERROR", "NXDOMAIN", "SERVFAIL" …; None: no readable response
    elapsed: float  # seconds
    nameserver: str | None  # the last one asked, "192.0.2.53:53"; None: none was asked
    questions: int  # sent, retries and TCP included

    @property
    def refused_by_zone(self) -> bool:
        """Whether the zone refused, and not the own query budget."""
        return isinstance(self.outcome, Refused) and bool(self.addresses)


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
    if scores:
        return Scored(min(scores))
    return Unavailable(f"{', '.join(addresses)} is not a score")


class LazyResolver:
    """A `ScoreResolver` that is imported by the first lookup; it follows changes of /etc/resolv.conf, as glibc does.

    Importing dnspython takes 30 to 100 ms: too long for the start, and too long for the event loop later. An import
    in a thread holds the event loop up for 8 ms at most.
    """

    def __init__(self, settings: ReputationSettings, budget: QueryBudget, file: Path = RESOLV_CONF) -> None:
        self._settings = settings
        self._budget = budget
        self._file = file
        self._seen = _version(file)
        self._looked_at = 0.0
        self._loading = asyncio.Lock()
        self._resolver: ScoreResolver | None = None

    async def query_raw(self, address: str) -> LookupResult:
        resolver = self._resolver or await self._load()
        return await resolver.query_raw(address)

    def reconfigure(self, settings: ReputationSettings) -> None:
        self._settings = settings
        if self._resolver is not None:
            self._resolver.reconfigure(settings)

    def changed(self, now: float) -> bool:
        """Whether the system has other nameservers than before; checked once a second of monotonic time (`now`)."""
        if self._settings.nameservers or now - self._looked_at < 1:
            return False
        self._looked_at = now
        seen, self._seen = self._seen, _version(self._file)
        if seen == self._seen:
            return False
        self.reconfigure(self._settings)
        return True

    async def _load(self) -> "ScoreResolver":
        async with self._loading:
            if self._resolver is None:
                module = await asyncio.to_thread(importlib.import_module, "senderscore_policy.reputation.resolver")
                resolver: ScoreResolver = module.ScoreResolver(self._settings, self._budget, self._file)
                self._resolver = resolver
            return self._resolver


def _version(file: Path) -> tuple[int, int, int] | None:
    """Return what differs between two versions of a file; None: it is missing or closed to this process."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
