"""Messages out of Postfix's log: those for which Postfix asks a policy server at end of data.

The lines are those of Postfix 3.4 to 3.12 (msg_info and msg_warn calls in smtpd.c, cleanup_message.c,
cleanup_milter.c, cleanup_map11.c and qmgr_message.c):

    smtpd    ABC: client=mx.example.net[192.0.2.75]           the client of queue ID ABC
    cleanup  ABC: message-id=<…>                              its content arrives
    qmgr     ABC: from=<…>, size=…, nrcpt=1 (queue active)    an end: the message was taken
    cleanup  ABC: milter-reject: END-OF-MESSAGE from …        an end: a filter, a map or the hop count stopped it
    smtpd    ABC: reject: END-OF-MESSAGE from … <END-OF-MESSAGE>: …    an end: a policy or a restriction rejected it
    smtpd    NOQUEUE: client=…, then proxy-accept: …          the same in front of a smtpd_proxy_filter

A message is a client and an end, in whatever order their lines come. Its time is that of its message-id, since
qmgr may be late by hours when its queue is full.
"""

import re
import time
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import chain, islice
from operator import gt
from typing import Final

from senderscore_policy.errors import InputError
from senderscore_policy.maillog.files import Advance, chunks_of, title, written_at
from senderscore_policy.maillog.lines import Coverage, Line, LineReader
from senderscore_policy.maillog.timestamps import OTHER_ZONE, OUT_OF_ORDER, Timestamps
from senderscore_policy.policy.bounded import BoundedCache
from senderscore_policy.policy.protocol import printable

MAX_OPEN: Final = 100_000
"""Queue IDs that are remembered at most. Most that never become a message are rejected or lost connections."""
MAX_SENDERS: Final = 10_000
"""Processes, each with a client, whose latest message is remembered."""
SAME_MESSAGE: Final = 2.0
"""Seconds within which the same queue ID and client are the same message, as logs show fractions or not."""
_YEAR_2001: Final = 978_307_200.0
"""A file that was written before has no usable time: archives set such times."""

_SMTPD: Final = re.compile(
    rb"(\w+): (?:client=(.*?)\[([\dA-Fa-f.:]+)\](.*)|reject: END-OF-MESSAGE from .*? <(END-OF-MESSAGE)>: "
    rb"|(milter-)?(hold|discard): \S+ from .*?\[([\dA-Fa-f.:]+)\])"
    rb"|proxy-(accept|reject): END-OF-MESSAGE: (.*)"
)
_AUTHENTICATED: Final = re.compile(rb", sasl_username=[^,]")
_TAKEN: Final = re.compile(rb"(\w+): from=<.*, nrcpt=(\d{1,9}) \(queue active\)")
# What header_checks, body_checks, milters, maps and limits do to a message that has come to its end.
_CLEANUP: Final = re.compile(
    rb"(\w+): (?:(?:resent-)?(message-id)=|(?:milter-(?:\w+-)?)?(?:reject|discard|hold): )"
    rb"|warning: (\w+): (?:message rejected: hopcount|.* -- message not accepted)"
)


class End(IntEnum):
    """What the log says about the end of a message."""

    TAKEN = 0
    FILTERED = 1
    """Rejected, discarded or held after its end, by a milter, a proxy filter, header_checks, a map or a limit."""
    REFUSED = 2
    """Rejected at its end, by this policy or another restriction."""


@dataclass(frozen=True, slots=True)
class LoggedClient:
    """A client in the log; `name` is its host's, printable: whatever its owner put into DNS."""

    address: str
    authenticated: bool
    name: str


