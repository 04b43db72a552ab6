"""The clients seen last, for the status page, `top` and `get`."""

import heapq
import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from senderscore_policy.policy.bounded import BoundedCache
from senderscore_policy.policy.clients import Address, Client, parse_address
from senderscore_policy.policy.decision import Decision, Reason
from senderscore_policy.policy.engine import Engine
from senderscore_policy.policy.ports import Charge, Clock, Usage
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
    """A client and what is shown of its last counted message; the next one overwrites it.

    Attributes:
        client: who it is.
        messages: counted in the window.
        limit: that it was held to.
        time: of the message, in seconds since the epoch.
        name: its host name as Postfix knows it, "unknown" if it does not; empty if it sent nothing yet.
        deferred: its messages above the limit, by bucket.
    """

    __slots__ = ("client", "count", "deferred", "limit", "name", "time")

    def __init__(self, client: Client) -> None:
        self.client = client
        self.count = 0
        self.limit: float = UNLIMITED if client.limit is None else client.limit.messages
        self.time = 0.0
        self.name = b""
        self.deferred: dict[int, int] = {}


def top_clients(clients: Sequence[SeenClient], most: int) -> list[SeenClient]:
    """The clients to be shown: those with the highest counts, and those that are nearest to their limits.

    Args:
        clients: all of them.
        most: clients of either kind.
    """
    busiest = heapq.nlargest(most, clients, key=lambda seen: seen.count)
    nearest = heapq.nlargest(most, clients, key=lambda seen: seen.count / max(seen.limit, 0.5))
    return list(dict.fromkeys(busiest + nearest))


class SeenClients:
    """Remembers each client's last counted message and how often it was above its limit.

    Args:
        window: deferrals are told for the same window as messages.
        now: the time that the buckets of the counters are numbered by.
    """

    def __init__(self, window: Window, now: Callable[[], float]) -> None:
        self.window = window
        self._now = now
        self._clients: BoundedCache[str, SeenClient] = BoundedCache(MAX_CLIENTS)

    def decided(self, decisions: Sequence[Decision]) -> None:
        """Remember a batch (`ports.Observer`)."""
        known = self._clients.young.get
        view = None
        for request, client, reason, _action, messages, _tier, limit, _reputation, time in decisions:
            if messages and client is not None:
                seen = known(client.key) or self._enter(client)
                seen.count, seen.limit, seen.time = messages, limit, time
                seen.name = request.after(b"\nclient_name=")[:LONGEST_NAME]
                if reason is Reason.OVER_LIMIT:
                    view = view or self.window.view(self._now())
                    _defer(seen, view)

    def _enter(self, client: Client) -> SeenClient:
        seen = self._clients.get(client.key)
        if seen is None:
            seen = SeenClient(client)
            self._clients.put(client.key, seen)
        return seen

    def counted_by_hand(self, client: Client, messages: int, time: float) -> None:
        """Remember a client whose messages an administrator counted.

        Args:
            client: who.
            messages: counted in the window now.
            time: seconds since the epoch.
        """
        seen = self._enter(client)
        seen.count, seen.time = messages, time

    def deferred(self, client: str) -> int:
        """Messages of the client above its limit in this window, as this daemon has seen them."""
        seen = self._clients.get(client)
        return 0 if seen is None else self.window.view(self._now()).total(seen.deferred)

    def deferring(self, client: str) -> bool:
        """Whether messages of the client were above its limit in the running bucket or the one before it."""
        view = self.window.view(self._now())
        seen = self._clients.get(client)
        return seen is not None and any(
            index in seen.deferred for index in (view.current, *view.open, *view.closed[:1])
        )

    def recent(self, since: float) -> list[SeenClient]:
        """Each client that was seen since that time (seconds since the epoch)."""
        return [seen for _, seen in self._clients.items() if seen.time > since]

    def forget(self, client: str) -> None:
        """The client's counters were reset."""
        self._clients.pop(client)


