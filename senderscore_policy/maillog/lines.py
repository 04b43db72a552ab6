"""Lines of Postfix's smtpd, cleanup and qmgr out of a log in any form.

A line is recognised by its program's tag, `…/smtpd[123]: ` or RFC 5424's `…/smtpd 123 - - `, and by the timestamp
before it, whatever else the line carries: host, priority, level, container, file name. A JSON object is written out
as such a line first, whether it comes from the journal, a container, or a log daemon's template.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from senderscore_policy.maillog.timestamps import STAMP, Timestamps

MAX_REASONS: Final = 5
"""Reasons for unread lines that are counted apart."""
_TAG: Final = re.compile(
    rb"/(smtpd|cleanup|[no]?qmgr)((?:\[\d+\])?:| \S+ \S+ (?:-|\[[^\n\]]*\])(?: \xef\xbb\xbf)?) ?"
    # Solaris writes a message's number and priority before its text.
    rb"(?:\[ID \d+ [\w.]+\] )?(.*)"
)
_JSON: Final = re.compile(rb"^[^\n{]*(\{\s*\".*)$", re.MULTILINE)
_PROGRAMS: Final = re.compile(rb"smtpd|cleanup|qmgr")
_DECODER: Final = json.JSONDecoder()
_LINE_BREAK: Final = re.compile(rb"\n(?=[ \t]|\})")

_WANTED: Final = [
    names.split()
    for names in (
        "message msg log short_message line",
        "syslog_identifier program programname syslogtag app_name appname process ident",
        "pid syslog_pid procid",
        "hostname host",
        "realtime_timestamp time timestamp isodate timereported datetime date ts",
    )
]
"""Names of fields in JSON, without leading signs and in lower case; the first one that an object has counts."""

Line = tuple[float, bytes, bytes, bytes, bytes]
"""A line of one of the programs; a plain tuple, as there are very many.

