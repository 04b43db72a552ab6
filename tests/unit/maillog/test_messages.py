"""Messages are found in mail logs, once, whatever the order of their lines."""

import gzip
import os
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from maillog_lines import BEGIN, Log, from_clients

from senderscore_policy.errors import InputError
from senderscore_policy.maillog.files import size_of, written_at
from senderscore_policy.maillog.messages import End, Traffic, read_logs

Read = Callable[..., Traffic]

CLEANUP, QMGR = "postfix/cleanup[9314]", "postfix/qmgr[9308]"
REFUSED = "421 4.7.1 <END-OF-MESSAGE>: End-of-data rejected: you're limited; from=<a@b> to=<c@d>"


def clients(traffic: Traffic) -> list[str]:
    """The addresses of the messages' clients, in order."""
    return [traffic.who[number].address for number in traffic.senders]


def test_a_message_has_a_client_a_time_and_recipients(read: Read) -> None:
    """The line of qmgr about a queue ID that smtpd has named makes a message."""
    log = Log()
    log.message("192.0.2.6", recipients=3)
    traffic = read(log.text)
    assert clients(traffic) == ["192.0.2.6"]
    assert (list(traffic.recipients), list(traffic.ends)) == ([3], [End.TAKEN])
    assert list(traffic.times) == [BEGIN.timestamp() + 1]
    assert traffic.who[0].name == "mx.example.net"


def test_another_attempt_to_deliver_is_not_a_second_message(read: Read) -> None:
    """A deferred message becomes active again, and qmgr logs that again."""
    log = Log()
    queue_id = log.message("192.0.2.6")
    log.line(f"{queue_id}: from=<sender@example.net>, size=313, nrcpt=1 (queue active)", QMGR)
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
def test_a_client_that_breaks_off_sends_no_message(read: Read, text: str) -> None:
    """A rejected recipient, a connection that is lost, and a client that just calls count nothing."""
    log = Log()
    log.line(text)
    assert clients(read(log.text)) == []


def test_mail_of_this_host_is_not_a_clients(read: Read) -> None:
    """Messages from pickup and bounce never passed smtpd."""
    log = Log()
    log.line("B1: uid=0 from=<root>", "postfix/pickup[1]")
    log.line("B1: message-id=<1@mx>", CLEANUP)
    log.line("B1: from=<root@mx>, size=313, nrcpt=1 (queue active)", QMGR)
    assert clients(read(log.text)) == []


@pytest.mark.parametrize(
    "verdict",
    [
        "B1: milter-reject: END-OF-MESSAGE from a[192.0.2.6]: 5.7.1 Spam; from=<a@b> to=<c@d> proto=ESMTP helo=<x>",
        "B1: milter-hold: END-OF-MESSAGE from a[192.0.2.6]: milter triggers HOLD action; from=<a@b> to=<c@d>",
        "B1: milter-header-hold: header X-Spam: yes from a[192.0.2.6]; from=<a@b> to=<c@d>",
        "B1: reject: header Subject: bad from a[192.0.2.6]; from=<a@b> to=<c@d> proto=ESMTP helo=<x>: 5.7.1 no",
        "B1: hold: header Subject: hold from a[192.0.2.6]; from=<a@b> to=<c@d> proto=ESMTP helo=<x>",
        "B1: discard: body bad from a[192.0.2.6]; from=<a@b> to=<c@d> proto=ESMTP helo=<x>",
        "warning: B1: message rejected: hopcount exceeded",
        "warning: B1: sender_canonical_maps map lookup problem for a@b -- message not accepted, try again later",
        "warning: B1: virtual_alias_maps map lookup problem for c@d -- message not accepted, try again later",
    ],
)
def test_a_message_that_a_filter_rejects_was_asked(read: Read, verdict: str) -> None:
    """Milters, header checks, maps and limits act after Postfix has asked the policy at end of data."""
    log = Log()
    log.line("B1: client=a[192.0.2.6]")
    log.line(verdict, CLEANUP)
    log.line("B1: from=<a@b>, size=313, nrcpt=1 (queue active)", QMGR)
    traffic = read(log.text)
    assert (clients(traffic), list(traffic.ends)) == (["192.0.2.6"], [End.FILTERED])


