"""The daemon's log: one canonical line per decision, written by a thread of its own.

The event loop only puts lines into a queue: a terminal, a pipe or a syslog daemon that does not
take them holds up no mail.
"""

import logging
import logging.handlers
import os
import re
import sys
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from queue import SimpleQueue
from typing import Final

from senderscore_policy.config.model import Log
from senderscore_policy.policy.decision import Decision, Reason
from senderscore_policy.policy.protocol import Request, printable
from senderscore_policy.policy.reply import PERMIT
from senderscore_policy.policy.reputation import Scored
from senderscore_policy.policy.tiers import UNLIMITED

MAX_QUEUED: Final = 32 * 1024 * 1024
"""Characters of the lines that wait for the writer, some 80,000 lines; what comes on top is dropped and counted."""
COLLECT_TIME: Final = 0.05
"""Seconds for which the writer lets lines gather."""
TOGETHER: Final = 100
"""Batches whose lines are written together: putting these into one text keeps the interpreter from the event loop."""
CLOSE_TIME: Final = 2.0
"""Seconds that the log gets at exit to write what is queued."""
NAME: Final = "senderscore-policy"

Sink = Callable[[int, Sequence[str]], None]
"""Writes lines of one logging level; may block; raises OSError."""

# sd-daemon(3): the priority of a line on stderr.
_SYSTEMD_PRIORITY: Final = {
    logging.DEBUG: "<7>", logging.INFO: "<6>", logging.WARNING: "<4>", logging.ERROR: "<3>", logging.CRITICAL: "<2>",
}  # fmt: skip


def stderr_sink() -> Sink:
    """Lines on stderr, with systemd's priorities where the journal reads them."""
    journal = "JOURNAL_STREAM" in os.environ

    def write(level: int, lines: Sequence[str]) -> None:
        start = _SYSTEMD_PRIORITY.get(level, "<6>") if journal else f"{NAME}: "
        sys.stderr.write("".join(f"{start}{line}\n" for line in lines))
        sys.stderr.flush()

    return write


