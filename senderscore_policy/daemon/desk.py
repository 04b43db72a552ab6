"""Answers an administrator's questions to the running daemon, and does what the administrator asks for."""

from collections.abc import Callable, Sequence
from typing import Any

from senderscore_policy.daemon.clients import SeenClients
from senderscore_policy.policy.address import Address, Client
from senderscore_policy.policy.engine import Engine
from senderscore_policy.policy.ports import Charge, Clock, Usage
from senderscore_policy.policy.standing import Standing, standing
from senderscore_policy.reputation.source import ScoreSource


class Desk:
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
        return self._engine.rules.directory.client(address)

    async def standings(self, clients: Sequence[Client]) -> list[Standing]:
        """How these clients stand; no score is asked for."""
        return [stands for stands, _ in await self.usages(clients)]

    async def usages(self, clients: Sequence[Client]) -> list[tuple[Standing, Usage]]:
        """How these clients stand, and what their counters were read as."""
        usages = await self._engine.store.read([client.key for client in clients])
        result = []
        for client, usage in zip(clients, usages, strict=True):
            known = self._source.peek(client.address) if client.address else None
            reputation = known.reputation if known else None
            deferred, deferring = self._seen.deferred(client.key), self._seen.deferring(client.key)
            stands = standing(self._engine.rules, client, reputation, usage.messages, deferred, deferring=deferring)
            result.append((stands, usage))
        return result

    async def score(self, client: Client) -> dict[str, Any]:
        """The client's score, looked up if it is not at hand; the object of `score --json`."""
        rules = self._engine.rules
        if client.overridden or client.exempt or client.address is None:
            source = "override" if client.overridden else "none"
            return standing(rules, client, None).score_as_json(source, 0)
        now = self._clock.time()
        known = self._source.known(client.address)
        if known is not None and known.fresh_until > now:
            return standing(rules, client, known.reputation).score_as_json("cache", now - known.fetched_at)
        reputation = await self._source.lookup(client.address)
        known = self._source.known(client.address)
        source, fetched_at = (known.source, known.fetched_at) if known else ("dns", now)
        return standing(rules, client, reputation).score_as_json(source, now - fetched_at)

    async def increment(self, client: Client, by: int) -> None:
        """Count `by` messages for the client, which is then among those that are shown."""
        charge = Charge(client.key, by)
        await self._engine.store.charge([charge], [])
        if not client.exempt:
            self._seen.counted_by_hand(client, charge.messages, self._clock.time())

    async def reset(self, client: Client) -> None:
        """Forget the client's messages and deferrals."""
        await self._engine.store.reset([client.key])
        self._seen.forget(client.key)
