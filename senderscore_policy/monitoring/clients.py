"""The clients seen last, for the status page, `top` and `get`."""

import asyncio
import heapq
import ipaddress
import math
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from senderscore_policy.policy.bounded import BoundedCache
from senderscore_policy.policy.clients import Address, Client, Network, parse_address, unlogged
from senderscore_policy.policy.decision import Decision, Reason
from senderscore_policy.policy.engine import Engine
from senderscore_policy.policy.ports import Charge, Clock, Usage
from senderscore_policy.policy.protocol import printable
from senderscore_policy.policy.reputation import CachedScore
from senderscore_policy.policy.status import ClientStatus, LimitState, status_of
from senderscore_policy.policy.tiers import UNLIMITED
from senderscore_policy.policy.window import View, Window
from senderscore_policy.reputation.source import ScoreSource

T = TypeVar("T")
MAX_CLIENTS: Final = 20_000
"""Clients remembered; those that have sent nothing for longest are forgotten first."""
AT_ONCE: Final = 50
"""Clients whose counters are read together: about a millisecond, and some kilobytes of memcached's answer."""
LONGEST_NAME: Final = 255
"""Bytes of a host name (RFC 1035, 2.3.4)."""
LONGEST_TEXT: Final = 100
"""Characters shown of a host name."""
_NETWORK: Final = re.compile(r"[0-9A-Fa-f:.]{2,45}/[0-9]{1,3}")


@dataclass(eq=False, slots=True)
class SeenClient:
    """A client and the facts of its last counted message; the next one overwrites them."""

    client: Client
    count: int = 0  # messages in the window
    limit: float = UNLIMITED
    tier: str = ""  # the name of that limit
    time: float = 0.0  # of the message, in seconds since the epoch; 0: it has not sent any
    name: bytes = b""  # as Postfix knows the host, "unknown" if it does not
    deferred: dict[int, int] = field(default_factory=dict)  # messages above the limit, by bucket


@dataclass(frozen=True, slots=True)
class Row:
    """One client, as the status page and `top` list it."""

    status: ClientStatus
    # Seconds until one more message is within its limit, if it sends nothing before; None: the limit is 0 or infinite,
    # or its score decides first.
    opens_in: float | None
    name: str  # as Postfix knows the host, or empty; the owner of the address chose it
    seen_at: float  # its last counted message, in seconds since the epoch; 0: this daemon has not seen any

    def as_json(self) -> dict[str, Any]:
        """The object of `get --json`, and more."""
        limited = self.status.state is LimitState.LIMITED
        return self.status.as_json() | {
            "state": self.status.state,
            "opens_in": math.ceil(self.opens_in) if limited and self.opens_in is not None else None,
            "name": self.name,
            "seen_at": round(self.seen_at),
        }


def network_of(text: str) -> Network | None:
    """The network, or the single address, that a text names, also as logs write it; None if it is neither."""
    text = unlogged(text)
    address = parse_address(text)
    if address is not None:
        return ipaddress.ip_network(address)
    try:
        return ipaddress.ip_network(text, strict=False) if _NETWORK.fullmatch(text) else None
    except ValueError:
        return None


def matching(clients: Iterable[SeenClient], text: str) -> Iterator[SeenClient]:
    """The clients that a filter selects.

    A network selects the clients that share an address with it, another text those with the text in their address,
    host name or tier. An empty text selects all.
    """
    wanted = network_of(text)
    # "2001:0DB8:0001" is the beginning of 2001:db8:1::/64.
    lowered = re.sub(r"\b0+(?=[0-9a-f])", "", text.casefold()) if ":" in text else text.casefold()
    for seen in clients:
        if wanted is None:
            words = (seen.client.key, printable(seen.name), seen.tier, "override" if seen.client.overridden else "")
            if any(lowered in word.casefold() for word in words):
                yield seen
        elif wanted.overlaps(ipaddress.ip_network(seen.client.key)):
            yield seen


