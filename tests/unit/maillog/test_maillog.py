"""Messages are found in mail logs as Postfix and the log daemons write them."""

import bz2
import gzip
import json
import lzma
import os
import random
import sys
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from maillog_lines import BEGIN, Log, Stamp, from_clients, iso, syslog

from senderscore_policy.errors import InputError
from senderscore_policy.maillog.files import in_order_of_age, size_of
from senderscore_policy.maillog.messages import Traffic, read_logs

Read = Callable[[str | bytes], Traffic]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads a log."""

    def read(text: str | bytes) -> Traffic:
        path = tmp_path / "mail.log"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_logs([str(path)], lambda _: None)

    return read


def clients(traffic: Traffic) -> list[str]:
    """The addresses that messages came from, in order."""
    return [traffic.who[number].address for number in traffic.senders]


def test_a_message_is_counted_once_with_its_client_time_and_recipients(read: Read) -> None:
    """What qmgr says first about a queue ID that smtpd has named is a message, at that time."""
    log = Log()
    log.message("192.0.2.6", recipients=3)
    traffic = read(log.text)
    assert clients(traffic) == ["192.0.2.6"]
    assert list(traffic.recipients) == [3]
    assert list(traffic.times) == [BEGIN.timestamp() + 1]
    assert traffic.who[0].name == "mx.example.net"


def test_another_attempt_to_deliver_is_no_second_message(read: Read) -> None:
    """qmgr logs a deferred message again each time that it becomes active."""
    log = Log()
    queue_id = log.message("192.0.2.6")
    log.line(f"{queue_id}: from=<sender@example.net>, size=313, nrcpt=1 (queue active)", "postfix/qmgr[9308]")
    assert clients(read(log.text)) == ["192.0.2.6"]


@pytest.mark.parametrize(
    "text",
    [
        "NOQUEUE: reject: RCPT from a.example.net[192.0.2.6]: 550 5.1.1 <x@example.org>: User unknown",
        "B1: client=a.example.net[192.0.2.6]",
        "connect from a.example.net[192.0.2.6]",
        "lost connection after RCPT from a.example.net[192.0.2.6]",
    ],
)
def test_what_never_comes_to_its_end_is_no_message(read: Read, text: str) -> None:
    """A rejected recipient, a connection that is lost, and a client that just calls count nothing."""
    log = Log()
    log.line(text)
    assert clients(read(log.text)) == []


def test_mail_of_this_host_is_no_message_of_a_client(read: Read) -> None:
    """What pickup and bounce queue never went through smtpd."""
    log = Log()
    log.line("B1: uid=0 from=<root>", "postfix/pickup[1]")
    log.line("B1: from=<root@mx>, size=313, nrcpt=1 (queue active)", "postfix/qmgr[2]")
    assert clients(read(log.text)) == []


@pytest.mark.parametrize(
    "verdict",
    [
        "milter-reject: END-OF-MESSAGE from a[192.0.2.6]: 5.7.1 Spam; from=<a@b> to=<c@d> proto=ESMTP helo=<x>",
        "milter-hold: END-OF-MESSAGE from a[192.0.2.6]: milter triggers HOLD action; from=<a@b> to=<c@d>",
        "reject: header Subject: bad from a[192.0.2.6]; from=<a@b> to=<c@d> proto=ESMTP helo=<x>: 5.7.1 no",
        "hold: header Subject: hold from a[192.0.2.6]; from=<a@b> to=<c@d> proto=ESMTP helo=<x>",
        "discard: body bad from a[192.0.2.6]; from=<a@b> to=<c@d> proto=ESMTP helo=<x>",
    ],
)
def test_a_message_that_a_filter_rejects_has_been_counted(read: Read, verdict: str) -> None:
    """Milters and header checks have their say after the policy has been asked at end of data."""
    log = Log()
    log.line("B1: client=a[192.0.2.6]")
    log.line(f"B1: {verdict}", "postfix/cleanup[9314]")
    log.line("B1: from=<a@b>, size=313, nrcpt=1 (queue active)", "postfix/qmgr[9308]")
    assert clients(read(log.text)) == ["192.0.2.6"]


def test_a_message_rejected_by_a_restriction_at_its_end_is_told_apart(read: Read) -> None:
    """It may be this policy that rejected it, and then its retry is in the log, too."""
    log = Log()
    log.line("B1: client=a[192.0.2.6]")
    log.line("B1: reject: END-OF-MESSAGE from a[192.0.2.6]: 421 4.7.1 <END-OF-MESSAGE>: End-of-data rejected: …")
    traffic = read(log.text)
    assert (clients(traffic), traffic.refused) == ([], 1)


def test_in_front_of_a_proxy_filter(read: Read) -> None:
    """A smtpd with smtpd_proxy_filter has no queue ID; what comes back from the filter is another client's message."""
    log = Log()
    for address in ("192.0.2.8", "192.0.2.9"):
        log.line(f"NOQUEUE: client=mx.example.net[{address}]:40836", "postfix/front/smtpd[9332]")
        log.line(f"C6: client=unknown[127.0.0.1], orig_client=mx.example.net[{address}]", "postfix-again/smtpd[9333]")
        log.line("C6: from=<sender@example.net>, size=496, nrcpt=1 (queue active)", "postfix/qmgr[9308]")
        log.line(
            "proxy-accept: END-OF-MESSAGE: 250 2.0.0 Ok: queued as C6; from=<a@b> to=<c@d>", "postfix/front/smtpd[9332]"
        )
    assert clients(read(log.text)) == ["127.0.0.1", "192.0.2.8", "127.0.0.1", "192.0.2.9"]


