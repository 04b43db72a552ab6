"""The daemon's log: one canonical line for each decision, written by a thread of its own.

The event loop only queues lines: a terminal, a pipe or a syslog daemon that blocks does not hold up mail.
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
from senderscore_policy.policy.protocol import printable
from senderscore_policy.policy.reply import PERMIT
from senderscore_policy.policy.reputation import Scored
from senderscore_policy.policy.tiers import UNLIMITED

MAX_QUEUED: Final = 32 * 1024 * 1024
"""Characters queued for the writer, some 80,000 lines; further lines are dropped and counted."""
COLLECT_TIME: Final = 0.05
"""Seconds for which the writer collects lines."""
TOGETHER: Final = 100
"""Batches whose lines are written together; while the writer joins them, the event loop must wait."""
CLOSE_TIME: Final = 2.0
"""Seconds that the log gets at exit to write the queued lines."""
NAME: Final = "senderscore-policy"

Sink = Callable[[int, Sequence[str]], int | None]
"""Writes lines of one logging level; may block. Returns the number of lines lost; raises OSError if all are."""

# sd-daemon(3): the priority of a line on stderr.
_SYSTEMD_PRIORITY: Final = {
    logging.DEBUG: "<7>", logging.INFO: "<6>", logging.WARNING: "<4>", logging.ERROR: "<3>", logging.CRITICAL: "<2>",
}  # fmt: skip


def stderr_sink() -> Sink:
    """Write to stderr, with systemd's priorities where the journal reads it."""
    journal = "JOURNAL_STREAM" in os.environ

    def write(level: int, lines: Sequence[str]) -> None:
        start = _SYSTEMD_PRIORITY.get(level, "<6>") if journal else f"{NAME}: "
        sys.stderr.write("".join(f"{start}{line}\n" for line in lines))
        sys.stderr.flush()

    return write


class _Syslog(logging.handlers.SysLogHandler):
    lost = 0  # lines: no syslog daemon, or a line too long for a datagram

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - logging's
        """Count the line, where logging would print a traceback."""
        self.lost += 1


def syslog_sink(address: str = "/dev/log") -> Sink:
    """Write to the local syslog daemon, facility mail."""
    handler = _Syslog(address, facility=_Syslog.LOG_MAIL)
    handler.ident = f"{NAME}[{os.getpid()}]: "

    def write(level: int, lines: Sequence[str]) -> int:
        before = handler.lost
        for line in lines:
            handler.emit(logging.makeLogRecord({"levelname": logging.getLevelName(level), "msg": line}))
        return handler.lost - before

    return write


class LogWriter(logging.Handler):
    """Writes lines in a thread; as a logging handler it receives the records of the whole program."""

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self._sink = sink
        self._queue: SimpleQueue[tuple[int, Sequence[str]] | None] = SimpleQueue()
        self._reported = 0
        self._waiting = 0
        self._counting = threading.Lock()
        self.dropped = 0  # lines since the start
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def put(self, level: int, lines: Sequence[str]) -> None:
        """Queue lines; never waits."""
        dropped = self.dropped - self._reported
        notice = [f"{dropped} log lines dropped: the log could not keep up"] if dropped else []
        size = sum(map(len, lines)) + sum(map(len, notice))
        with self._counting:
            if self._waiting + size > MAX_QUEUED:
                self.dropped += len(lines)
                return
            self._waiting += size
            self._reported += dropped
        if notice:
            self._queue.put((logging.WARNING, notice))
        self._queue.put((level, lines))

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a log record; a traceback becomes one line each."""
        self.put(record.levelno, self.format(record).splitlines())

    def close(self) -> None:
        """Write the queued lines, for at most `CLOSE_TIME`."""
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
                # To wake up for every batch would take the interpreter from the event loop.
                self._closing.wait(COLLECT_TIME)

    def _write_lines(self, level: int, lines: Sequence[str]) -> None:
        with self._counting:
            self._waiting -= sum(map(len, lines))
        try:
            lost = self._sink(level, lines) or 0
        except OSError:
            lost = len(lines)
        self.dropped += lost


def set_up(settings: Log) -> LogWriter:
    """Send the log of the whole program to the configured target."""
    writer = LogWriter(syslog_sink() if settings.target == "syslog" else stderr_sink())
    logging.basicConfig(handlers=[writer], format="%(message)s", level=settings.level.upper(), force=True)
    return writer


_PLAIN: Final = re.compile(rb"[!#-<>-\[\]-~]+")
"""A value that a log line shows unchanged: printable ASCII without space, quote, equal sign and backslash."""
_QUOTABLE: Final = re.compile(rb"[ !#-\[\]-~]*")
"""A value that it shows between quotes."""


@lru_cache(1024)
def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _shown(value: bytes) -> bytes:
    """Return the value of an attribute, in quotes unless it is clearly one word."""
    if _PLAIN.fullmatch(value):
        return value
    if _QUOTABLE.fullmatch(value):
        return b'"%b"' % value
    return _quoted(printable(value)).encode()


_ATTRIBUTES: Final = {
    "queue_id": b"queue_id", "instance": b"instance", "client_address": b"client_address",
    "sender": b"sender", "state": b"protocol_state",
}  # fmt: skip
"""Fields of a line, and the attributes of the request that they show."""
_PREFIXES: Final = [b"\n%b=" % name for name in _ATTRIBUTES.values()]
_FIELDS: Final = b" ".join(b"%b=%%b" % field.encode() for field in _ATTRIBUTES)


def decision_line(decision: Decision) -> str:
    """Return the canonical log line of a decision: `name=value` fields in a fixed order."""
    client, reputation = decision.client, decision.reputation
    attributes = _FIELDS % tuple([_shown(decision.request.after(prefix)) for prefix in _PREFIXES])
    return (
        f"decision reason={decision.reason} client={'unknown' if client is None else client.key}"
        f" score={reputation.score if isinstance(reputation, Scored) else 'none'}"
        f" reputation={'not-asked' if reputation is None else reputation.name}"
        f" tier={decision.tier} count={decision.count}"
        f" limit={'unlimited' if decision.limit == UNLIMITED else int(decision.limit)}"
        f" {attributes.decode()}"
        f" action={decision.action if decision.action == PERMIT else _quoted(decision.action)}"
    )


class DecisionLog:
    """Logs each message above its limit, and at level debug every decision."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer

    def decided(self, decisions: Sequence[Decision]) -> None:
        for level, over in ((logging.INFO, True), (logging.DEBUG, False)):
            if logging.root.isEnabledFor(level):
                lines = [decision_line(each) for each in decisions if (each.reason is Reason.OVER_LIMIT) is over]
                if lines:
                    self._writer.put(level, lines)