def _defer(seen: SeenClient, view: View) -> None:
    """Count a message above the limit, and forget those that are out of view."""
    if view.current in seen.deferred:
        seen.deferred[view.current] += 1
    else:
        in_view = {*view.open, *view.closed}
        seen.deferred = {index: count for index, count in seen.deferred.items() if index in in_view}
        seen.deferred[view.current] = 1


class ClientAdmin:
    """What the control socket and the status listener can be asked.

    Args:
        engine: for its rules and counters, which a reload replaces.
        source: the reputations.
        seen: the clients seen last.
        clock: tells a score's age.
        health: the text of /healthz.
        shared: whether other daemons count on the same counters.
    """

    def __init__(
        self,
        engine: Engine,
        source: ScoreSource,
        seen: SeenClients,
        clock: Clock,
        health: Callable[[], str],
        *,
        shared: bool,
    ) -> None:
        self._engine = engine
        self._source = source
        self._seen = seen
        self._clock = clock
        self.health = health
        self.reset_note = "other daemons on the same memcached follow within 60 s" if shared else ""

    def client(self, address: Address) -> Client:
        """The client behind an address, by the rules in force."""
        return self._engine.policy.directory.client(address)

    def client_named(self, text: str) -> Client:
        """The client that is counted under this address, or under exactly this network.

        Raises:
            ValueError: the text is neither, with the reason.
        """
        address = parse_address(text)
        if address is not None:
            return self.client(address)
        if not _NETWORK.fullmatch(text):
            raise ValueError(f"{text[:100]!r} is not an IP address")
        network = ipaddress.ip_network(text)
        # An override inside of the network may have its first or its last address, hardly both.
        for end in (network[0], network[-1]):
            address = parse_address(str(end))
            client = None if address is None else self.client(address)
            if client is not None and (network.num_addresses == 1 or client.key == str(network)):
                return client
        raise ValueError(f"{network} is not counted as one client; name an address, or a network as `top` shows it")

    async def standings(self, clients: Sequence[Client]) -> list[ClientStatus]:
        """How these clients stand; no score is asked for."""
        return [stands for stands, _ in await self.usages(clients)]

    async def usages(self, clients: Sequence[Client]) -> list[tuple[ClientStatus, Usage]]:
        """How these clients stand, and what their counters were read as."""
        usages = await self._engine.store.read([client.key for client in clients])
        result = []
        for client, usage in zip(clients, usages, strict=True):
            known = self._source.peek(client.address) if client.address else None
            reputation = known.reputation if known else None
            deferred, deferring = self._seen.deferred(client.key), self._seen.deferring(client.key)
            stands = status_of(self._engine.policy, client, reputation, usage.count, deferred, deferring=deferring)
            result.append((stands, usage))
        return result

    async def score(self, client: Client) -> dict[str, Any]:
        """The client's score, looked up if it is not at hand; the object of `score --json`."""
        rules = self._engine.policy
        if client.overridden or client.exempt or client.address is None:
            source = "override" if client.overridden else "none"
            return status_of(rules, client, None).score_as_json(source, 0)
        now = self._clock.time()
        known = self._source.known(client.address)
        if known is not None and known.fresh_until > now:
            return status_of(rules, client, known.reputation).score_as_json("cache", now - known.fetched_at)
        reputation = await self._source.lookup(client.address)
        known = self._source.known(client.address)
        source, fetched_at = (known.source, known.fetched_at) if known else ("dns", now)
        return status_of(rules, client, reputation).score_as_json(source, now - fetched_at)

    async def increment(self, client: Client, by: int) -> None:
        """Count `by` messages for the client, which is then among those that are shown."""
        charge = Charge(client.key, by)
        await self._engine.store.charge([charge], [])
        if not client.exempt:
            self._seen.counted_by_hand(client, charge.count, self._clock.time())

    async def reset(self, client: Client) -> None:
        """Forget the client's messages and deferrals."""
        await self._engine.store.reset([client.key])
        self._seen.forget(client.key)
