"""Forecasts of the log of a real Postfix, and with the scores of a real daemon."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from daemon_process import Daemon
from nameserver import ZONE, Nameserver, addresses
from postfix_server import Postfix, SmtpClient
from waiting import eventually, free_port

HELD, DISCARDED = "192.0.2.6", "192.0.2.7"


def _log_of(address: str, messages: int) -> str:
    lines = []
    for number in range(messages):
        stamp = f"2026-03-04T10:{number // 60:02}:{number % 60:02}+00:00 mx postfix"
        lines.append(f"{stamp}/smtpd[9311]: B{number}: client=mx.example.net[{address}]")
        lines.append(f"{stamp}/qmgr[9308]: B{number}: from=<a@example.net>, size=313, nrcpt=1 (queue active)")
    return "".join(f"{line}\n" for line in lines)


@pytest.mark.real
def test_the_log_of_a_real_postfix(
    start_postfix: Callable[[int], Postfix], make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    """Messages over IPv4 and IPv6 are found with their recipients; those of an authenticated user do not count."""
    postfix = start_postfix(free_port())
    with postfix.client("192.0.2.5") as client:
        for recipients in (1, 3):
            client.deliver(recipients)
    with SmtpClient("127.0.0.1", postfix.port, timeout=30) as client:
        client.ehlo("mx.example.net")
        client.docmd("XCLIENT", "ADDR=192.0.2.5 NAME=mx.example.net LOGIN=joe")
        client.ehlo("mx.example.net")
        client.deliver()
    with postfix.client("2001:db8::25") as client:
        client.deliver()
    log = tmp_path / "mail.log"

    eventually(lambda: postfix.log.count("(queue active)") == 4, "the last message in the mail log")
    log.write_text(postfix.log)
    assert "sasl_username=joe" in log.read_text()
    daemon = make_daemon(counters={"count": "recipients"}, unscored={"limit": 3})
    forecast = json.loads(daemon.run("forecast", "--json", str(log)).stdout)
    clients = {client["client"]: (client["messages"], client["deferred"]) for client in forecast["clients"]}
    assert clients == {"192.0.2.5": (2, 1), "2001:db8::/64": (1, 0)}


@pytest.mark.real
def test_a_replay_shows_what_happened(
    start_postfix: Callable[[int], Postfix], start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    """The log of a Postfix that asks the daemon, replayed under the same limit, has the messages that were asked.

    Among them are deferred ones, and those that Postfix holds, rejects for their headers or their hops, or cannot
    accept because a map is unavailable; a message that an access table discards is not asked. The order of lines and
    a second copy of the log change nothing.
    """
    port = free_port()
    limit = {"limit": 5}
    daemon = start_daemon(listen={"policy": [f"inet:127.0.0.1:{port}"]}, unscored=limit, unavailable=limit)
    postfix = start_postfix(port)
    postfix.configure(
        "-e",
        "hopcount_limit=3",
        "smtpd_recipient_restrictions=check_recipient_access inline:{user1@example.org=HOLD, "
        "user2@example.org=DISCARD}",
        "header_checks=regexp:{{/^Subject: spam/ REJECT}}",
    )

    def deliver(address: str, recipient: str = "user0@example.org", header: str = "Subject: x") -> int:
        with postfix.client(address) as client:
            client.mail("sender@example.net")
            client.rcpt(recipient)
            return client.data(f"{header}\r\n\r\nA line.\r\n")[0]

    headers = ("Subject: x", "Subject: spam", "\r\n".join(f"Received: {hop}" for hop in range(4)))
    assert [deliver("192.0.2.5", header=header) for header in headers] == [250, 550, 554]
    assert (deliver(HELD, "user1@example.org"), deliver(DISCARDED, "user2@example.org")) == (250, 250)
    postfix.configure("-e", "sender_canonical_maps=texthash:/nowhere")
    assert deliver("192.0.2.5") == 451
    postfix.configure("-X", "sender_canonical_maps")
    assert [deliver("192.0.2.5") for _ in range(4)] == [250, 421, 421, 421]
    eventually(lambda: postfix.log.count("421 4.7.1 <END-OF-MESSAGE>") == 3, "the last rejection in the log")
    counts = daemon.json("get", "192.0.2.5", HELD, DISCARDED)
    asked = {client["client"]: (client["count"] + client["deferred"], client["deferred"]) for client in counts}
    assert asked == {"192.0.2.5": (8, 3), HELD: (1, 0), DISCARDED: (0, 0)}
    written = postfix.log.splitlines(keepends=True)
    for lines in (written, sorted(written), written[::-1], written + written):
        (tmp_path / "mail.log").write_text("".join(lines))
        forecast = daemon.json("forecast", str(tmp_path / "mail.log"))
        found = {client["client"]: (client["messages"], client["deferred"]) for client in forecast["clients"]}
        assert found | {DISCARDED: (0, 0)} == asked


@pytest.mark.real
def test_a_real_postfix_behind_postscreen(
    start_postfix: Callable[[int], Postfix], make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    """postscreen's own lines are not messages; what it passes on is one, also for an instance with another name."""
    postfix = start_postfix(free_port())
    postfix.configure("-e", "syslog_name=postfix-in")
    postfix.configure(
        "-M",
        f"{postfix.service}={postfix.service.removesuffix('/inet')} inet n - n - 1 postscreen",
        "smtpd/pass=smtpd pass - - n - - smtpd",
    )
    with postfix.client("192.0.2.5") as client:
        client.deliver()
    postfix.wait_for_log(r"\(queue active\)")
    log = tmp_path / "mail.log"
    log.write_text(postfix.log)
    assert "postfix-in/postscreen[" in log.read_text()
    forecast = json.loads(make_daemon().run("forecast", "--json", str(log)).stdout)
    assert [(client["client"], client["messages"]) for client in forecast["clients"]] == [("192.0.2.5", 1)]


def test_lookup_goes_through_the_daemon(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """The running daemon looks the scores up, within its budget, and knows them from then on."""
    log = tmp_path / "mail.log"
    log.write_text(_log_of("192.0.2.5", 120))
    with Nameserver() as nameserver:
        nameserver.answers["192.0.2.5"] = addresses("127.0.4.5")
        daemon = start_daemon(
            reputation={"zone": ZONE, "nameservers": [f"127.0.0.1:{nameserver.port}"], "deadline": 30}
        )
        without = json.loads(daemon.run("forecast", "--json", str(log)).stdout)
        assert (without["deferred"], nameserver.questions) == (0, [])
        for options in (["--lookup"], []):
            forecast = json.loads(daemon.run("forecast", "--json", *options, str(log)).stdout)
            assert (forecast["deferred"], forecast["clients"][0]["score"]) == (20, 5)
        assert len(nameserver.questions) == 1