class _Syslog(logging.handlers.SysLogHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - logging's
        """Let who writes know, where logging would print a traceback for each line."""
        _, error, _ = sys.exc_info()
        assert error is not None
        raise error


def syslog_sink(address: str = "/dev/log") -> Sink:
    """Lines to the local syslog daemon, facility mail."""
    handler = _Syslog(address, facility=_Syslog.LOG_MAIL)
    handler.ident = f"{NAME}[{os.getpid()}]: "

    def write(level: int, lines: Sequence[str]) -> None:
        for line in lines:
            handler.emit(
                logging.makeLogRecord({"levelno": level, "levelname": logging.getLevelName(level), "msg": line})
            )

    return write


class LogWriter(logging.Handler):
    """Writes lines in a thread; as a logging handler it takes the records of the whole program.

    Args:
        sink: where the lines go.

    Attributes:
        dropped: lines that were not written, since the start.
    """

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))
        self._sink = sink
        self._queue: SimpleQueue[tuple[int, Sequence[str]] | None] = SimpleQueue()
        self._told = 0
        self._waiting = 0
        self._counting = threading.Lock()
        self.dropped = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def put(self, level: int, lines: Sequence[str]) -> None:
        """Queue lines; never waits."""
        dropped = self.dropped - self._told
        notice = [f"{dropped} log lines dropped: the log was not taken"] if dropped else []
        size = _size(lines) + _size(notice)
        with self._counting:
            if self._waiting + size > MAX_QUEUED:
                self.dropped += len(lines)
                return
            self._waiting += size
            self._told += dropped
        if notice:
            self._queue.put((logging.WARNING, notice))
        self._queue.put((level, lines))

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a log record; a traceback becomes one line each."""
        self.put(record.levelno, self.format(record).splitlines())

    def close(self) -> None:
        """Write what is queued, for at most `CLOSE_TIME`."""
        self._queue.put(None)
        self._closing.set()
        self._thread.join(CLOSE_TIME)
        super().close()

    def _write(self) -> None:
        ended = False
        while not ended:
            entries = [self._queue.get()]
            while not self._queue.empty() and len(entries) < TOGETHER:
                entries.append(self._queue.get())
            ended = None in entries
            for level, group in groupby(filter(None, entries), itemgetter(0)):
                self._write_lines(level, [line for _, lines in group for line in lines])
            if self._queue.empty():
                # Waking and writing for every batch would fight the event loop for the interpreter.
                self._closing.wait(COLLECT_TIME)

    def _write_lines(self, level: int, lines: Sequence[str]) -> None:
        with self._counting:
            self._waiting -= _size(lines)
        try:
            self._sink(level, lines)
        except OSError:
            self.dropped += len(lines)


def _size(lines: Sequence[str]) -> int:
    return sum(map(len, lines))


def set_up(settings: Log) -> LogWriter:
    """Send the log of the whole program where the configuration says."""
    writer = LogWriter(syslog_sink() if settings.target == "syslog" else stderr_sink())
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.addHandler(writer)
    root.setLevel(settings.level.upper())
    return writer


_PLAIN: Final = re.compile(rb"[!#-<>-\[\]-~]+")
"""What stands in a log line as it is: printable ASCII without space, quote, equal sign and backslash."""
_QUOTABLE: Final = re.compile(rb"[ !#-\[\]-~]*")
"""What stands in it between quotes."""


@lru_cache(1024)
def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _shown(value: bytes) -> bytes:
    """The value of an attribute, in quotes where it could be taken for more than one."""
    if _PLAIN.fullmatch(value):
        return value
    if _QUOTABLE.fullmatch(value):
        return b'"%b"' % value
    return _quoted(printable(value)).encode()


_ATTRIBUTES: Final = {
    "queue_id": b"queue_id", "instance": b"instance", "client_address": b"client_address",
    "sender": b"sender", "state": b"protocol_state",
}  # fmt: skip
"""Fields of a line with the attributes of the request that they show."""
_PREFIXES: Final = [b"\n%b=" % name for name in _ATTRIBUTES.values()]
_FIELDS: Final = b" ".join(b"%b=%%b" % field.encode() for field in _ATTRIBUTES)


def _attributes(request: Request) -> str:
    """The fields with attributes of the request."""
    return (_FIELDS % tuple([_shown(request.after(prefix)) for prefix in _PREFIXES])).decode()


def decision_line(decision: Decision) -> str:
    """The canonical log line of one decision: `name=value` fields in a fixed order."""
    request, client, reputation = decision.request, decision.client, decision.reputation
    return (
        f"decision reason={decision.reason} client={'unknown' if client is None else client.key}"
        f" score={reputation.score if isinstance(reputation, Scored) else 'none'}"
        f" reputation={'not-asked' if reputation is None else reputation.name}"
        f" tier={decision.tier} count={decision.count}"
        f" limit={'unlimited' if decision.limit == UNLIMITED else int(decision.limit)}"
        f" {_attributes(request)}"
        f" action={decision.action if decision.action == PERMIT else _quoted(decision.action)}"
    )


class DecisionLog:
    """Logs each message above its limit, and at level debug every decision.

    Args:
        writer: the log.
    """

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer

    def decided(self, decisions: Sequence[Decision]) -> None:
        """Log a batch (`ports.Observer`)."""
        over = [decision_line(decision) for decision in decisions if decision.reason is Reason.OVER_LIMIT]
        if over and logging.root.isEnabledFor(logging.INFO):
            self._writer.put(logging.INFO, over)
        if logging.root.isEnabledFor(logging.DEBUG):
            rest = [decision_line(decision) for decision in decisions if decision.reason is not Reason.OVER_LIMIT]
            if rest:
                self._writer.put(logging.DEBUG, rest)
