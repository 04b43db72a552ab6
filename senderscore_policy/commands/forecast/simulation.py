"""What the limits would have done to the mail of the past."""

from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any, Final

from senderscore_policy.commands.forecast.scores import ASSUMED, Scores
from senderscore_policy.config.model import Config, policy_of
from senderscore_policy.maillog.messages import End, LoggedClient, Traffic
from senderscore_policy.maillog.timestamps import as_text
from senderscore_policy.policy.clients import Client, Network, parse_address
from senderscore_policy.policy.policy import within
from senderscore_policy.policy.reputation import UNKNOWN, CachedScore, Reputation, Scored
from senderscore_policy.policy.status import NEAR, limit_as_json
from senderscore_policy.policy.tiers import UNLIMITED, Limit
from senderscore_policy.policy.verdict import verdict
from senderscore_policy.policy.window import Window

HOUR: Final = 3600
"""Seconds of a step in the charts."""
DAY: Final = 86400
_NOT_COUNTED: Final = -1


class WindowCounts:
    """Counts of clients in a window that moves with the log, as the daemon's counters have them."""

    def __init__(self, window: Window) -> None:
        self._length = window.bucket_seconds
        self._buckets = window.buckets
        self._newest: deque[tuple[int, Counter[int]]] = deque()
        self._sums: Counter[int] = Counter()

    def add(self, client: int, amount: int, now: int) -> int:
        """Count a message; all of the client's in the window, this one included."""
        index = int(now // self._length)
        if not self._newest or self._newest[-1][0] != index:
            self._newest.append((index, Counter()))
            while self._newest[0][0] <= index - self._buckets:
                self._sums -= self._newest.popleft()[1]
        self._newest[-1][1][client] += amount
        self._sums[client] += amount
        return self._sums[client]

    def take_back(self, client: int, amount: int) -> None:
        """Take back what was counted last: a deferred message does not count."""
        self._newest[-1][1][client] -= amount
        self._sums[client] -= amount


@dataclass(slots=True)
class Tally:
    """The messages of a client, and those that would have been deferred.

    Args:
        span: when messages were deferred first and last, in seconds since the epoch; empty: never.
        ends: deferred messages by what the log says became of them.
        hourly, hourly_deferred: all messages and deferred ones, by the start of their hour.
    """

    span: tuple[float, ...] = ()
    ends: Counter[int] = field(default_factory=Counter)
    hourly: Counter[int] = field(default_factory=Counter)
    hourly_deferred: Counter[int] = field(default_factory=Counter)

    def defer(self, at: int, end: int) -> None:
        self.span = (*self.span[:1], at) if self.span else (at, at)
        self.ends[end] += 1
        self.hourly_deferred[at // HOUR * HOUR] += 1


_NOTHING: Final = Tally()


@dataclass(frozen=True, slots=True)
class ClientForecast:
    """A client, its limit, and what it would have met.

    Args:
        name: its host's, as logged: whatever its owner put into DNS.
        origin: of the reputation: "known", "assumed", "file" or "override".
        peak: the most in a window, if no message were deferred.
        at_worst: for a client whose score decides: messages deferred under the smallest limit.
    """

    client: Client
    name: str
    reputation: Reputation
    origin: str
    limit: Limit
    messages: int
    peak: int
    tally: Tally
    at_worst: int

    @property
    def key(self) -> str:
        return self.client.key

    @property
    def score(self) -> int | None:
        return self.reputation.score if isinstance(self.reputation, Scored) else None

    @property
    def deferred(self) -> int:
        return self.tally.ends.total()

    @property
    def near(self) -> bool:
        """Whether it came near its limit and stayed within."""
        return not self.deferred and self.limit.messages != UNLIMITED and self.peak >= NEAR * self.limit.messages

    def as_json(self) -> dict[str, Any]:
        """The object of `forecast --json`, and the line of `--csv`."""
        first, last = map(as_text, self.tally.span) if self.tally.span else (None, None)
        return {
            "client": self.key,
            "host": self.name,
            "score": self.score,
            "origin": self.origin,
            "tier": self.limit.name,
            "limit": limit_as_json(self.limit.messages),
            "messages": self.messages,
            "peak": self.peak,
            "deferred": self.deferred,
            "late": self.tally.ends[End.TAKEN],
            "first_deferred": first,
            "last_deferred": last,
            "hours_deferred": len(self.tally.hourly_deferred),
        }


@dataclass(frozen=True, slots=True)
class Forecast:
    """What would have happened under one configuration.

    Args:
        clients: those that sent messages that count, the most deferred first.
        deciding: those whose score is assumed and decides, the largest peak first.
        least: messages deferred if the deciding clients have the scores with the largest limit.
        worst_ends: as `ends`, if they have the scores with the smallest limit.
        uncounted: messages of exempt and authenticated clients, and of those without an address.
        hourly, hourly_deferred: messages that count and deferred ones, by the start of their hour.
        ends: deferred messages by what the log says became of them.
        queries: score queries that the daemon would have sent, by day.
    """

    config: Config
    clients: list[ClientForecast]
    deciding: list[ClientForecast]
    least: int
    worst_ends: Counter[int]
    uncounted: int
    hourly: Counter[int]
    ends: Counter[int]
    hourly_deferred: Counter[int]
    queries: Counter[int]

    @property
    def messages(self) -> int:
        return self.hourly.total()

    @property
    def deferred(self) -> int:
        return self.ends.total()

    @property
    def most(self) -> int:
        """Messages deferred if the deciding clients have the scores with the smallest limit."""
        return self.worst_ends.total()


def _total(counts: Iterable[Counter[int]]) -> Counter[int]:
    total: Counter[int] = Counter()
    for each in counts:
        total.update(each)
    return total


class Case:
    """A configuration applied to the traffic, without the networks that Postfix permits before it asks."""

    def __init__(self, config: Config, traffic: Traffic, not_asked: Sequence[Network] = ()) -> None:
        self._config = config
        self._traffic = traffic
        exempt = replace(config.exempt, networks=(*config.exempt.networks, *not_asked))
        self._policy = policy_of(replace(config, exempt=exempt))
        self._window = config.counters.window_of_time()
        self._clients: list[Client] = []
        self._names: list[str] = []
        self._index = array("l", self._indices(traffic.who))
        self._messages = messages = array("L", [0] * len(self._clients))
        self._peaks = peaks = array("L", [0] * len(self._clients))
        self._hourly: Counter[int] = Counter()
        counts = WindowCounts(self._window)
        for at, index, amount, _ in self._charges():
            messages[index] += 1
            self._hourly[at // HOUR * HOUR] += 1
            peaks[index] = max(peaks[index], counts.add(index, amount, at))

    def _indices(self, who: Iterable[LoggedClient]) -> Iterator[int]:
        """The client behind each address; -1: the policy does not count it."""
        found: dict[str, int] = {}
        for logged in who:
            address = parse_address(logged.address)
            client = None if address is None else self._policy.directory.client(address)
            if client is None or client.exempt or (logged.authenticated and self._policy.exempt_authenticated):
                yield _NOT_COUNTED
                continue
            index = found.setdefault(client.key, len(self._clients))
            if index == len(self._clients):
                self._clients.append(client)
                self._names.append(logged.name)
            yield index

    def _charges(self) -> Iterator[tuple[int, int, int, int]]:
        """Time in whole seconds, client, charged amount and end of each counted message."""
        traffic = self._traffic
        amounts = traffic.recipients if self._policy.count_recipients else repeat(1)
        for at, sender, amount, end in zip(traffic.times, traffic.senders, amounts, traffic.ends, strict=False):
            client = self._index[sender]
            if client != _NOT_COUNTED:
                yield int(at), client, amount, end

    def addresses(self) -> Iterator[str]:
        """IPv4 addresses of all clients whose limit depends on their score."""
        return (client.address for client in self._clients if client.address and not client.overridden)

    def undecided(self) -> list[str]:
        """Those whose peak is above the smallest limit: their score decides."""
        return [self._clients[index].address or "" for index in self._depending(self._policy.tiers.not_asked.messages)]

    def _depending(self, count: float) -> list[int]:
        return [
            index
            for index, client in enumerate(self._clients)
            if client.address and not client.overridden and self._peaks[index] > count
        ]

    def forecast(self, scores: Scores) -> Forecast:
        tiers = self._policy.tiers
        known = [self._reputation(client, scores) for client in self._clients]
        limits = [self._policy.limit_for(client, pair[0]) for client, pair in zip(self._clients, known, strict=True)]
        # No other client reaches its limit, nor is its score asked.
        replayed = {index for index, limit in enumerate(limits) if self._peaks[index] > limit.messages}
        replayed.update(self._depending(self._policy.ask_from - 1))
        queries: Counter[int] = Counter()
        tallies = self._replay(replayed, lambda index: known[index][0], queries)
        deciding = {index for index in self._depending(tiers.not_asked.messages) if known[index][1] == ASSUMED}
        possible: list[Reputation] = [*map(Scored, range(101)), UNKNOWN]
        possible.sort(key=lambda each: tiers.limit_for(each).messages)
        worst, best = self._replay(deciding, lambda _: possible[0]), self._replay(deciding, lambda _: possible[-1])
        clients = {
            index: ClientForecast(
                client, self._names[index], *known[index], limits[index], self._messages[index], self._peaks[index],
                tally=tallies.get(index, _NOTHING), at_worst=worst.get(index, _NOTHING).ends.total(),
            )
            for index, client in enumerate(self._clients)
            if self._messages[index]
        }  # fmt: skip
        certain = _total(tally.ends for index, tally in tallies.items() if index not in deciding)
        return Forecast(
            config=self._config,
            clients=sorted(clients.values(), key=lambda each: (-each.deferred, -each.messages, each.key)),
            deciding=sorted((clients[index] for index in deciding), key=lambda each: (-each.peak, each.key)),
            least=certain.total() + _total(tally.ends for tally in best.values()).total(),
            worst_ends=certain + _total(tally.ends for tally in worst.values()),
            uncounted=len(self._traffic.times) - self._hourly.total(),
            hourly=self._hourly,
            ends=_total(tally.ends for tally in tallies.values()),
            hourly_deferred=_total(tally.hourly_deferred for tally in tallies.values()),
            queries=queries,
        )

    def _reputation(self, client: Client, scores: Scores) -> tuple[Reputation, str]:
        if client.overridden:
            return client.reputation or UNKNOWN, "override"
        if client.reputation is not None or client.address is None:
            return client.reputation or UNKNOWN, "known"
        return scores.find(client.address)

    def _replay(
        self, clients: set[int], reputation: Callable[[int], Reputation], queries: Counter[int] | None = None
    ) -> dict[int, Tally]:
        """Decide every message that these clients sent, with empty counters at the beginning."""
        counts, tallies = WindowCounts(self._window), dict[int, Tally]()
        cached: dict[int, CachedScore] = {}
        settings = self._config.reputation
        for at, index, amount, end in self._charges() if clients else ():
            if index not in clients:
                continue
            client = self._clients[index]
            count = counts.add(index, amount, at)
            decided = verdict(self._policy, client, cached.get(index), count, amount, now=at)
            if decided.wait or decided.refresh:
                found = reputation(index)
                ttl = settings.scored_ttl if isinstance(found, Scored) else settings.unknown_ttl
                cached[index] = CachedScore(found, at, at + ttl, "dns")
                decided = verdict(self._policy, client, cached[index], count, amount, now=at)
                if queries is not None:
                    queries[at // DAY] += 1
            tally = tallies.setdefault(index, Tally())
            tally.hourly[at // HOUR * HOUR] += 1
            if not within(decided.limit.messages, count, amount):
                counts.take_back(index, amount)
                tally.defer(at, end)
        return tallies
