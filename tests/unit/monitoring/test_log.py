"""The log: canonical lines, and a writer that never delays the event loop."""

import logging
import logging.handlers
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from senderscore_policy.monitoring import log as logs
from senderscore_policy.monitoring.log import LogWriter, decision_line
from senderscore_policy.policy.clients import Client
from senderscore_policy.policy.decision import Decision, Reason
from senderscore_policy.policy.protocol import RequestParser
from senderscore_policy.policy.reputation import Scored


def decision(attributes: bytes) -> Decision:
    """Make a deferral of a request with these attributes."""
    (request,) = RequestParser().feed(b"client_address=192.0.2.75\n" + attributes + b"\n\n")
    return Decision(
        request,
        Client("192.0.2.75", "192.0.2.75"),
        Reason.OVER_LIMIT,
        '421 say "no"',
        801,
        "71-80",
        800.0,
        Scored(75),
        0.0,
    )


def test_the_canonical_line() -> None:
    """One line names the message, the client, its score, tier, count and limit, and the answer."""
    line = decision_line(
        decision(b"queue_id=4XYZ\ninstance=12.34.0\nsender=a@example.org\nprotocol_state=END-OF-MESSAGE")
    )
    assert line == (
        "decision reason=over-limit client=192.0.2.75 score=75 reputation=scored tier=71-80 count=801 limit=800 "
        "queue_id=4XYZ instance=12.34.0 client_address=192.0.2.75 sender=a@example.org state=END-OF-MESSAGE "
        'action="421 say \\"no\\""'
    )


def test_no_attribute_forges_a_field() -> None:
    """Whatever an attribute holds, the line stays one line, and its fields stay apart."""
    line = decision_line(decision(b'sender=x client=192.0.2.1\x1b[2J\xe2\x80\xa8"\rscore=0'))
    assert line.isprintable()
    assert ' sender="x client=192.0.2.1\\\\x1b[2J\\\\u2028\\"\\\\rscore=0" ' in line


class Sink:
    """A log that takes nothing until it is released."""

    def __init__(self) -> None:
        self.taking = threading.Event()
        self.release = threading.Event()
        self.written: list[str] = []
        self.calls: list[int] = []

    def __call__(self, level: int, lines: Sequence[str]) -> None:
        self.taking.set()
        self.release.wait()
        self.calls.append(level)
        self.written.extend(lines)


@pytest.mark.parametrize("batch", [1, 10])
def test_the_writer_drops_rather_than_waits(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the log takes nothing, lines queue up to a bound; one line reports the number of dropped lines."""
    monkeypatch.setattr(logs, "MAX_QUEUED", 1000)
    sink = Sink()
    writer = LogWriter(sink)
    writer.put(logging.INFO, ["first"])
    sink.taking.wait()
    lines = [f"{number:010}" for number in range(200)]
    for start in range(0, len(lines), batch):
        writer.put(logging.INFO, lines[start : start + batch])
    assert writer.dropped == 100
    sink.release.set()
    while len(sink.written) < 101:
        pass
    writer.put(logging.INFO, ["last"])
    writer.close()
    assert sink.written == ["first", *lines[:100], "100 log lines dropped: the log could not keep up", "last"]


def test_lines_that_have_gathered_are_written_together() -> None:
    """Queued lines of one level are written in one call, in their order."""
    sink = Sink()
    writer = LogWriter(sink)
    writer.put(logging.INFO, ["first"])
    sink.taking.wait()
    for level, line in ((logging.INFO, "1"), (logging.INFO, "2"), (logging.WARNING, "3"), (logging.INFO, "4")):
        writer.put(level, [line])
    sink.release.set()
    writer.close()
    assert sink.written == ["first", "1", "2", "3", "4"]
    assert sink.calls == [logging.INFO, logging.INFO, logging.WARNING, logging.INFO]


def test_lines_that_syslog_does_not_take_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines that no syslog daemon accepts are counted, without a traceback for each."""
    writer = LogWriter(logs.syslog_sink(str(tmp_path / "log")))
    writer.put(logging.INFO, ["lost", "lost, too"])
    writer.close()
    assert writer.dropped == 2
    assert capsys.readouterr() == ("", "")


def test_a_line_too_long_for_syslog_is_lost_alone(tmp_path: Path) -> None:
    """The other lines of its group arrive, and the count of dropped lines is right."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(tmp_path / "log"))
        writer = LogWriter(logs.syslog_sink(str(tmp_path / "log")))
        writer.put(logging.INFO, ["1", "2", "x" * 5_000_000, "3"])
        writer.close()
        assert [syslog.recv(1000).rstrip(b"\0")[-1:] for _ in range(3)] == [b"1", b"2", b"3"]
        logging.shutdown([ref for ref in logging._handlerList if isinstance(ref(), logging.handlers.SysLogHandler)])
    assert writer.dropped == 1


def test_a_broken_sink_is_survived() -> None:
    """A log that raises loses its lines and nothing else."""
    written: list[str] = []

    def sink(_: int, lines: Sequence[str]) -> None:
        if lines == ["bad"]:
            raise BrokenPipeError
        written.extend(lines)

    writer = LogWriter(sink)
    writer.put(logging.WARNING, ["bad"])
    writer.put(logging.INFO, ["good"])
    writer.close()
    assert written[-1] == "good"
