"""What the limits would have done to the mail of the past."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any, Final

from senderscore_policy.commands.forecast.scores import ASSUMED, KNOWN, Scores
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


@dataclass(slots=True)
class Tally:
    """The messages of a client, and those that would have been deferred."""

    span: tuple[float, ...] = ()  # when messages were deferred first and last, in seconds since the epoch; empty: never
    ends: Counter[int] = field(default_factory=Counter)  # deferred messages by what the log says became of them
    hourly: Counter[int] = field(default_factory=Counter)  # all messages, by the start of their hour
    hourly_deferred: Counter[int] = field(default_factory=Counter)
    queries: Counter[int] = field(default_factory=Counter)  # score queries that the daemon would have sent, by day


_NOTHING: Final = Tally()


@dataclass(slots=True, eq=False)
class ClientForecast:
    """A client, what it sent, and what it would have met, which `Case.forecast` sets."""

    client: Client
    name: str  # its host's, as logged: whatever its owner put into DNS
    messages: int = 0
    peak: int = 0  # the most in a window, if no message were deferred
    reputation: Reputation = UNKNOWN
    origin: str = KNOWN  # of the reputation: "known", "assumed", "file" or "override"
    limit: Limit = field(init=False)
    tally: Tally = field(init=False)  # with this reputation
    best: Tally = field(init=False)  # if the score is assumed and decides, with that of the largest limit
    worst: Tally = field(init=False)  # the same with the smallest limit

    @property
    def key(self) -> str:
        return self.client.key

    @property
    def address(self) -> str:
        """The IPv4 address whose score decides the limit; empty: no score does."""
        return "" if self.client.overridden else self.client.address or ""

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
            "client": self.key, "host": self.name, "score": self.score, "origin": self.origin,
            "tier": self.limit.name, "limit": limit_as_json(self.limit.messages),
            "messages": self.messages, "peak": self.peak, "deferred": self.deferred, "late": self.tally.ends[End.TAKEN],
            "first_deferred": first, "last_deferred": last, "hours_deferred": len(self.tally.hourly_deferred),
        }  # fmt: skip


class WindowCounts:
    """Counts of clients in a window that moves with the log, as the daemon's counters have them."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._newest: deque[tuple[int, Counter[ClientForecast]]] = deque()
        self._sums: Counter[ClientForecast] = Counter()

    def add(self, client: ClientForecast, amount: int, now: int) -> int:
        """Count a message; all of the client's in the window, this one included. A negative amount takes it back."""
        index = int(now // self._window.bucket_seconds)
        if not self._newest or self._newest[-1][0] != index:
            self._newest.append((index, Counter()))
            while self._newest[0][0] <= index - self._window.buckets:
                self._sums -= self._newest.popleft()[1]
        self._newest[-1][1][client] += amount
        self._sums[client] += amount
        return self._sums[client]


class Forecast:
    """What would have happened under one configuration.

    Attributes:
        clients: those that sent messages that count, the most deferred first.
        deciding: those whose score is assumed and decides, the largest peak first.
        hourly, hourly_deferred: messages that count and deferred ones, by the start of their hour.
        ends: deferred messages by what the log says became of them.
        least: messages deferred if the deciding clients have the scores with the largest limit.
        most, worst_ends: the same, and as `ends`, if they have the scores with the smallest limit.
        queries: score queries that the daemon would have sent, by day.
    """

    def __init__(
        self, config: Config, clients: list[ClientForecast], deciding: list[ClientForecast], hourly: Counter[int]
    ) -> None:
        self.config = config
        self.clients = sorted(clients, key=lambda each: (-each.deferred, -each.messages, each.key))
        self.deciding = sorted(deciding, key=lambda each: (-each.peak, each.key))
        self.hourly = hourly
        replayed = [each for each in clients if each.tally is not _NOTHING]
        self.ends = _total(each.tally.ends for each in replayed)
        self.hourly_deferred = _total(each.tally.hourly_deferred for each in replayed)
        self.queries = _total(each.tally.queries for each in replayed)
        self.worst_ends = _total(each.worst.ends for each in replayed)
        self.least = sum(each.best.ends.total() for each in replayed)
        self.messages, self.deferred, self.most = hourly.total(), self.ends.total(), self.worst_ends.total()


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
        self._clients: dict[str, ClientForecast] = {}
        self._senders = list(map(self._client, traffic.who))
        self._hourly: Counter[int] = Counter()
        counts = WindowCounts(config.counters.window_of_time())
        for at, client, amount, _ in self._charges():
            client.messages += 1
            client.peak = max(client.peak, counts.add(client, amount, at))
            self._hourly[at // HOUR * HOUR] += 1

    def _client(self, logged: LoggedClient) -> ClientForecast | None:
        """The client behind an address; None: the policy does not count it."""
        address = parse_address(logged.address)
        client = None if address is None else self._policy.directory.client(address)
        if client is None or client.exempt or (logged.authenticated and self._policy.exempt_authenticated):
            return None
        return self._clients.setdefault(client.key, ClientForecast(client, logged.name))

    def _charges(self) -> Iterator[tuple[int, ClientForecast, int, int]]:
        """Time in whole seconds, client, charged amount and end of each counted message."""
        traffic = self._traffic
        amounts = traffic.recipients if self._policy.count_recipients else repeat(1)
        for at, sender, amount, end in zip(traffic.times, traffic.senders, amounts, traffic.ends, strict=False):
            client = self._senders[sender]
            if client is not None:
                yield int(at), client, amount, end

    def undecided(self) -> list[ClientForecast]:
        """The clients whose peak is above the smallest limit: their score decides."""
        smallest = self._policy.tiers.not_asked.messages
        return [each for each in self._clients.values() if each.address and each.peak > smallest]

    def forecast(self, scores: Scores) -> Forecast:
        tiers = self._policy.tiers
        clients = [each for each in self._clients.values() if each.messages]
        for each in clients:
            client = each.client
            each.reputation, each.origin = client.reputation or UNKNOWN, "override" if client.overridden else KNOWN
            if each.address:
                each.reputation, each.origin = scores.find(each.address)
            each.limit = self._policy.limit_for(client, each.reputation)
            each.tally = each.best = each.worst = _NOTHING
        # No other client reaches its limit, nor is its score asked.
        asked = [each for each in clients if each.address and each.peak >= self._policy.ask_from]
        limited = [each for each in clients if each.peak > each.limit.messages]
        for each, tally in self._replay([*asked, *limited]).items():
            each.tally = each.best = each.worst = tally
        deciding = [each for each in self.undecided() if each.origin == ASSUMED]
        possible: list[Reputation] = [*map(Scored, range(101)), UNKNOWN]
        possible.sort(key=lambda each: tiers.limit_for(each).messages)
        for each, tally in self._replay(deciding, possible[0]).items():
            each.worst = tally
        for each, tally in self._replay(deciding, possible[-1]).items():
            each.best = tally
        return Forecast(self._config, clients, deciding, self._hourly)

    def _replay(
        self, clients: Iterable[ClientForecast], reputation: Reputation | None = None
    ) -> dict[ClientForecast, Tally]:
        """Decide every message that these clients sent, with empty counters at the beginning.

        `reputation` takes the place of what is known of each client.
        """
        counts = WindowCounts(self._config.counters.window_of_time())
        tallies = {each: Tally() for each in clients}
        cached: dict[ClientForecast, CachedScore] = {}
        settings = self._config.reputation
        for at, each, amount, end in self._charges() if tallies else ():
            tally = tallies.get(each)
            if tally is None:
                continue
            count = counts.add(each, amount, at)
            decided = verdict(self._policy, each.client, cached.get(each), count, amount, now=at)
            if decided.wait or decided.refresh:
                found = reputation or each.reputation
                ttl = settings.scored_ttl if isinstance(found, Scored) else settings.unknown_ttl
                cached[each] = CachedScore(found, at, at + ttl, "dns")
                decided = verdict(self._policy, each.client, cached[each], count, amount, now=at)
                tally.queries[at // DAY] += 1
            hour = at // HOUR * HOUR
            tally.hourly[hour] += 1
            if not within(decided.limit.messages, count, amount):
                counts.add(each, -amount, at)
                tally.span = (*(tally.span[:1] or (at,)), at)
                tally.ends[end] += 1
                tally.hourly_deferred[hour] += 1
        return tallies