async def parts(clients: Sequence[T]) -> AsyncIterator[Sequence[T]]:
    """The clients in parts whose counters are read together; the daemon decides requests between one and the next."""
    for start in range(0, len(clients), AT_ONCE):
        yield clients[start : start + AT_ONCE]
        await asyncio.sleep(0)


def top_clients(clients: Sequence[SeenClient], most: int) -> list[SeenClient]:
    """The clients with the highest counts, and those that are nearest to their limits; at most `most` of each kind."""
    busiest = heapq.nlargest(most, clients, key=lambda seen: seen.count)
    nearest = heapq.nlargest(most, clients, key=lambda seen: seen.count / max(seen.limit, 0.5))
    return list(dict.fromkeys(busiest + nearest))


class SeenClients:
    """Remembers each client's last counted message and how often it was above its limit in the counters' window."""

    def __init__(self, window: Window, now: Callable[[], float]) -> None:
        self.window = window
        self.now = now  # the time by which the counters number their buckets
        self._clients: BoundedCache[str, SeenClient] = BoundedCache(MAX_CLIENTS)

    def decided(self, decisions: Sequence[Decision]) -> None:
        known = self._clients.young.get
        view = None
        for request, client, reason, _action, count, tier, limit, _reputation, time in decisions:
            if count and client is not None:
                seen = known(client.key) or self._enter(client)
                seen.count, seen.tier, seen.limit, seen.time = count, tier, limit, time
                seen.name = request.after(b"\nclient_name=")[:LONGEST_NAME]
                if reason is Reason.OVER_LIMIT:
                    view = view or self.window.view(self.now())
                    _defer(seen, view)

    def _enter(self, client: Client) -> SeenClient:
        seen = self._clients.get(client.key)
        if seen is None:
            seen = SeenClient(client, limit=client.limit.messages if client.limit else UNLIMITED)
            self._clients.put(client.key, seen)
        return seen

    def counted_by_hand(self, client: Client, count: int, time: float) -> None:
        """Remember a client for which an administrator counted messages: it has `count` in the window now."""
        seen = self._enter(client)
        seen.count, seen.time = count, time

    def find(self, key: str) -> SeenClient | None:
        return self._clients.get(key)

    def deferred(self, seen: SeenClient) -> tuple[int, bool]:
        """Messages of the client above its limit in this window, and whether some were in its two newest buckets."""
        view = self.window.view(self.now())
        latest = (view.current, *view.open, *view.closed[:1])
        return view.total(seen.deferred), any(index in seen.deferred for index in latest)

    def recent(self, since: float) -> list[SeenClient]:
        """Each client that was seen since that time (seconds since the epoch)."""
        return [seen for _, seen in self._clients.items() if seen.time > since]

    def forget(self, client: str) -> None:
        self._clients.pop(client)


def _defer(seen: SeenClient, view: View) -> None:
    """Count a message above the limit, and forget those that are out of view."""
    if view.current in seen.deferred:
        seen.deferred[view.current] += 1
    else:
        in_view = {*view.open, *view.closed}
        seen.deferred = {index: count for index, count in seen.deferred.items() if index in in_view}
        seen.deferred[view.current] = 1