@dataclass(slots=True)
class Traffic:
    """The messages of the logs in the order of time, as columns: 25 bytes for each."""

    times: "array[float]" = field(default_factory=lambda: array("d"))  # seconds since the epoch
    senders: "array[int]" = field(default_factory=lambda: array("I"))  # numbers of their clients in `who`
    recipients: "array[int]" = field(default_factory=lambda: array("I"))
    ends: "array[int]" = field(default_factory=lambda: array("B"))  # an `End` each
    identities: "array[int]" = field(default_factory=lambda: array("q"))  # hashes of queue ID and client
    who: list[LoggedClient] = field(default_factory=list)
    coverage: Coverage = field(default_factory=Coverage)

    def settle(self) -> None:
        """Put the messages into the order of time, each once."""
        order: Sequence[int] = range(len(self.times))
        if any(map(gt, self.times, islice(self.times, 1, None))):
            order = sorted(order, key=self.times.__getitem__)
        seen: BoundedCache[int, float] = BoundedCache(MAX_OPEN)
        once = array("L")
        for index in order:
            at, identity = self.times[index], self.identities[index]
            before = seen.get(identity)
            if before is None or at - before > SAME_MESSAGE:
                once.append(index)
                seen.put(identity, at)
        repeated = self.coverage.repeated = len(order) - len(once)
        self.coverage.begun -= repeated
        self.coverage.ended -= repeated
        if repeated or isinstance(order, list):
            for name in ("times", "senders", "recipients", "ends", "identities"):
                column = getattr(self, name)
                setattr(self, name, array(column.typecode, map(column.__getitem__, once)))


@dataclass(slots=True)
class _Open:
    """What is known of a message so far."""

    client: tuple[bytes, bytes, bool] | None = None
    began: float = 0.0
    asked: float | None = None
    ended: float | None = None
    recipients: int = 1
    end: End = End.TAKEN
    held: bool = False
    identity: bytes = b""