@pytest.mark.parametrize(
    ("address", "name", "more", "authenticated"),
    [
        ("192.0.2.6", "unknown", "", False),
        ("2001:db8::6", "mx.example.net", "", False),
        ("192.0.2.6", "mx.example.net", ":40836", False),
        ("192.0.2.6", "mx.example.net", ", sasl_method=PLAIN, sasl_username=joe@example.org", True),
        ("192.0.2.6", "mx.example.net", ":40836, sasl_method=LOGIN, sasl_username=joe", True),
        ("192.0.2.6", "mx.example.net", ", orig_queue_id=B1, orig_client=a[192.0.2.9]", False),
    ],
)
def test_forms_of_clients(read: Read, address: str, name: str, more: str, authenticated: bool) -> None:
    """IPv6, logged ports, clients without a name, and those that have logged in."""
    log = Log()
    log.message(address, name=name, more=more)
    [sender] = read(log.text).who
    assert (sender.address, sender.name, sender.authenticated) == (address, name, authenticated)


@pytest.mark.parametrize("instance", ["postfix", "postfix-in", "postfix/submission", "mx-out"])
def test_names_of_instances_and_services(read: Read, instance: str) -> None:
    """Multi-instance Postfix and services with a syslog_name of their own."""
    log = Log()
    log.message("192.0.2.6", instance=instance)
    assert clients(read(log.text)) == ["192.0.2.6"]


def test_a_sender_who_looks_like_a_log_line(read: Read) -> None:
    """The number of recipients is Postfix's word, whatever an envelope sender says."""
    log = Log()
    log.line("B1: client=a[192.0.2.6]")
    log.line(
        'B1: from=<"x>, size=1, nrcpt=99 (queue active)"@example.net>, size=313, nrcpt=2 (queue active)',
        "postfix/qmgr[9308]",
    )
    assert list(read(log.text).recipients) == [2]


def test_control_characters_do_not_survive(read: Read) -> None:
    """Nothing that a terminal would obey is kept of a client's name."""
    log = Log()
    log.message("192.0.2.6", name="\x1b[31mred\x1b]0;\x07\u202e")
    [sender] = read(log.text).who
    assert sender.name == "\\x1b[31mred\\x1b]0;\\x07\\u202e"