@pytest.mark.parametrize(
    "line",
    [
        "NOQUEUE: hold: RCPT from",
        "NOQUEUE: milter-discard: RCPT from",
        "B1: hold: DATA from",
        "B1: milter-discard: RCPT from",
    ],
)
def test_a_message_that_smtpd_holds_was_asked(read: Read, line: str) -> None:
    """An access table's HOLD and a milter's DISCARD keep the message from qmgr, but not from the policy."""
    log = Log()
    lines = [f"{line} a[192.0.2.6]: triggers an action; from=<a@b> to=<c@d>", "B1: client=a[192.0.2.6]"]
    for text in lines if line.startswith("NOQUEUE") else lines[::-1]:
        log.line(text)
    log.line("B1: message-id=<1@example.net>", CLEANUP)
    log.message("192.0.2.7")
    traffic = read(log.text)
    assert (clients(traffic), list(traffic.ends)) == (["192.0.2.6", "192.0.2.7"], [End.FILTERED, End.TAKEN])


@pytest.mark.parametrize("queue_id", ["NOQUEUE", "B1"])
def test_a_message_that_an_access_table_discards_is_not_asked(read: Read, queue_id: str) -> None:
    """Postfix skips all further restrictions for it."""
    log = Log()
    lines = [f"{queue_id}: discard: RCPT from a[192.0.2.6]: triggers DISCARD action", "B1: client=a[192.0.2.6]"]
    for text in lines if queue_id == "NOQUEUE" else lines[::-1]:
        log.line(text)
    log.line("B1: message-id=<1@example.net>", CLEANUP)
    traffic = read(log.text)
    assert (clients(traffic), traffic.coverage.begun) == ([], 0)


def test_a_message_that_the_policy_rejected_was_asked(read: Read) -> None:
    """Its retry is another message, so a replay shows what happened."""
    log = Log()
    log.line("B1: client=a[192.0.2.6]")
    log.line("B1: message-id=<1@example.net>", CLEANUP)
    log.line(f"B1: reject: END-OF-MESSAGE from a[192.0.2.6]: {REFUSED}")
    traffic = read(log.text)
    assert (clients(traffic), list(traffic.ends)) == (["192.0.2.6"], [End.REFUSED])


def test_a_rejection_before_the_restrictions_was_not_asked(read: Read) -> None:
    """Postfix 3.9 rejects a bare line feed at the end of data before it looks at restrictions."""
    log = Log()
    log.line("B1: client=a[192.0.2.6]")
    log.line("B1: reject: END-OF-MESSAGE from a[192.0.2.6]: 521 5.5.2 mx Error: bare <LF> received; from=<a@b>")
    assert clients(read(log.text)) == []


def test_a_message_in_front_of_a_proxy_filter(read: Read) -> None:
    """A smtpd with smtpd_proxy_filter has no queue ID; the filter's own message is another client's."""
    log = Log()
    for number, address in enumerate(("192.0.2.8", "192.0.2.9")):
        log.now = BEGIN.replace(second=number)
        log.line(f"NOQUEUE: client=mx.example.net[{address}]:40836", "postfix/front/smtpd[9332]")
        log.line(
            f"C{number}: client=unknown[127.0.0.1], orig_client=mx.example.net[{address}]", "postfix-again/smtpd[9333]"
        )
        log.line(f"C{number}: from=<sender@example.net>, size=496, nrcpt=1 (queue active)", QMGR)
        verdict = f"proxy-accept: END-OF-MESSAGE: 250 2.0.0 Ok: queued as C{number}; from=<a@b> to=<c@d>"
        log.line(verdict, "postfix/front/smtpd[9332]")
    assert clients(read(log.text)) == ["127.0.0.1", "192.0.2.8", "127.0.0.1", "192.0.2.9"]
    assert clients(read(log.text, log.text)) == ["127.0.0.1", "192.0.2.8", "127.0.0.1", "192.0.2.9"]


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
def test_clients_are_logged_in_several_forms(
    read: Read, address: str, name: str, more: str, authenticated: bool
) -> None:
    """IPv6, logged ports, clients without a name, and clients that have logged in."""
    log = Log()
    log.message(address, name=name, more=more)
    [client] = read(log.text).who
    assert (client.address, client.name, client.authenticated) == (address, name, authenticated)


