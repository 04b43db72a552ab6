"""Lines of Postfix's smtpd, cleanup and qmgr out of a log in any form.

A line is recognised by its program's tag, `…/smtpd[123]: ` or RFC 5424's `…/smtpd 123 - - `, and by the timestamp
before it, whatever else the line carries: host, priority, level, container, file name. A JSON object is written out
as such a line first, whether it comes from the journal, a container, or a log daemon's template.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from senderscore_policy.maillog.files import LONGEST_LINE
from senderscore_policy.maillog.timestamps import STAMP, Timestamps

MAX_REASONS: Final = 5
"""Reasons for unread lines that are counted apart."""
_TAG: Final = re.compile(
    rb"/(smtpd|cleanup|[no]?qmgr)((?:\[\d+\])?:"
    # RFC 5424: a process number, a kind of message, and data. macOS: a level.
    rb"| \S+ \S+ (?:-|(?:\[(?:[^\n\]\\]|\\.)*\])+)(?: *\xef\xbb\xbf)?|\[\d+\] <\w+>:)"
    # A table has cells; Solaris writes a message's number and priority before its text.
    rb"[ \",;|]*(?:\[ID \d+ [\w.]+\] )?(.*)"
)
_OBJECT: Final = re.compile(r"\{(?=\s*\")")
_PROGRAMS: Final = re.compile(rb"smtpd|cleanup|qmgr")
_DECODER: Final = json.JSONDecoder()
_COLOUR: Final = re.compile(rb"\x1b\[[\d;]*[A-Za-z]")
_CRASH: Final = re.compile(rb"\0{4,}")
_FRAME: Final = re.compile(rb"\d+ (?=<\d{1,3}>1 \d{4}-)")  # RFC 6587: a length in the place of the end of a line
_PARTIAL: Final = re.compile(rb"( std(?:out|err) P .*)\n\S+ std(?:out|err) [FP] ")  # Kubernetes: a line in two pieces
_NOT_PLAIN: Final = {
    b"\r\n": b"\n", b"\t": b" ", b"\xc2\xa0": b" ", b"\0": b"", b"&lt;": b"<", b"&gt;": b">"
}  # fmt: skip
_ENTRY: Final = re.compile(rb"^(\S.*) \[s=.*\]$", re.MULTILINE)  # journalctl -o verbose begins an entry with it
_LABELLED: Final = re.compile(rb"[\w.-]+: +\S*")  # a level or a host with a colon, and Postfix's instance
_COMPOSE: Final = re.compile(rb" *(?:[\w.-]+ +\| *)?")  # the name of a container

_WANTED: Final = [
    names.split()
    for names in (
        "message msg log short_message line raw textpayload",
        "syslog_identifier program programname syslogtag app_name appname application_name process ident tag",
        "pid syslog_pid procid",
        "hostname host",
        "realtime_timestamp time timestamp isodate timereported datetime date ts unixtime",
    )
]
"""Names of fields in JSON, without leading signs and in lower case; the first that fits counts."""

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
        """The lines in a piece of the log, which ends with a line; an empty piece is the end of the log."""
        coverage = self._coverage
        coverage.lines += chunk.count(b"\n")
        chunk = self._as_lines(_plain(chunk))
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
        behind = behind.lstrip(b": ")
        if (b": " in behind and not _LABELLED.fullmatch(behind)) or not _COMPOSE.fullmatch(ahead.partition(b": ")[2]):
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

    def _as_lines(self, chunk: bytes) -> bytes:
        """The piece with each entry in a line of its own, whatever form it has."""
        last, chunk, self._rest = not chunk, self._rest + chunk, b""
        self.first = self.first or next((line for line in chunk[:10_000].splitlines() if line.strip()), b"")
        if _FRAME.match(self.first):
            chunk = _FRAME.sub(b"\n", chunk)
        if b" std" in self.first:
            chunk = _PARTIAL.sub(rb"\1", chunk)
        if b"\nSYSLOG_IDENTIFIER=" in chunk or b"\n    SYSLOG_IDENTIFIER=" in chunk:
            return self._from_fields(chunk + b"\n\n" * last)
        return _plain(self._from_json(chunk, last=last)) if b"{" in chunk else chunk

    def _from_fields(self, chunk: bytes) -> bytes:
        """The output of journalctl -o export and verbose, which prints a field in each line, as plain lines."""
        *entries, self._rest = _ENTRY.sub(rb"\n\ntime=\1", chunk).replace(b"\n    ", b"\n").split(b"\n\n")
        texts = (entry.decode("utf-8", "surrogateescape").split("\n") for entry in entries)
        return _encoded(line for each in texts for line in _messages(dict(one.partition("=")[::2] for one in each), ""))

    def _from_json(self, chunk: bytes, *, last: bool) -> bytes:
        """JSON objects, in a line or over several, as plain lines; what is before an object in its line is dropped."""
        text = chunk.decode("utf-8", "surrogateescape")
        size, parts, done, skipped = len(text.rstrip()), list[str](), 0, 0
        for found in _OBJECT.finditer(text):
            start = found.start()
            begin = max(done, text.rfind("\n", 0, start) + 1)
            before = text[begin:start]
            if start < max(done, skipped) or ("/" in before and _TAG.search(before.encode(errors="replace"))):
                continue
            try:
                value, end = _DECODER.raw_decode(text, start)
                parts += text[done:begin], "".join(f"{line}\n" for line in _messages(value, before))
                done = end
            except (ValueError, TypeError, AttributeError, RecursionError) as error:
                if not last and getattr(error, "pos", 0) >= size and size - begin < LONGEST_LINE:
                    text, self._rest = text[:begin], _encoded([text[begin:]])
                    break
                skipped = text.find("\n", start)
                line = _encoded([text[start:skipped]])
                if _PROGRAMS.search(line):
                    self._coverage.unread_line("not a JSON object with a message", line)
        return _encoded(["".join([*parts, text[done:]])])


def _encoded(lines: Iterable[str]) -> bytes:
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def _plain(text: bytes) -> bytes:
    """Text without colours and NULs, and with one kind of blank."""
    # A search for one byte is cheaper than a replacement.
    text = _COLOUR.sub(b"", text) if b"\x1b" in text else text
    text = _CRASH.sub(b"\n", text) if b"\0" in text else text
    for seen, meant in _NOT_PLAIN.items():
        text = text.replace(seen, meant) if seen[:1] in text else text
    return text


@lru_cache(1000)
def _fields(names: tuple[str, ...]) -> list[list[str]]:
    """The names of an object's message, program, process number, host and time, the likeliest first."""
    plain = {name.lower().lstrip("_@").replace("-", "_"): name for name in reversed(names)}
    return [[plain[name] for name in wanted if name in plain] for wanted in _WANTED]