@pytest.mark.parametrize(
    "stamp", [syslog, iso, lambda moment: f"{moment:%FT%T}+0000", lambda moment: f"{moment:%FT%T}Z"]
)
def test_forms_of_timestamps(read: Read, stamp: Stamp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Classic syslog, rsyslog's ISO format, and journalctl -o short-iso."""
    monkeypatch.setattr("time.time", lambda: BEGIN.timestamp() + 86400)
    log = Log(stamp)
    log.message("192.0.2.6")
    assert [int(time) for time in read(log.text).times] == [BEGIN.timestamp() + 1]


def journal_entries(text: str) -> list[dict[str, str]]:
    """The lines of a log as the journal keeps them."""
    entries = []
    for line in text.splitlines():
        stamp, host, program, message = line.split(" ", 3)
        name, _, pid = program.removesuffix("]:").partition("[")
        entries.append(
            {
                "__CURSOR": "s=1",
                "__REALTIME_TIMESTAMP": str(int(datetime.fromisoformat(stamp).timestamp() * 1e6)),
                "_HOSTNAME": host,
                "SYSLOG_IDENTIFIER": name,
                "_PID": pid,
                "MESSAGE": message,
            }
        )
    return entries


def test_the_journal_as_json(read: Read) -> None:
    """journalctl -o json; what is no UTF-8 is an array of numbers there."""
    entries: list[dict[str, object]] = [*journal_entries(from_clients(["192.0.2.6", "192.0.2.7"]))]
    entries[1]["MESSAGE"] = list(str(entries[1]["MESSAGE"]).encode())
    text = "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in entries)
    traffic = read(text + '{"SYSLOG_IDENTIFIER":"postfix/smtpd","MESSAGE":\n')
    assert clients(traffic) == ["192.0.2.6", "192.0.2.7"]
    assert traffic.times[0] == BEGIN.timestamp() + 1
    assert traffic.count.alien == 1


def test_the_journal_as_export(read: Read) -> None:
    """journalctl -o export; a value that is no text has its own form, and does no harm."""
    entries = journal_entries(from_clients(["192.0.2.6", "192.0.2.7"]))
    parts = ["".join(f"{name}={value}\n" for name, value in entry.items()) + "\n" for entry in entries]
    binary = b"__REALTIME_TIMESTAMP=1\nMESSAGE\n\x0a\0\0\0\0\0\0\0a\nb\n\n\nc\nd\n\n\n"
    traffic = read(parts[0].encode() + binary + "".join(parts[1:]).encode())
    assert clients(traffic) == ["192.0.2.6", "192.0.2.7"]
    assert traffic.times[0] == BEGIN.timestamp() + 1


def packed_by_zstd(data: bytes) -> bytes:
    """By the library, if there is one."""
    library = pytest.importorskip("zstandard")
    packed: bytes = library.ZstdCompressor().compress(data)
    return packed


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, packed_by_zstd])
def test_packed_logs(read: Read, pack: Callable[[bytes], bytes]) -> None:
    """As logrotate leaves them, whatever the name of the file; also two packed logs in one file."""
    parts = [pack(from_clients([address]).encode()) for address in ("192.0.2.6", "192.0.2.7")]
    assert sorted(clients(read(b"".join(parts)))) == ["192.0.2.6", "192.0.2.7"]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, packed_by_zstd])
@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: data[:40] + b"x" * 40 + data[80:]]
)
def test_damaged_packed_logs(read: Read, pack: Callable[[bytes], bytes], damage: Callable[[bytes], bytes]) -> None:
    """A file that is cut short or damaged is an error with its name, not half a result."""
    rng = random.Random(1)
    data = pack(from_clients(f"192.0.2.{rng.randrange(256)}" for _ in range(500)).encode())
    with pytest.raises(InputError, match=r"mail\.log: is damaged or cut short"):
        read(damage(data))