Seconds since the epoch; smtpd, cleanup or qmgr (also nqmgr and oqmgr); host and instance, and the process number,
which together name a process; what the program wrote.
"""


@dataclass(slots=True)
class Coverage:
    """How much of the logs was understood."""

    lines: int = 0  # of all programs
    postfix: int = 0  # lines of smtpd, cleanup and qmgr with a time
    unread: Counter[str] = field(default_factory=Counter)  # unreadable lines of Postfix, by reason
    example: bytes = b""  # the first unreadable line
    without_postfix: dict[str, bytes] = field(default_factory=dict)  # logs without a line of Postfix: their first line
    begun: int = 0  # messages that a client began
    ended: int = 0  # those whose end is in the logs
    repeated: int = 0  # messages whose lines occurred more than once

    def as_json(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in ("lines", "postfix", "unread", "begun", "repeated")}
        return values | {"without_end": self.begun - self.ended, "without_postfix": list(self.without_postfix)}

    def unread_line(self, reason: str, line: bytes) -> None:
        if reason not in self.unread and len(self.unread) >= MAX_REASONS:
            reason = "other reasons"
        self.unread[reason] += 1
        self.example = self.example or line


class LineReader:
    """Finds the lines of one log, and keeps `coverage` up to date."""

    def __init__(self, stamps: Timestamps, coverage: Coverage) -> None:
        self._stamps = stamps
        self._coverage = coverage
        self._before = self._minute_head = self._tail = b""
        self._length = 0
        self._minute = self._time = 0.0
        self._origin: bytes | None = None
        self._rest = b""
        self.first = b""

    def read(self, chunk: bytes) -> Iterator[Line]:
        """The lines in a piece of the log, which ends with a line."""
        coverage = self._coverage
        coverage.lines += chunk.count(b"\n")
        self.first = self.first or next((line for line in chunk[:10_000].splitlines() if line.strip(b"\0 \t")), b"")
        if b'{"' in chunk or self.first == b"{":
            chunk = self._without_json(chunk)
        for found in _TAG.finditer(chunk):
            start = found.start()
            before = chunk[chunk.rfind(b"\n", 0, start) + 1 : start]
            if before != self._before:
                head, tail = self._minute_head, self._tail
                # Lines of the same minute differ in their seconds.
                if len(before) == self._length and before.startswith(head) and before.endswith(tail):
                    try:
                        self._time = self._minute + float(before[len(head) : -len(tail)])
                        self._before = before
                    except ValueError:
                        self._go_to(before, found)
                else:
                    self._go_to(before, found)
            if self._origin is not None:
                coverage.postfix += 1
                yield self._time, found[1], self._origin, found[2], found[3]

    def _go_to(self, before: bytes, found: re.Match[bytes]) -> None:
        """Read what is before a tag: text up to a colon, a timestamp, and a host's and an instance's name."""
        self._origin, self._before, self._length = None, b"", 0
        stamps = list(STAMP.finditer(before))
        ahead, behind = (before[: stamps[-1].start()], before[stamps[-1].end() :]) if stamps else (b"", before)
        if b": " in behind or ahead.partition(b": ")[2].strip():
            # Another program's line that quotes such a tag: what a client says must not look like a line.
            return
        if not stamps:
            self._coverage.unread_line("no time", before + found[0])
            return
        exact = [stamp for stamp in stamps if stamp["zone"] or stamp["epoch"]]
        stamp = (exact or stamps)[-1]
        try:
            self._time = self._stamps.read(stamp)
        except (ValueError, OverflowError) as error:
            self._coverage.unread_line(str(error), before + found[0])
            return
        self._origin, self._before = behind, before
        part = "epoch" if stamp["epoch"] else "time" if stamp["date"] else "seconds"
        end = stamp.end(part)
        start = stamp.start(part) if stamp["epoch"] else before.rfind(b":", 0, end) + 1
        if len(before) > end:
            self._minute_head, self._tail, self._length = before[:start], before[end:], len(before)
            self._minute = self._time - float(before[start:end].replace(b",", b"."))

    def _without_json(self, chunk: bytes) -> bytes:
        if self.first == b"{":
            # Objects over several lines, as journalctl -o json-pretty prints them.
            chunk = self._rest + chunk
            end = chunk.rfind(b"\n}\n") + 3
            chunk, self._rest = _LINE_BREAK.sub(b"", chunk[:end]), chunk[end:]
        return _JSON.sub(self._written_out, chunk)

    def _written_out(self, found: re.Match[bytes]) -> bytes:
        """A JSON object of Postfix as a plain line; nothing of other objects."""
        if _PROGRAMS.search(found[1]) is None:
            return b""
        try:
            return _as_line(_DECODER.raw_decode(found[1].decode("utf-8", "surrogateescape"))[0])
        except (ValueError, TypeError, AttributeError, RecursionError):
            self._coverage.unread_line("not a JSON object with a message", found[1])
            return b""


@lru_cache(1000)
def _fields(names: tuple[str, ...]) -> list[str]:
    """The names of an object's message, program, process number, host and time; "" for a missing one."""
    plain = {name.lower().lstrip("_@").replace("-", "_"): name for name in reversed(names)}
    return [next((plain[name] for name in wanted if name in plain), "") for wanted in _WANTED]


def _as_line(values: dict[str, Any]) -> bytes:
    program: Any
    message, program, pid, host, at = [values.get(name) for name in _fields(tuple(values))]
    if isinstance(message, list):
        # The journal gives text that is not UTF-8 as an array of numbers (systemd.journal-fields(7)).
        message = bytes(message).decode("utf-8", "surrogateescape")
    if isinstance(program, dict):
        program, pid = program.get("name"), program.get("pid")
    head = f"{_instant(at)} {host if isinstance(host, str) else '-'}"
    if program:
        name = str(program).rstrip(":")
        head += f" {name}:" if pid is None or "[" in name else f" {name}[{pid}]:"
    return f"{head} {str(message).strip()}".replace("\n", " ").encode("utf-8", "surrogateescape")


def _instant(value: object) -> str:
    """A time as a log shows it; a number in seconds, be it in milliseconds, microseconds or nanoseconds."""
    try:
        number = float(str(value))
    except ValueError:
        return str(value)
    while 1e11 < number < math.inf:
        number /= 1000
    return f"{number:.6f}"
