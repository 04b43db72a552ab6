"""What the limits would have done to the mail of the past."""

from collections import Counter, deque
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final

from senderscore_policy.commands.forecast.scores import Scores
from senderscore_policy.config.model import Config, policy_of
from senderscore_policy.counters.memory import MemoryStore
from senderscore_policy.maillog.messages import LoggedClient, Traffic
from senderscore_policy.maillog.timestamps import as_text
from senderscore_policy.policy.clients import Client, parse_address
from senderscore_policy.policy.decision import Decision, Reason
from senderscore_policy.policy.engine import Engine
from senderscore_policy.policy.policy import Policy
from senderscore_policy.policy.ports import ReputationSource
from senderscore_policy.policy.protocol import Request
from senderscore_policy.policy.status import ClientStatus, limit_as_json, status_of
from senderscore_policy.policy.window import Window

HOUR: Final = 3600
"""Seconds of a step in the charts."""


class Ledger:
    """Keeps what was deferred (`ports.Observer`).

    Attributes:
        deferred: messages by client.
        first: when that began, seconds since the epoch.
        hourly: the deferred messages by client and hour (its beginning, seconds since the epoch).
    """

    def __init__(self) -> None:
        self.deferred: Counter[str] = Counter()
        self.first: dict[str, float] = {}
        self.hourly: Counter[tuple[str, int]] = Counter()

    def decided(self, decisions: Sequence[Decision]) -> None:
        """See `ports.Observer.decided`."""
        for decision in decisions:
            if decision.reason is Reason.OVER_LIMIT and decision.client is not None:
                key = decision.client.key
                self.deferred[key] += 1
                self.first.setdefault(key, decision.time)
                self.hourly[key, int(decision.time) // HOUR * HOUR] += 1


class _Clock:
    """Stands where the log is (`ports.Clock`)."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        """Seconds since the epoch."""
        return self.now

    def monotonic(self) -> float:
        """The same: the log never goes back."""
        return self.now


class LoggedRequest:
    """A message for which nobody waits (`requests.PendingRequest`); it may be asked any number of times.

    Args:
        address: of the client.
        recipients: how many the message has.
        authenticated: whether the client has logged in.
    """

    def __init__(self, address: str, recipients: int, *, authenticated: bool) -> None:
        user = "-" if authenticated else ""
        attributes = f"client_address={address}\nrecipient_count={recipients}\nsasl_username={user}\n"
        self.request = Request(f"\nrequest=smtpd_access_policy\nprotocol_state=END-OF-MESSAGE\n{attributes}".encode())

    def answer(self, action: str) -> None:
        """Nobody waits for it."""

    def fail(self, error: Exception) -> None:
        """End the replay."""
        raise error


def replay(
    rules: Policy, window: Window, source: ReputationSource, messages: Iterable[tuple[int, LoggedRequest]]
) -> Ledger:
    """Let the engine decide messages, with empty counters at the beginning.

    Those of one second are one batch, as if they had arrived together. Syslog tells no more than the
    second anyway. Within a batch the order is kept, and only what is given back (the places of
    messages above the limit) comes a batch late, as it does in the daemon.

    Args:
        rules: the policy.
        window: of the counters.
        source: the reputations; it must know every one at once.
        messages: in the order of time, with their times in whole seconds since the epoch.
    """
    clock, ledger = _Clock(), Ledger()
    engine = Engine(rules, MemoryStore(window, clock), source, clock, [ledger])
    # From now on `run` returns when it has nothing left to decide.
    engine.stop()
    for time, question in messages:
        if time != clock.now:
            _run_to_its_end(engine.run())
            clock.now = time
        engine.submit(question)
    _run_to_its_end(engine.run())
    return ledger


def _run_to_its_end(work: Coroutine[None, None, None]) -> None:
    """Run what never has to wait for anything outside, step by step: an event loop takes several times as long.

    Raises:
        RuntimeError: it does wait.
    """
    try:
        while work.send(None) is None:
            pass
    except StopIteration:
        return
    work.close()
    raise RuntimeError("the replay waits for something that never comes")


@dataclass(frozen=True, slots=True)
class ClientForecast:
    """What a client would have met.

    Args:
        standing: its score, tier and limit.
        name: of its host, as logged: anything that its owner could put into DNS.
        messages: all that it sent.
        deferred: those of them that would have been deferred.
        first_deferred: when that began, seconds since the epoch; None: never.
    """

    standing: ClientStatus
    name: str
    messages: int
    deferred: int
    first_deferred: float | None

    @property
    def key(self) -> str:
        """What the client is counted under."""
        return self.standing.client.key

    def as_json(self) -> dict[str, Any]:
        """The object of `forecast --json`."""
        first = self.first_deferred
        return {
            "client": self.key,
            "score": self.standing.score,
            "tier": self.standing.limit.name,
            "limit": limit_as_json(self.standing.limit.messages),
            "messages": self.messages,
            "deferred": self.deferred,
            "first_deferred": None if first is None else as_text(first),
        }


@dataclass(frozen=True, slots=True)
class Forecast:
    """What would have happened under one configuration.

    Args:
        config: that one.
        clients: who sent messages that the policy counts, the most deferred first.
        tried: how many of them were run through the engine; no other could reach its limit.
        uncounted: messages of exempt and authenticated clients, and of those without an address.
        hourly: the counted messages by client and hour (its beginning, seconds since the epoch), of
            clients of which some would have been deferred.
        hourly_total: those of all clients by hour.
        hourly_deferred: messages that would have been deferred, by client and hour.
    """

    config: Config
    clients: list[ClientForecast]
    tried: int
    uncounted: int
    hourly: Counter[tuple[str, int]]
    hourly_total: Counter[int]
    hourly_deferred: Counter[tuple[str, int]]

    @property
    def messages(self) -> int:
        """All messages that the policy counts."""
        return self.hourly_total.total()

    @property
    def deferred(self) -> int:
        """Those of them that would have been deferred."""
        return self.hourly_deferred.total()

    def as_json(self) -> dict[str, Any]:
        """The object of `forecast --json`."""
        clients = [client.as_json() for client in self.clients]
        return {"messages": self.messages, "deferred": self.deferred, "clients": clients}


class Case:
    """A configuration put to the traffic.

    Args:
        config: the configuration.
        traffic: in the order of time.
    """

    def __init__(self, config: Config, traffic: Traffic) -> None:
        self._config = config
        self._traffic = traffic
        self._rules = policy_of(config)
        self._window = config.counters.window_of_time()
        self._clients = [self._counted(sender) for sender in traffic.who]
        self._peaks = self._find_peaks()

    def _counted(self, sender: LoggedClient) -> Client | None:
        """The client behind a sender; None: the policy does not count it."""
        address = parse_address(sender.address)
        if address is None or (sender.authenticated and self._rules.exempt_authenticated):
            return None
        client = self._rules.directory.client(address)
        return None if client.exempt else client

    def _charges(self) -> Iterator[tuple[int, int, int]]:
        """Time in whole seconds, number of the sender and charged amount of each message."""
        traffic = self._traffic
        amounts = traffic.recipients if self._rules.count_recipients else repeat(1)
        return zip(map(int, traffic.times), traffic.senders, amounts, strict=False)

    def _find_peaks(self) -> dict[str, int]:
        """The most that clients were charged within the length of a window and a bucket.

        No counter ever shows more than that, so a client whose peak is within its limit is never
        deferred. Clients that stay within the smallest limit all the time are left out.
        """
        smallest = self._rules.tiers.not_asked.messages
        totals: Counter[str] = Counter()
        for _, number, amount in self._charges():
            client = self._clients[number]
            if client is not None:
                totals[client.key] += amount
        large = {
            number: client.key
            for number, client in enumerate(self._clients)
            if client is not None and totals[client.key] > (client.limit.messages if client.limit else smallest)
        }
        span = self._window.seconds + self._window.bucket_seconds
        recent: dict[str, deque[tuple[int, int]]] = {key: deque() for key in large.values()}
        sums: Counter[str] = Counter()
        peaks: dict[str, int] = dict.fromkeys(recent, 0)
        for time, number, amount in self._charges():
            if number in large:
                key = large[number]
                charges = recent[key]
                charges.append((time, amount))
                sums[key] += amount
                while charges[0][0] < time - span:
                    sums[key] -= charges.popleft()[1]
                peaks[key] = max(peaks[key], sums[key])
        return peaks

    def addresses(self) -> list[str]:
        """IPv4 addresses of all clients whose limit depends on their score."""
        return [client.address for client in self._clients if client and client.address and not client.overridden]

    def undecided(self) -> list[str]:
        """Those of them that reached the smallest limit."""
        smallest = self._rules.tiers.not_asked.messages
        return [
            client.address
            for client in self._clients
            if client and client.address and not client.overridden and self._peaks.get(client.key, 0) > smallest
        ]

    def forecast(self, scores: Scores) -> Forecast:
        """Decide every message by these scores."""
        standings = {client.key: self._standing(client, scores) for client in self._clients if client is not None}
        tried = {key for key, peak in self._peaks.items() if peak > standings[key].limit.messages}
        ledger = replay(self._rules, self._window, scores, self._questions(tried))
        messages: Counter[str] = Counter()
        hourly: Counter[tuple[str, int]] = Counter()
        total: Counter[int] = Counter()
        for time, number in zip(self._traffic.times, self._traffic.senders, strict=True):
            client = self._clients[number]
            if client is not None:
                hour = int(time) // HOUR * HOUR
                messages[client.key] += 1
                total[hour] += 1
                if client.key in ledger.first:
                    hourly[client.key, hour] += 1
        names = {
            client.key: sender.name
            for client, sender in zip(self._clients, self._traffic.who, strict=True)
            if client is not None
        }
        clients = [
            ClientForecast(standings[key], names[key], count, ledger.deferred[key], ledger.first.get(key))
            for key, count in messages.items()
        ]
        return Forecast(
            config=self._config,
            clients=sorted(clients, key=lambda each: (-each.deferred, -each.messages, each.key)),
            tried=len(tried),
            uncounted=len(self._traffic.times) - total.total(),
            hourly=hourly,
            hourly_total=total,
            hourly_deferred=ledger.hourly,
        )

    def _standing(self, client: Client, scores: Scores) -> ClientStatus:
        reputation = scores.known(client.address).reputation if client.address else None
        return status_of(self._rules, client, reputation)

    def _questions(self, keys: set[str]) -> Iterator[tuple[int, LoggedRequest]]:
        """The messages of these clients, with their times."""
        asked: dict[tuple[int, int], LoggedRequest] = {}
        for time, number, amount in self._charges():
            client = self._clients[number]
            if client is not None and client.key in keys:
                question = asked.get((number, amount))
                if question is None:
                    sender = self._traffic.who[number]
                    question = LoggedRequest(sender.address, amount, authenticated=sender.authenticated)
                    asked[number, amount] = question
                yield time, question