def _messages(value: Any, before: str) -> Iterator[str]:
    """The objects with a message, however deep, as plain lines."""
    if isinstance(value, dict):
        names = _fields(tuple(value))
        message = value[names[0][0]] if names[0] else None
        if isinstance(message, str | list) and message[:1] != "{":
            yield _as_line(value, names, message, before)
            return
        value = [json.loads(message)] if isinstance(message, str) else list(value.values())
    for each in value if isinstance(value, list) else ():
        yield from _messages(each, before)


def _as_line(values: dict[str, Any], names: list[list[str]], message: str | list[int], before: str) -> str:
    pid, host, at = (values[group[0]] if group else None for group in names[2:])
    # The journal gives text that is not UTF-8 as an array of numbers (systemd.journal-fields(7)).
    text = (message if isinstance(message, str) else bytes(message).decode("utf-8", "surrogateescape")).strip()
    # rsyslog's programname is "postfix", its syslogtag "postfix/smtpd[123]:".
    program: Any = next((values[name] for name in names[1] if "/" in str(values[name])), None)
    if isinstance(program, dict):
        program, pid = program.get("name"), program.get("pid")
    head = f"{before if at is None else at} {host if isinstance(host, str) else '-'}"
    tag = "/" in text and _TAG.search(_encoded([text]))
    # The message may be a whole line with its own tag.
    if program and (not tag or ": " in text[: tag.start()]):
        name = str(program).rstrip(":")
        head += f" {name}:" if pid is None or "[" in name else f" {name}[{pid}]:"
    return re.sub(r"[\n\0]", " ", f"{head} {text}")
