"""Messages out of Postfix's log: which client sent one, when, and to how many recipients.

The lines are those of Postfix 3.4 to 3.12 (msg_info calls in smtpd.c, cleanup_message.c,
cleanup_milter.c and qmgr_message.c):

    smtpd    ABC: client=mx.example.net[192.0.2.75]           the client of queue ID ABC
    qmgr     ABC: from=<…>, size=…, nrcpt=1 (queue active)    the message was taken
    cleanup  ABC: milter-reject: END-OF-MESSAGE from …        it was not, but only after its end
    smtpd    NOQUEUE: client=…, then proxy-accept: …          the same in front of a smtpd_proxy_filter

A message is decided when the first of the last three is logged. That is at most some milliseconds
after its end of data, the moment at which Postfix asks the policy server.
"""

import re
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import gt
from typing import Final

from senderscore_policy.errors import InputError
from senderscore_policy.maillog.files import STDIN, Advance, chunks_of
from senderscore_policy.maillog.formats import Count, Record, Service, form_of
from senderscore_policy.maillog.timestamps import ABSOLUTE, Stamps
from senderscore_policy.policy.bounded import BoundedCache

MAX_OPEN: Final = 200_000
"""Queue IDs whose client is remembered at most. Most that never become a message are rejected or lost connections."""

# The client of a message, a message that is refused at its end, or a proxy filter's word on one.
_SMTPD: Final = re.compile(
    rb"(\w+): (?:client=(.*?)\[([\dA-Fa-f.:]+)\](.*)|(?:milter-)?reject: END-OF-MESSAGE )"
    rb"|proxy-(?:accept|reject): END-OF-MESSAGE: "
)
_AUTHENTICATED: Final = re.compile(rb", sasl_username=[^,]")
_TAKEN: Final = re.compile(rb"(\w+): from=<.*, nrcpt=(\d{1,9}) \(queue active\)")
# What header_checks, body_checks and milters do to a message, which by then has come to its end.
_VERDICT: Final = re.compile(rb"(\w+): (?:milter-(?:\w+-)?)?(?:reject|discard|hold): ")


@dataclass(slots=True)
class LoggedClient:
    """Somebody who sent messages.

    Args:
        address: an IP address, as logged.
        authenticated: logged in with a user name.
        name: of the host, as the log has it: anything that its owner could put into DNS; printable.
    """

    address: str
    authenticated: bool
    name: str


@dataclass(slots=True)
class Traffic:
    """The messages of the logs in the order of time, as columns: 16 bytes for each.

    Args:
        times: of their end, seconds since the epoch.
        senders: numbers of their senders.
        recipients: how many each had.
        who: the senders by number.
        count: of the lines read.
        refused: messages that a restriction rejected at their end, as this policy does. They are not
            among the messages.
    """

    times: "array[float]" = field(default_factory=lambda: array("d"))
    senders: "array[int]" = field(default_factory=lambda: array("I"))
    recipients: "array[int]" = field(default_factory=lambda: array("I"))
    who: list[LoggedClient] = field(default_factory=list)
    count: Count = field(default_factory=Count)
    refused: int = 0

    def sort(self) -> None:
        """Put the messages into the order of time."""
        if any(map(gt, self.times, islice(self.times, 1, None))):
            order = sorted(range(len(self.times)), key=self.times.__getitem__)
            self.times = array("d", map(self.times.__getitem__, order))
            self.senders = array("I", map(self.senders.__getitem__, order))
            self.recipients = array("I", map(self.recipients.__getitem__, order))


class _Reader:
    """Takes the records of one file after the other."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self._numbers: dict[tuple[bytes, bool], int] = {}
        self._open: BoundedCache[bytes, int] = BoundedCache(MAX_OPEN)
        self.begin()

    def begin(self) -> None:
        """Begin a file."""
        self._hours = array("i")
        self._stamps = Stamps()
        self._stamp: bytes | float = 0.0
        self._time: tuple[int, float] | None = None

    def end(self, now: float) -> None:
        """End a file: settle the times of its messages."""
        starts = self._stamps.hours(now)
        times = self.traffic.times
        for index, hour in enumerate(self._hours, len(times) - len(self._hours)):
            if hour != ABSOLUTE:
                times[index] += starts[hour]

    def take(self, record: Record) -> None:
        """Take the next line."""
        stamp, service, process, text = record
        if stamp != self._stamp:
            self._go_to(stamp)
        if service is Service.QMGR:
            if taken := _TAKEN.match(text):
                self._message(taken[1], max(1, int(taken[2])))
        elif service is Service.CLEANUP:
            if verdict := _VERDICT.match(text):
                self._message(verdict[1], 1)
        elif found := _SMTPD.match(text):
            queue_id, name, address, rest = found.groups()
            # In front of a proxy filter there is no queue ID; a process has one message at a time.
            key = process if queue_id == b"NOQUEUE" else queue_id
            if queue_id is None:
                self._message(process, 1)
            elif address is None:
                self.traffic.refused += 1
                self._open.pop(key)
            else:
                self._open.put(key, self._sender(name, address, rest))

    def _go_to(self, stamp: bytes | float) -> None:
        self._stamp = stamp
        try:
            self._time = self._stamps.read(stamp) if isinstance(stamp, bytes) else (ABSOLUTE, stamp)
        except ValueError:
            self._time = None
            self.traffic.count.alien += 1

    def _message(self, key: bytes, recipients: int) -> None:
        """A message has come to its end, unless it is not from smtpd or has done so before."""
        sender = self._open.get(key)
        if sender is None:
            return
        self._open.pop(key)
        if self._time is not None:
            hour, seconds = self._time
            self._hours.append(hour)
            self.traffic.times.append(seconds)
            self.traffic.senders.append(sender)
            self.traffic.recipients.append(recipients)

    def _sender(self, name: bytes, address: bytes, rest: bytes) -> int:
        """The number of the sender in a line of smtpd."""
        key = (address, bool(rest) and _AUTHENTICATED.search(rest) is not None)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.traffic.who)
            self.traffic.who.append(LoggedClient(_as_text(address), key[1], _as_text(name)))
        return number


def _as_text(part: bytes) -> str:
    """A part of a line, fit for a terminal: what cannot be printed is escaped."""
    text = part.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def read_logs(names: Sequence[str], advance: Advance) -> Traffic:
    """The messages in these logs.

    Args:
        names: files in the order of their age, as far as it is known; "-" for standard input.
        advance: told of the bytes read.

    Raises:
        InputError: a file cannot be read, or is no log; or there is no line of Postfix in any.
        PermissionError: a file must not be read.
    """
    reader = _Reader()
    count = reader.traffic.count
    for name in names:
        before = count.lines - count.alien
        form = None
        reader.begin()
        for chunk in chunks_of(name, advance):
            form = form or form_of(chunk)
            for record in form.records(chunk, count):
                reader.take(record)
        reader.end(time.time())
        if form is not None and count.lines - count.alien == before:
            raise InputError(f"{'standard input' if name == STDIN else name}: is no mail log")
    if not count.postfix and count.lines:
        raise InputError(f"{', '.join(names)}: no line of Postfix's smtpd, cleanup or qmgr")
    reader.traffic.sort()
    return reader.traffic