def test_a_senders_address_cannot_set_the_number_of_recipients(read: Read) -> None:
    """The number of recipients is Postfix's, whatever an envelope sender contains."""
    log = Log()
    log.line("B1: client=a[192.0.2.6]")
    log.line('B1: from=<"x>, size=1, nrcpt=99 (queue active)"@example.net>, size=313, nrcpt=2 (queue active)', QMGR)
    assert list(read(log.text).recipients) == [2]


def test_control_characters_are_escaped(read: Read) -> None:
    """Nothing that a terminal would obey is kept of a client's name."""
    log = Log()
    log.message("192.0.2.6", name="red\x1b]0;\x07\u202e")
    [client] = read(log.text).who
    assert client.name == "red\\x1b]0;\\x07\\u202e"


def shuffled(lines: list[str]) -> list[str]:
    """The lines of a second in any order, the seconds in theirs."""
    rng = random.Random(1)
    return sorted(lines, key=lambda line: (line[:19], rng.random()))


@pytest.mark.parametrize(
    "order", [sorted, shuffled, lambda lines: lines[::-1], lambda lines: sorted(lines, reverse=True)]
)
def test_the_order_of_lines_does_not_matter(read: Read, order: Callable[[list[str]], list[str]]) -> None:
    """Sorted, merged and newest-first logs have the messages of the log as written."""
    log = Log()
    for number in range(40):
        log.message(f"192.0.2.{number % 3}")
        log.line(f"D{number}: client=lost[192.0.2.99]")
        log.line(f"R{number}: from=<retry@example.net>, size=1, nrcpt=1 (queue active)", QMGR)
    expected = read(log.text)
    found = read("\n".join(order(log.lines)) + "\n")
    assert Counter(clients(found)) == Counter(clients(expected))
    assert [int(at) for at in found.times] == [int(at) for at in expected.times]
    assert (found.coverage.begun, found.coverage.ended) == (80, 40)


def test_a_queue_id_that_is_used_again_is_another_message(read: Read) -> None:
    """An end counts for the client that began at most a minute later, so not for the next user of a short queue ID."""
    log = Log()
    for minute in range(3):
        log.now = BEGIN.replace(minute=2 * minute)
        log.line(f"B1: client=a[192.0.2.{minute}]")
        log.line("B1: message-id=<1@example.net>", CLEANUP)
        log.line("B1: from=<a@b>, size=313, nrcpt=1 (queue active)", QMGR)
        log.line("B1: from=<a@b>, size=313, nrcpt=1 (queue active)", QMGR)
    log.now = BEGIN.replace(minute=10)
    log.line("B1: client=a[192.0.2.9]")
    assert clients(read(log.text)) == ["192.0.2.0", "192.0.2.1", "192.0.2.2"]


def test_a_busy_queue_manager_does_not_move_messages(read: Read) -> None:
    """A message's time is that of its message-id: qmgr's line is hours late when its queue is full."""
    log = Log()
    for number in range(5):
        log.line(f"B{number}: client=a[192.0.2.6]")
        log.line(f"B{number}: message-id=<{number}@example.net>", CLEANUP)
    for number in range(5):
        log.now = BEGIN.replace(hour=12 + number)
        log.line(f"B{number}: from=<a@b>, size=313, nrcpt=1 (queue active)", QMGR)
    assert set(read(log.text).times) == {BEGIN.timestamp()}