class _Reader:
    """Takes the lines of one log after the other."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self.coverage = self.traffic.coverage
        self._numbers: dict[tuple[bytes, bool], int] = {}
        self._open: BoundedCache[bytes, _Open] = BoundedCache(MAX_OPEN)
        self._latest: BoundedCache[bytes, bytes] = BoundedCache(MAX_SENDERS)
        self._stopped: BoundedCache[bytes, bool] = BoundedCache(MAX_SENDERS)

    def take(self, line: Line) -> None:
        at, program, origin, tag, text = line
        if program == b"smtpd":
            if found := _SMTPD.match(text):
                self._smtpd(at, origin + tag, found)
        elif program == b"cleanup":
            if found := _CLEANUP.match(text):
                queue_id, message_id, rejected = found.groups()
                if message_id:
                    known = self._entry(queue_id)
                    known.asked = at
                    self._finish(queue_id, known)
                else:
                    self._ended(queue_id or rejected, at, End.FILTERED)
        elif found := _TAKEN.match(text):
            self._ended(found[1], at, End.TAKEN, max(1, int(found[2])))

    def _smtpd(self, at: float, process: bytes, found: re.Match[bytes]) -> None:
        queue_id, name, address, rest, refused, milter, stopped, by, verdict, answer = found.groups()
        # A message in front of a proxy filter has no queue ID; a process has one message at a time.
        key = process if queue_id in {None, b"NOQUEUE"} else queue_id
        if verdict:
            end = End.TAKEN if verdict == b"accept" else End.FILTERED
            self._ended(key, at, end, identity=b"%d %b" % (at, answer))
        elif refused:
            self._ended(key, at, End.REFUSED)
        elif address:
            authenticated = bool(rest) and _AUTHENTICATED.search(rest) is not None
            self._began(key, at, (address, name, authenticated), process)
        else:
            held = bool(milter) or stopped == b"hold"
            self._stop(None if queue_id == b"NOQUEUE" else queue_id, at, process + by, held=held)

    def _stop(self, key: bytes | None, at: float, sender: bytes, *, held: bool) -> None:
        """An access table or a milter holds or discards a message: without a queue ID the next one of the client.

        Postfix does not ask about a message that an access table discards.
        """
        named, key = key is not None, key or self._latest.get(sender)
        known = self._open.get(key) if key else None
        if key is None or known is None or known.client is None or (known.began < at and not named):
            self._stopped.put(sender, held)
        elif held:
            known.held = True
            self._finish(key, known)
        else:
            self._open.pop(key)
            self.coverage.begun -= 1

    def _began(self, key: bytes, at: float, client: tuple[bytes, bytes, bool], process: bytes) -> None:
        sender = process + client[0]
        held = self._stopped.get(sender)
        if held is not None:
            self._stopped.pop(sender)
        if held is False:
            return
        self._latest.put(sender, key)
        known = self._entry(key)
        if known.client == client and known.began == at:
            return
        end = known.asked if known.ended is None else known.ended
        # Without a queue ID an end that came before is another message's, unless the log is newest first.
        tolerance = 0.0 if key == process else OUT_OF_ORDER
        if known.client is not None or (end is not None and end < at - tolerance):
            known = self._entry(key, new=True)
        self.coverage.begun += 1
        known.client, known.began, known.held = client, at, known.held or held is True
        self._finish(key, known)

    def _entry(self, key: bytes, *, new: bool = False) -> _Open:
        known = None if new else self._open.get(key)
        if known is None:
            known = _Open()
            self._open.put(key, known)
        return known

    def _ended(self, key: bytes, at: float, end: End, recipients: int = 1, identity: bytes = b"") -> None:
        known = self._entry(key)
        if at < known.began - OUT_OF_ORDER:
            known = self._entry(key, new=True)
        known.ended, known.end, known.recipients, known.identity = at, end, recipients, identity
        self._finish(key, known)

    def _finish(self, key: bytes, known: _Open) -> None:
        """Make a message of what has a client and an end."""
        if known.held and known.ended is None:
            known.ended, known.end = known.asked, End.FILTERED
        if known.client is None or known.ended is None:
            return
        self._open.pop(key)
        self.coverage.ended += 1
        traffic = self.traffic
        address, name, authenticated = known.client
        number = self._numbers.setdefault((address, authenticated), len(traffic.who))
        if number == len(traffic.who):
            traffic.who.append(LoggedClient(printable(address), authenticated, printable(name)))
        traffic.times.append(known.ended if known.asked is None or known.end is End.REFUSED else known.asked)
        traffic.senders.append(number)
        traffic.recipients.append(known.recipients)
        traffic.ends.append(known.end)
        traffic.identities.append(hash((known.identity or key) + address))


def read_logs(names: Sequence[str], advance: Advance) -> Traffic:
    """The messages in these logs, the oldest log first: a message may begin in one and end in the next.

    Raises:
        InputError: a log cannot be read, or none has a line of Postfix.
        PermissionError: a file is not accessible.
    """
    return read_chunks((title(name), written_at(name), chunks_of(name, advance)) for name in names)


def read_chunks(logs: Iterable[tuple[str, float, Iterable[bytes]]]) -> Traffic:
    """The messages in logs, each given as its title, when it was written last, and pieces that end with a line."""
    reader = _Reader()
    coverage = reader.coverage
    for name, written, chunks in logs:
        understood, lines = coverage.postfix, coverage.lines
        latest = (min(time.time(), written) if written > _YEAR_2001 else time.time()) + OTHER_ZONE
        stamps = Timestamps(latest, reader.traffic.times)
        line_reader = LineReader(stamps, coverage)
        for chunk in chain(chunks, [b""]):
            for line in line_reader.read(chunk):
                reader.take(line)
        stamps.end()
        if coverage.postfix == understood and coverage.lines > lines:
            coverage.without_postfix[name] = line_reader.first
    if coverage.without_postfix and not coverage.postfix:
        name, first = next(iter(coverage.without_postfix.items()))
        why = ", ".join(coverage.unread) or "no line of Postfix's smtpd, cleanup or qmgr"
        raise InputError(
            f"{name}: {why}; the first line is {printable((coverage.example or first)[:200])!r}. Postfix's lines carry "
            "a time and a tag such as postfix/smtpd[123]: before their text; forecast reads them in syslog files, "
            "journalctl's output (short forms with a date, json), container logs and JSON lines"
        )
    reader.traffic.settle()
    return reader.traffic
