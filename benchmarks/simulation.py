"""The daemon's engine and counters under simulated traffic, compared with an exact log of times."""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from senderscore_policy.config.load import parse
from senderscore_policy.config.model import policy_of
from senderscore_policy.counters.memory import MemoryStore
from senderscore_policy.policy.decision import Decision
from senderscore_policy.policy.engine import Engine
from senderscore_policy.policy.ports import ReputationSource
from senderscore_policy.policy.protocol import Request
from senderscore_policy.policy.reputation import CachedScore, Reputation, Scored
from senderscore_policy.policy.window import Window

CLIENT: Final = "192.0.2.75"
_CONFIG: Final = """
[counters]
algorithm = "{algorithm}"
buckets = {buckets}
[[tier]]
scores = "0-100"
limit = {limit}
"""


@dataclass(frozen=True)
class Outcome:
    """What became of a client's messages.

    Args:
        limit: per hour.
        window: as configured.
        accepted: the times of the messages that passed.
        sent: how many there were.
        exact: how many of them an exact log would have let through.
        errors: of each message, the count that it was decided by less the true one: the messages
            accepted in the hour before it and itself.
    """

    limit: int
    window: Window
    accepted: Sequence[float]
    sent: int
    exact: int
    errors: Sequence[int]

    @property
    def mean_error(self) -> float:
        """The mean error of the count without its sign, as a share of the limit."""
        return sum(map(abs, self.errors)) / len(self.errors) / self.limit

    @property
    def span(self) -> float:
        """Seconds within which never more than the limit passes."""
        return self.window.seconds - (self.window.bucket_seconds if self.window.buckets > 1 else 0)

    def most_within(self, seconds: float) -> int:
        """The largest number of messages accepted within any `seconds`."""
        times = self.accepted
        return max((bisect_left(times, first + seconds) - at for at, first in enumerate(times)), default=0)

    def most_in_a_clock_hour(self) -> int:
        """Messages accepted from one full hour to the next, at most."""
        hours: dict[int, int] = {}
        for time in self.accepted:
            hours[int(time // 3600)] = hours.get(int(time // 3600), 0) + 1
        return max(hours.values(), default=0)

    def recent(self, time: float) -> int:
        """Messages accepted in the hour before this time."""
        return bisect_right(self.accepted, time) - bisect_right(self.accepted, time - self.window.seconds)


class _Clock:
    now = 0.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class _Source:
    """Everybody has the same score."""

    def known(self, _address: str) -> CachedScore:
        return CachedScore(Scored(75), 0.0, 1e12, "dns")

    def start(self, address: str) -> None: ...

    async def lookup(self, _address: str) -> Reputation:
        return Scored(75)


class _Message:
    """A message that is asked about again and again (`requests.PendingRequest`)."""

    def __init__(self) -> None:
        self.request = Request(f"\nrequest=smtpd_access_policy\nclient_address={CLIENT}\n".encode())
        self.passed = False

    def answer(self, action: str) -> None:
        self.passed = action == "DUNNO"

    def fail(self, error: Exception) -> None:
        raise error


class _Counts:
    """The count that the last message was decided by (`ports.Observer`)."""

    last = 0

    def decided(self, decisions: Sequence[Decision]) -> None:
        self.last = decisions[-1].count


def simulate(algorithm: str, buckets: int, limit: int, times: Iterable[float]) -> Outcome:
    """Send messages at these times through an engine with counters in memory, empty at the beginning.

    Args:
        algorithm: of the window, "sliding" or "fixed".
        buckets: of a sliding one.
        limit: of the client, per hour.
        times: in order, seconds since the epoch.
    """
    config = parse(_CONFIG.format(algorithm=algorithm, buckets=buckets, limit=limit), "simulation")
    window = config.counters.window_of_time()
    clock, counts, message = _Clock(), _Counts(), _Message()
    source: ReputationSource = _Source()
    engine = Engine(policy_of(config), MemoryStore(window, clock), source, clock, [counts])
    # From now on `run` returns when it has nothing left to decide.
    engine.stop()
    accepted: list[float] = []
    errors: list[int] = []
    exact: deque[float] = deque()
    exactly = first = 0
    for now in times:
        clock.now = now
        engine.submit(message)
        _finish(engine.run())
        while first < len(accepted) and accepted[first] <= now - window.seconds:
            first += 1
        errors.append(counts.last - (len(accepted) - first + 1))
        if message.passed:
            accepted.append(now)
        while exact and exact[0] <= now - window.seconds:
            exact.popleft()
        if len(exact) < limit:
            exact.append(now)
            exactly += 1
    return Outcome(limit, window, accepted, len(errors), exactly, errors)


def _finish(work: Coroutine[None, None, None]) -> None:
    """Run what waits for nothing outside, without an event loop."""
    try:
        while True:
            work.send(None)
    except StopIteration:
        return
