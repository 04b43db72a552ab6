"""The daemon's engine, driven by messages of the past."""

from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from types import TracebackType
from typing import Final, Literal

from senderscore_policy.counters.memory import MemoryStore
from senderscore_policy.policy.decision import Decision, Reason
from senderscore_policy.policy.engine import Engine
from senderscore_policy.policy.ports import ReputationSource
from senderscore_policy.policy.protocol import Request
from senderscore_policy.policy.rules import Rules
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


class Question:
    """A message for which nobody waits (`message.Question`); it may be asked any number of times.

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

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        """What goes wrong ends the replay."""
        return False


def replay(rules: Rules, window: Window, source: ReputationSource, messages: Iterable[tuple[int, Question]]) -> Ledger:
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
