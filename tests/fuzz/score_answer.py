"""From a nameserver's answer, through dnspython, to a reputation."""

import asyncio
import selectors
from typing import Any
from unittest import mock

import dns.asyncbackend
import dns.exception
import dns.name

from senderscore_policy.config.endpoints import Inet
from senderscore_policy.config.model import ReputationSettings
from senderscore_policy.policy.reputation import Refused, Scored, Unavailable, Unknown
from senderscore_policy.reputation.guard import LookupResult
from senderscore_policy.reputation.resolver import ScoreResolver, reputation_of

SMALLER = ()
SAME_ID = 1
"""The answer has the id of the question."""
SAME_QUESTION = 2
"""The answer repeats the question; without it a fuzzer would hardly come past dnspython's check."""
_HEADER = 12
_QUESTION = len(dns.name.from_text("75.2.0.192.score.test").to_wire()) + 4
_SETTINGS = ReputationSettings(zone="score.test", nameservers=(Inet("192.0.2.53", 53),), deadline=0.1)


def check(data: bytes) -> None:
    """Whatever comes back is one of the four outcomes, and a score only if the answer has it, 127.0.4.0 to .100.

    Args:
        data: the first byte has `SAME_ID` and `SAME_QUESTION`; the rest is the message.
    """
    probe = _ask(data[:1], data[1:])
    outcome = probe.outcome
    assert isinstance(outcome, Scored | Unknown | Refused | Unavailable)
    if isinstance(outcome, Scored):
        assert 0 <= outcome.score <= 100
        assert bytes((127, 0, 4, outcome.score)) in data
    if isinstance(outcome, Refused):
        assert bytes((127, 255, 255)) in data
    if isinstance(outcome, Refused | Unavailable):
        # It is logged.
        assert outcome.detail.isprintable()
    if probe.addresses and isinstance(outcome, Scored | Refused):
        assert reputation_of(probe.addresses) == outcome


def _ask(flags: bytes, answer: bytes) -> LookupResult:
    nameserver = Nameserver(flags[0] if flags else 0, answer)
    with mock.patch.object(dns.asyncbackend, "get_backend", return_value=nameserver):
        return LOOP.run_until_complete(RESOLVER.query_raw("192.0.2.75"))


class Generous:
    """A budget without end."""

    def spend(self) -> bool:
        return True


class Nameserver(dns.asyncbackend.Backend):
    """Instead of dnspython's sockets: all it does is answer once for each socket.

    Args:
        flags: see `check`.
        answer: as it is sent.
    """

    def __init__(self, flags: int, answer: bytes) -> None:
        self._flags = flags
        self._answer = answer

    def name(self) -> str:
        return "asyncio"

    async def make_socket(self, _family: int, kind: int, *_: Any) -> "Wire":
        return Wire(self._flags, self._answer, stream=kind == 1)


class Wire(dns.asyncbackend.DatagramSocket, dns.asyncbackend.StreamSocket):
    """A socket, UDP or TCP, with one answer."""

    def __init__(self, flags: int, answer: bytes, *, stream: bool) -> None:
        self.family = 2
        self.type = 1 if stream else 2
        self._flags = flags
        self._answer = answer
        self._received = b""

    async def sendto(self, what: bytes, _destination: object, _timeout: object) -> int:
        self._received = self._reply(what)
        return len(what)

    async def recvfrom(self, size: int, _timeout: object) -> tuple[bytes, tuple[str, int]]:
        if not self._received:
            raise dns.exception.Timeout
        data, self._received = self._received[:size], b""
        return data, ("192.0.2.53", 53)

    async def sendall(self, what: bytes, _timeout: object) -> None:
        reply = self._reply(what[2:])
        self._received = len(reply).to_bytes(2, "big") + reply

    async def recv(self, size: int, _timeout: object) -> bytes:
        data, self._received = self._received[:size], self._received[size:]
        return data

    async def close(self) -> None:
        pass

    def _reply(self, question: bytes) -> bytes:
        reply = self._answer
        if self._flags & SAME_ID:
            reply = question[:2] + reply[2:]
        if self._flags & SAME_QUESTION:
            reply = reply[:_HEADER] + question[_HEADER : _HEADER + _QUESTION] + reply[_HEADER:]
        return reply


class _Skip(selectors.SelectSelector):
    """Waits for nothing: the time that it should wait is added to the loop's."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        self.now += timeout or 0.0
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    """An event loop in which pauses take no time."""

    def __init__(self) -> None:
        self._skip = _Skip()
        super().__init__(self._skip)

    def time(self) -> float:
        return self._skip.now


LOOP = _Loop()
RESOLVER = ScoreResolver(_SETTINGS, Generous(), patience=0.15)
"""Its patience is for two rounds of questions."""
