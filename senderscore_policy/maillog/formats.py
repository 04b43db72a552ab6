"""What Postfix's programs wrote, out of a log in any of its forms: syslog, and the journal's text, JSON and export."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol

from senderscore_policy.maillog.files import LONGEST_LINE


class Service(Enum):
    """A program of Postfix whose lines matter."""

    SMTPD = "smtpd"
    CLEANUP = "cleanup"
    QMGR = "qmgr"


_SERVICES: Final = {service.value.encode(): service for service in Service} | {b"oqmgr": Service.QMGR}


Record = tuple[bytes | float, Service, bytes, bytes]
"""One line of a program; a plain tuple, as there are very many.

The timestamp as it stands in the text, or seconds since the epoch; which program; what tells the process from
all others that run at the time (host, name and process number); what it wrote.
"""


@dataclass(slots=True)
class Count:
    """Of what was read.

    Args:
        lines: lines; of an export, entries.
        alien: those of them that are no lines of such a log.
        postfix: those that smtpd, cleanup or qmgr wrote.
    """

    lines: int = 0
    alien: int = 0
    postfix: int = 0


class Form(Protocol):
    """A form of log."""

    def records(self, chunk: bytes, count: Count) -> Iterator[Record]:
        """The records in a piece of the log, which ends with a line; the count is kept."""


def form_of(head: bytes) -> Form:
    """The form of a log, by its first bytes."""
    if head.startswith(b"{"):
        return JournalJson()
    if head.startswith((b"__CURSOR=", b"__REALTIME_TIMESTAMP=")):
        return JournalExport()
    return Text()


class _ServiceNames(dict[bytes, Service | None]):
    """The service behind the name that a line begins with, each name taken apart once.

    Postfix calls itself postfix/smtpd; other instances, and services with a syslog_name of their
    own, are called postfix-in/smtpd or postfix/submission/smtpd.
    """

    LARGEST: Final = 10_000

    def __missing__(self, name: bytes) -> Service | None:
        if len(self) > self.LARGEST:
            self.clear()
        instance, _, program = name.rpartition(b"/")
        service = _SERVICES.get(program) if instance else None
        self[name] = service
        return service


class Text:
    """Syslog files, with the classic timestamp or an ISO one, and what journalctl prints with -o short-iso."""

    _LINE: Final = re.compile(
        rb"^([A-Z][a-z]{2} [ 0-3]\d [0-2]\d:[0-5]\d:[0-6]\d(?:\.\d+)?|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S*+)"
        rb" (\S++ ([^\s\[:]++)(?:\[\d++\])?): (.*+)$",
        re.MULTILINE,
    )

    def __init__(self) -> None:
        self._services = _ServiceNames()

    def records(self, chunk: bytes, count: Count) -> Iterator[Record]:
        """See `Form.records`."""
        services = self._services
        found = self._LINE.findall(chunk)
        for stamp, process, name, text in found:
            service = services[name]
            if service is not None:
                count.postfix += 1
                yield stamp, service, process, text
        lines = chunk.count(b"\n")
        count.lines += lines
        count.alien += lines - len(found)


class JournalJson:
    """What journalctl prints with -o json: an object a line."""

    _NAME: Final = re.compile(rb'"SYSLOG_IDENTIFIER"\s*:\s*"([^"\\]*)"')

    def __init__(self) -> None:
        self._services = _ServiceNames()

    def records(self, chunk: bytes, count: Count) -> Iterator[Record]:
        """See `Form.records`."""
        for line in chunk.splitlines():
            count.lines += 1
            # Taking apart the lines of other programs would take most of the time.
            name = self._NAME.search(line)
            if name is None:
                count.alien += b'"__REALTIME_TIMESTAMP"' not in line
                continue
            service = self._services[name[1].replace(rb"\/", b"/")]
            if service is not None:
                record = _journal_record(service, line)
                count.alien += record is None
                if record is not None:
                    count.postfix += 1
                    yield record


def _journal_record(service: Service, line: bytes) -> Record | None:
    """A journal entry in JSON as a record; None if it is none."""
    try:
        entry: dict[str, Any] = json.loads(line)
        # The journal gives text that is no UTF-8 as an array of numbers (systemd.journal-fields(7)).
        message = entry["MESSAGE"]
        text = message.encode() if isinstance(message, str) else bytes(message)
        process = (
            f"{entry.get('_HOSTNAME')} {entry['SYSLOG_IDENTIFIER']} {entry.get('_PID') or entry.get('SYSLOG_PID')}"
        )
        return int(entry["__REALTIME_TIMESTAMP"]) / 1e6, service, process.encode(), text
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


class JournalExport:
    """What journalctl prints with -o export: entries of NAME=value lines, with an empty line between them.

    A value that is no text has another form there; an entry whose message is so does not come from Postfix.
    """

    _FIELD: Final = re.compile(rb"^(__REALTIME_TIMESTAMP|_HOSTNAME|SYSLOG_IDENTIFIER|_PID|MESSAGE)=(.*)$", re.MULTILINE)

    def __init__(self) -> None:
        self._services = _ServiceNames()
        self._rest = b""

    def records(self, chunk: bytes, count: Count) -> Iterator[Record]:
        """See `Form.records`; the last entry of the log is complete, as journalctl ends each with an empty line."""
        *entries, self._rest = (self._rest + chunk).split(b"\n\n")
        if len(self._rest) > LONGEST_LINE:
            entries.append(self._rest)
            self._rest = b""
        for entry in entries:
            count.lines += 1
            fields: dict[bytes, bytes] = dict(self._FIELD.findall(entry))
            time = fields.get(b"__REALTIME_TIMESTAMP", b"")
            if not time.isdigit():
                count.alien += 1
                continue
            name = fields.get(b"SYSLOG_IDENTIFIER", b"")
            service = self._services[name]
            if service is not None and b"MESSAGE" in fields:
                count.postfix += 1
                process = b" ".join((fields.get(b"_HOSTNAME", b""), name, fields.get(b"_PID", b"")))
                yield int(time) / 1e6, service, process, fields[b"MESSAGE"]