@dataclass(frozen=True, slots=True)
class ClientAdmin:
    """Answers questions about single clients, and changes their counters."""

    engine: Engine  # has the policy and the counters, which a reload replaces
    source: ScoreSource
    seen: SeenClients
    clock: Clock
    shared: bool  # whether other daemons use the same counters

    def client(self, address: Address) -> Client:
        return self.engine.policy.directory.client(address)

    def client_named(self, text: str) -> Client:
        """The client that is counted under this address, or under exactly this network; ValueError has the reason."""
        return self.client(self._address(text))

    async def clients_in(self, text: str) -> list[Client]:
        """The client of that name, or those in this network that are counted; ValueError: none, and why.

        Of a network wider than 256 IPv4 addresses only those are found that this daemon has seen.
        """
        try:
            return [self.client_named(text)]
        except ValueError:
            network = network_of(text)
            if network is None:
                raise
        if network.version == 4 and network.prefixlen >= 24:
            clients = [self.client(address) for address in network]
        else:
            # In a thread: thousands of clients take longer to compare than a request may wait for its decision.
            clients = await asyncio.to_thread(lambda: [each.client for each in matching(self.seen.recent(0), text)])
        found = []
        async for part in parts(clients):
            usages = await self.engine.store.read([client.key for client in part])
            found += [client for client, usage in zip(part, usages, strict=True) if usage.count]
        if not found:
            raise ValueError(f"no client in {text} is counted now")
        return found

    def ruled_network(self, client: Client) -> Network | None:
        """The network of [exempt], or of the [[override]], that applies to the client, if there is one."""
        return self.engine.policy.directory.ruled_network(self._address(client.key))

    def _address(self, text: str) -> Address:
        """An address of the client of that name."""
        address = parse_address(text)
        if address is not None:
            return address
        if not _NETWORK.fullmatch(text):
            raise ValueError(f"{text[:100]!r} is not an IP address")
        network = ipaddress.ip_network(text)
        # A longer network with a rule of its own may hold the first or the last address, hardly both.
        for end in (network[0], network[-1]):
            address = parse_address(str(end))
            if address and (network.num_addresses == 1 or self.client(address).key == str(network)):
                return address
        raise ValueError(f"{network} is not counted as one client; name an address, or a network as `top` shows it")

    async def rows(self, clients: Sequence[Client]) -> list[Row]:
        """The row of each client, without a lookup."""
        rows: list[Row] = []
        async for part in parts(clients):
            usages = await self.engine.store.read([client.key for client in part])
            rows += [self._row(client, usage) for client, usage in zip(part, usages, strict=True)]
        return rows

    def _row(self, client: Client, usage: Usage) -> Row:
        seen, known = self.seen.find(client.key) or SeenClient(client), self.score_at_hand(client)
        reputation = known.reputation if known else None
        deferred, deferring = self.seen.deferred(seen)
        status = status_of(self.engine.policy, client, reputation, usage.count, deferred, deferring=deferring)
        limit, now, opens_at = status.limit.messages, self.seen.now(), None
        if limit != UNLIMITED and status.reputation_name != "not-asked":
            opens_at = self.seen.window.opens_at(usage.buckets, limit, now)
        name = "" if seen.name == b"unknown" else printable(seen.name)[:LONGEST_TEXT]
        return Row(status, None if opens_at is None else opens_at - now, name, seen.time)

    def score_at_hand(self, client: Client | None) -> CachedScore | None:
        return self.source.peek(client.address) if client and client.address else None

    async def score(self, client: Client) -> dict[str, Any]:
        """The client's score, looked up if it is not at hand; the object of `score --json`."""
        policy = self.engine.policy
        if client.overridden or client.exempt or client.address is None:
            source = "override" if client.overridden else "none"
            return status_of(policy, client, None).score_as_json(source, 0)
        now = self.clock.time()
        known = self.source.known(client.address)
        if known is not None and known.fresh_until > now:
            return status_of(policy, client, known.reputation).score_as_json("cache", now - known.fetched_at)
        reputation = await self.source.lookup(client.address, patient=True)
        known = self.source.known(client.address)
        source, fetched_at = (known.source, known.fetched_at) if known else ("dns", now)
        return status_of(policy, client, reputation).score_as_json(source, now - fetched_at)

    async def increment(self, client: Client, by: int) -> None:
        """Count `by` messages for the client, which is then among those that are shown."""
        charge = Charge(client.key, by)
        await self.engine.store.charge([charge], [])
        if not client.exempt:
            self.seen.counted_by_hand(client, charge.count, self.clock.time())

    async def reset(self, clients: Sequence[Client]) -> str:
        """Forget the clients' messages and deferrals; return what the administrator should know about it."""
        missed: dict[str, None] = {}  # each server once
        async for part in parts(clients):
            missed |= dict.fromkeys(await self.engine.store.reset([client.key for client in part]))
            for client in part:
                self.seen.forget(client.key)
        note = "other daemons on the same memcached follow within 60 s" if self.shared else ""
        return f"{note}; not reached: {', '.join(missed)}" if missed else note
