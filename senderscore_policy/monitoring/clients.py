"""The clients seen last, for the status page, `top` and `get`."""

import heapq
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from senderscore_policy.policy.bounded import BoundedCache
from senderscore_policy.policy.clients import Address, Client, Network, parse_address
from senderscore_policy.policy.decision import Decision, Reason
from senderscore_policy.policy.engine import Engine
from senderscore_policy.policy.policy import Policy
from senderscore_policy.policy.ports import Charge, Clock, Usage
from senderscore_policy.policy.protocol import printable
from senderscore_policy.policy.reputation import CachedScore
from senderscore_policy.policy.status import ClientStatus, status_of
from senderscore_policy.policy.tiers import UNLIMITED
from senderscore_policy.policy.window import View, Window
from senderscore_policy.reputation.source import ScoreSource

MAX_CLIENTS: Final = 20_000
"""Clients remembered; those that have sent nothing for longest are forgotten first."""
LONGEST_NAME: Final = 255
"""Bytes of a host name (RFC 1035, 2.3.4)."""
_NETWORK: Final = re.compile(r"[0-9A-Fa-f:.]{2,45}/[0-9]{1,3}")


class SeenClient:
    """A client and the facts of its last counted message; the next one overwrites them."""

    __slots__ = ("client", "count", "deferred", "limit", "name", "tier", "time")

    def __init__(self, client: Client) -> None:
        self.client = client
        self.count = 0  # messages in the window
        self.limit: float = UNLIMITED if client.limit is None else client.limit.messages
        self.tier = ""  # the name of that limit
        self.time = 0.0  # of the message, in seconds since the epoch; 0: it has not sent any
        self.name = b""  # as Postfix knows the host, "unknown" if it does not
        self.deferred: dict[int, int] = {}  # messages above the limit, by bucket


def network_of(text: str) -> Network | None:
    """The network, or the single address, that a text names; None if it is neither."""
    address = parse_address(text)
    if address is not None:
        return ipaddress.ip_network(address)
    try:
        return ipaddress.ip_network(text, strict=False) if _NETWORK.fullmatch(text) else None
    except ValueError:
        return None


def matching(clients: Iterable[SeenClient], text: str) -> Iterator[SeenClient]:
    """The clients that a filter selects.

    A network selects the clients in it, another text those with the text in their address, host name or tier. An
    empty text selects all.
    """
    wanted = network_of(text)
    lowered = text.casefold()
    for seen in clients:
        if wanted is None:
            words = (seen.client.key, printable(seen.name), seen.tier, "override" if seen.client.overridden else "")
            if any(lowered in word.casefold() for word in words):
                yield seen
        elif (address := parse_address(seen.client.key.partition("/")[0])) and address in wanted:
            yield seen


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
            seen = SeenClient(client)
            self._clients.put(client.key, seen)
        return seen

    def counted_by_hand(self, client: Client, count: int, time: float) -> None:
        """Remember a client for which an administrator counted messages: it has `count` in the window now."""
        seen = self._enter(client)
        seen.count, seen.time = count, time

    def find(self, key: str) -> SeenClient | None:
        return self._clients.get(key)

    def deferred(self, client: str) -> int:
        """Messages of the client above its limit in this window, as this daemon has seen them."""
        seen = self._clients.get(client)
        return 0 if seen is None else self.window.view(self.now()).total(seen.deferred)

    def deferring(self, client: str) -> bool:
        """Whether messages of the client were above its limit in the running bucket or the one before it."""
        view = self.window.view(self.now())
        seen = self._clients.get(client)
        latest = (view.current, *view.open, *view.closed[:1])
        return seen is not None and any(index in seen.deferred for index in latest)

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

    @property
    def policy(self) -> Policy:
        return self.engine.policy

    def client(self, address: Address) -> Client:
        return self.policy.directory.client(address)

    def client_named(self, text: str) -> Client:
        """The client that is counted under this address, or under exactly this network; ValueError has the reason."""
        return self._named(text)[1]

    def ruled_network(self, client: Client) -> Network | None:
        """The network of [exempt], or of the [[override]], that applies to the client, if there is one."""
        return self.policy.directory.ruled_network(self._named(client.key)[0])

    def _named(self, text: str) -> tuple[Address, Client]:
        address = parse_address(text)
        if address is not None:
            return address, self.client(address)
        if not _NETWORK.fullmatch(text):
            raise ValueError(f"{text[:100]!r} is not an IP address")
        network = ipaddress.ip_network(text)
        # A longer network with a rule of its own may hold the first or the last address, hardly both.
        for end in (network[0], network[-1]):
            address = parse_address(str(end))
            client = None if address is None else self.client(address)
            if address and client and (network.num_addresses == 1 or client.key == str(network)):
                return address, client
        raise ValueError(f"{network} is not counted as one client; name an address, or a network as `top` shows it")

    async def statuses(self, clients: Sequence[Client]) -> list[tuple[ClientStatus, float | None]]:
        """The status of each client, without a lookup, and the seconds until one more message is within its limit.

        The seconds assume that the client sends nothing before. They are 0 if the message is within the limit
        now, and None if it never is, or if no limit holds for the client yet.
        """
        usages = await self.engine.store.read([client.key for client in clients])
        return [self._status(client, usage) for client, usage in zip(clients, usages, strict=True)]

    def _status(self, client: Client, usage: Usage) -> tuple[ClientStatus, float | None]:
        known = self.score_at_hand(client)
        deferred, deferring = self.seen.deferred(client.key), self.seen.deferring(client.key)
        reputation = known.reputation if known else None
        status = status_of(self.policy, client, reputation, usage.count, deferred, deferring=deferring)
        limit, opens_at = status.limit.messages, None
        now = self.seen.now()
        if limit != UNLIMITED and status.reputation_name != "not-asked":
            opens_at = self.seen.window.opens_at(usage.buckets, limit, now)
        return status, None if opens_at is None else opens_at - now

    def score_at_hand(self, client: Client) -> CachedScore | None:
        return self.source.peek(client.address) if client.address else None

    async def score(self, client: Client) -> dict[str, Any]:
        """The client's score, looked up if it is not at hand; the object of `score --json`."""
        policy = self.policy
        if client.overridden or client.exempt or client.address is None:
            source = "override" if client.overridden else "none"
            return status_of(policy, client, None).score_as_json(source, 0)
        now = self.clock.time()
        known = self.source.known(client.address)
        if known is not None and known.fresh_until > now:
            return status_of(policy, client, known.reputation).score_as_json("cache", now - known.fetched_at)
        reputation = await self.source.lookup(client.address)
        known = self.source.known(client.address)
        source, fetched_at = (known.source, known.fetched_at) if known else ("dns", now)
        return status_of(policy, client, reputation).score_as_json(source, now - fetched_at)

    async def increment(self, client: Client, by: int) -> None:
        """Count `by` messages for the client, which is then among those that are shown."""
        charge = Charge(client.key, by)
        await self.engine.store.charge([charge], [])
        if not client.exempt:
            self.seen.counted_by_hand(client, charge.count, self.clock.time())

    async def reset(self, client: Client) -> str:
        """Forget the client's messages and deferrals; return what the administrator should know about it."""
        missed = await self.engine.store.reset([client.key])
        self.seen.forget(client.key)
        note = "other daemons on the same memcached follow within 60 s" if self.shared else ""
        return f"{note}; not reached: {', '.join(missed)}" if missed else note