def test_the_same_message_in_two_logs_counts_once(read: Read) -> None:
    """rsyslog writes mail.log and mail.info; a log may be named twice, packed or not, or in two forms."""
    written = from_clients(["192.0.2.6", "192.0.2.7", "192.0.2.6"])
    whole_seconds = written.replace(".000000", ".900000")
    traffic = read(written, written, gzip.compress(written.encode()), whole_seconds, written + written)
    assert clients(traffic) == ["192.0.2.6", "192.0.2.7", "192.0.2.6"]
    assert (traffic.coverage.repeated, traffic.coverage.begun, traffic.coverage.ended) == (15, 3, 3)


def test_a_log_without_ends_is_visible(read: Read) -> None:
    """`grep smtpd` leaves messages that began and never ended."""
    lines = [line for line in from_clients(["192.0.2.6", "192.0.2.7"]).splitlines(keepends=True) if "/smtpd[" in line]
    coverage = read("".join(lines)).coverage
    assert (coverage.begun, coverage.ended) == (2, 0)


def test_standard_input_may_be_packed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A dash is standard input, whose size is unknown."""
    path = tmp_path / "input"
    path.write_bytes(gzip.compress(from_clients(["192.0.2.6"]).encode()))
    with path.open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert clients(read_logs(["-"], lambda _: None)) == ["192.0.2.6"]
        assert size_of(["-"]) is None


def test_a_message_may_have_its_lines_in_two_files(tmp_path: Path) -> None:
    """The files are read in the order of their age, however they are named."""
    log = Log()
    log.message("192.0.2.6")
    for number, (name, part) in enumerate({"mail.log.1": log.lines[:2], "mail.log": log.lines[2:]}.items()):
        path = tmp_path / name
        path.write_text("\n".join(part) + "\n")
        os.utime(path, (number, number))
    names = sorted([str(tmp_path / "mail.log"), str(tmp_path / "mail.log.1")], key=written_at)
    read_bytes = Counter[str]()
    traffic = read_logs(names, lambda count: read_bytes.update(all=count))
    assert clients(traffic) == ["192.0.2.6"]
    assert read_bytes["all"] == size_of(names)


def test_logs_of_several_hosts_are_one_sequence(read: Read) -> None:
    """The messages are in the order of time, also when the logs were read one after the other."""
    first, second = Log(), Log()
    for number in range(2):
        first.message(f"192.0.2.{number}")
        second.message(f"192.0.2.{number + 2}", at=number + 1.5)
    assert clients(read(first.text, second.text.replace("B0D", "C0D"))) == [
        "192.0.2.0",
        "192.0.2.2",
        "192.0.2.1",
        "192.0.2.3",
    ]


def test_an_empty_log_has_no_messages(read: Read) -> None:
    """A log that was just rotated is not a mistake."""
    assert clients(read("")) == []


def test_missing_files_are_named_before_reading(tmp_path: Path) -> None:
    """A misspelt name and a directory are errors at once."""
    with pytest.raises(InputError, match=r"nowhere: No such file or directory"):
        written_at(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"is a directory"):
        written_at(str(tmp_path))


def test_unfinished_messages_are_forgotten(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: the oldest unfinished messages are dropped, and their clients leave nothing behind."""
    monkeypatch.setattr("senderscore_policy.maillog.messages.MAX_OPEN", 10)
    log = Log()
    log.line("A: client=a[192.0.2.6]")
    for number in range(20):
        log.line(f"B{number}: client=a[198.51.100.{number}]")
    log.line("A: from=<a@b>, size=1, nrcpt=1 (queue active)", QMGR)
    log.line("B19: from=<a@b>, size=1, nrcpt=1 (queue active)", QMGR)
    traffic = read(log.text)
    assert [client.address for client in traffic.who] == clients(traffic) == ["198.51.100.19"]