def test_zstd_without_its_library(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to do."""
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(InputError, match=r"zstdcat FILE \| senderscore-policy forecast -"):
        read(b"\x28\xb5\x2f\xfd")


def test_standard_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A dash is standard input, packed or not."""
    path = tmp_path / "input"
    path.write_bytes(gzip.compress(from_clients(["192.0.2.6"]).encode()))
    with path.open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert clients(read_logs(["-"], lambda _: None)) == ["192.0.2.6"]
        assert size_of(["-"]) is None


def test_a_message_whose_lines_are_in_two_files(tmp_path: Path) -> None:
    """The files are read in the order of their age, however they are given."""
    log = Log()
    log.message("192.0.2.6")
    for number, (name, part) in enumerate({"mail.log.1": log.lines[:2], "mail.log": log.lines[2:]}.items()):
        path = tmp_path / name
        path.write_text("\n".join(part) + "\n")
        os.utime(path, (number, number))
    names = in_order_of_age([str(tmp_path / "mail.log"), str(tmp_path / "mail.log.1")])
    read_bytes = Counter[str]()
    traffic = read_logs(names, lambda count: read_bytes.update(all=count))
    assert clients(traffic) == ["192.0.2.6"]
    assert read_bytes["all"] == size_of(names)


def test_messages_are_in_the_order_of_time(tmp_path: Path) -> None:
    """Also when logs of several hosts are given one after the other."""
    names = []
    for host, addresses in (("a", ["192.0.2.1", "192.0.2.2"]), ("b", ["192.0.2.3", "192.0.2.4"])):
        path = tmp_path / host
        path.write_text(from_clients(addresses))
        names.append(str(path))
    traffic = read_logs(names, lambda _: None)
    assert clients(traffic) == ["192.0.2.1", "192.0.2.3", "192.0.2.2", "192.0.2.4"]
    assert list(traffic.times) == sorted(traffic.times)


def test_lines_that_are_none_are_counted_and_passed_over(read: Read) -> None:
    """A log may hold anything between the lines that matter."""
    text = from_clients(["192.0.2.6"])
    junk = "garbage\n\xff\xfe\n2026-13-45T10:00:00Z mx postfix/smtpd[1]: B1: client=a[192.0.2.6]\n-- Boot 1234 --\n"
    traffic = read(junk + text + "no end of line")
    assert clients(traffic) == ["192.0.2.6"]
    assert traffic.count.alien == 5
    assert traffic.count.lines == 11


def test_a_line_without_an_end(read: Read) -> None:
    """Memory is bounded also for a file that is no text."""
    with pytest.raises(InputError, match="is no mail log"):
        read(b"x" * 40_000_000)


@pytest.mark.parametrize("text", [b"\0\1\2" * 1000, "To: you\n\nHello\n", "{}\n", "__CURSOR=x\n\n"])
def test_a_file_that_is_no_log(read: Read, text: str | bytes) -> None:
    """It is named."""
    with pytest.raises(InputError, match=r"mail\.log: is no mail log"):
        read(text)


def test_a_log_of_something_else(read: Read) -> None:
    """A log without any line of Postfix is a mistake, too."""
    with pytest.raises(InputError, match="no line of Postfix"):
        read("Mar  4 10:00:00 mx sshd[1]: Accepted publickey for root\n")


def test_an_empty_log(read: Read) -> None:
    """A log that has just been rotated holds no messages."""
    assert clients(read("")) == []


def test_missing_files(tmp_path: Path) -> None:
    """They are named before anything is read."""
    with pytest.raises(InputError, match=r"nowhere: No such file or directory"):
        in_order_of_age([str(tmp_path / "nowhere")])
    with pytest.raises(InputError, match=r"is a directory"):
        in_order_of_age([str(tmp_path)])


def test_queue_ids_that_never_become_a_message_are_forgotten(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: of very many unfinished messages the oldest are dropped."""
    monkeypatch.setattr("senderscore_policy.maillog.messages.MAX_OPEN", 10)
    log = Log()
    log.line("A: client=a[192.0.2.6]")
    for number in range(20):
        log.line(f"B{number}: client=a[192.0.2.7]")
    log.line("A: from=<a@b>, size=1, nrcpt=1 (queue active)", "postfix/qmgr[1]")
    log.line("B19: from=<a@b>, size=1, nrcpt=1 (queue active)", "postfix/qmgr[1]")
    assert clients(read(log.text)) == ["192.0.2.7"]
