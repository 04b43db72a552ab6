"""`explain`, from a line in Postfix's log to the reason in the daemon's memory."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from daemon_process import COMMAND, Daemon, run_command
from nameserver import Nameserver, addresses
from postfix_server import Postfix
from terminal import read_all, terminal, without_escapes
from waiting import free_port, wait_for_listener

pytestmark = pytest.mark.real

StartDaemon = Callable[..., Daemon]
TIERS = [{"scores": "0-70", "limit": 1}, {"scores": "71-80", "limit": 3}, {"scores": "81-100", "limit": 1000}]
LARGE = {"networks": ["198.51.100.0/24"], "limit": 2}
KEYS = {
    *("time", "reason", "action", "client", "queue_id", "instance", "client_address", "client_name", "sender"),
    *("recipient_count", "sasl_username", "protocol_state", "score", "reputation", "detail", "source", "age", "tier"),
    *("limit", "count", "explanation"),
}


@pytest.fixture
def nameserver() -> Iterator[Nameserver]:
    """A score zone with one client."""
    with Nameserver() as server:
        server.answers["192.0.2.75"] = addresses("127.0.4.75")
        yield server


@pytest.fixture
def start(start_daemon: StartDaemon, nameserver: Nameserver) -> StartDaemon:
    """Starts a daemon with limits of one and three messages that asks that zone."""

    def start(**tables: Any) -> Daemon:
        reputation = {"nameservers": [f"127.0.0.1:{nameserver.port}"], "deadline": 30}
        return start_daemon(**{"tier": TIERS, "reputation": reputation} | tables)

    return start


def explained(daemon: Daemon, subject: str) -> list[str]:
    """The sentences about each decision, oldest first."""
    return [decision["explanation"] for decision in daemon.json("explain", subject)]


def test_from_the_mail_log_to_the_reason(start: StartDaemon, start_postfix: Callable[[int], Postfix]) -> None:
    """The queue ID of a rejection leads to count, limit, score, its source, the answer, and when it ends."""
    port = free_port()
    daemon = start(listen={"policy": [f"inet:127.0.0.1:{port}"]})
    postfix = start_postfix(port)
    with postfix.client("192.0.2.75") as client:
        codes = [client.deliver()[:3] for _ in range(4)]
    assert codes == ["250", "250", "250", "421"]
    queue_id = postfix.wait_for_log(r"(\w+): reject: END-OF-MESSAGE").group(1)
    done = daemon.run("explain", f"{queue_id}:")
    assert (done.returncode, done.stderr) == (0, "")
    headline, reason, _, now = done.stdout.splitlines()
    assert headline.endswith(
        f", deferred, from <sender@example.net>, client 192.0.2.75, queue ID {queue_id}, at END-OF-MESSAGE"
    )
    assert reason == (
        "  The client's score was 75 (looked up over DNS just then), tier 71-80: 3 messages/hour. "
        "The window held 4 with this message, above 3; deferred messages are not counted. "
        "The answer to Postfix: 421 sender score = 75, you're limited to 3 messages/hour in our policy, try again later"
    )
    assert re.fullmatch(
        r"192\.0\.2\.75 now: 3 of 3 messages/hour \(tier 71-80\); the daemon accepts one message again in "
        r"\S+ (h|min|h \d+ min) \(at \S+\) if the client sends nothing before",
        now,
    )


def test_a_terminal_of_80_columns_gets_whole_words(start: StartDaemon) -> None:
    """Paragraphs are wrapped at words below their indent, and coloured unless NO_COLOR is set."""
    daemon = start()
    with daemon.client() as postfix:
        for _ in range(4):
            postfix.ask(queue_id="4ABC")
    wait_for_listener(daemon.control)
    command = [str(COMMAND), "explain", "4ABC", "-c", str(daemon.file)]
    with terminal(*command) as (_, screen):
        coloured = read_all(screen)
    assert "\x1b[1;31mdeferred" in coloured
    with terminal(*command, NO_COLOR="1") as (_, screen):
        plain = read_all(screen)
    assert "\x1b[31" not in plain
    lines = [line.rstrip() for line in without_escapes(plain).splitlines()]
    assert max(map(len, lines)) <= 80
    # The last paragraph changes every second.
    words, same, piped = (
        without_escapes(text).partition("192.0.2.75 now:")[0].split()
        for text in (plain, coloured, daemon.run("explain", "4ABC").stdout)
    )
    assert words == same == piped
    first = next(number for number, line in enumerate(lines) if line.startswith("  The client's score"))
    paragraph = lines[first : lines.index("", first)]
    assert len(paragraph) > 1
    assert all(line.startswith("  ") for line in paragraph)


def test_the_json_of_a_client(start: StartDaemon) -> None:
    """All its decisions, oldest first, with the documented keys."""
    daemon = start()
    with daemon.client() as postfix:
        for number in range(4):
            postfix.ask(queue_id=f"4A{number}")
    decisions = daemon.json("explain", "192.0.2.75")
    assert [set(decision) for decision in decisions] == [KEYS] * 4
    assert [decision["queue_id"] for decision in decisions] == ["4A0", "4A1", "4A2", "4A3"]
    assert [decision["tier"] for decision in decisions] == ["not-asked", "71-80", "71-80", "71-80"]
    assert [decision["reason"] for decision in decisions] == ["within-limit"] * 3 + ["over-limit"]
    assert decisions[3] | {"time": 0, "instance": "", "explanation": "", "age": 0} == {
        "time": 0,
        "reason": "over-limit",
        "action": "421 sender score = 75, you're limited to 3 messages/hour in our policy, try again later",
        "client": "192.0.2.75",
        "queue_id": "4A3",
        "instance": "",
        "client_address": "192.0.2.75",
        "client_name": "mx.example.net",
        "sender": "sender@example.net",
        "recipient_count": "1",
        "sasl_username": "",
        "protocol_state": "END-OF-MESSAGE",
        "score": 75,
        "reputation": "scored",
        "detail": "",
        "source": "dns",
        "age": 0,
        "tier": "71-80",
        "limit": 3,
        "count": 4,
        "explanation": "",
    }


def test_each_reason_in_words(start: StartDaemon) -> None:
    """An administrator reads why, not a code."""
    daemon = start(override=[LARGE])
    with daemon.client() as postfix:
        postfix.ask("127.0.0.1", queue_id="EXEMPT")
        postfix.ask("192.0.2.1", queue_id="LOGIN", sasl_username="joe")
        postfix.ask("unknown", queue_id="NOWHERE")
        postfix.ask("192.0.2.2", queue_id="TWICE", instance="1.2.3")
        postfix.ask("192.0.2.2", queue_id="TWICE", instance="1.2.3")
        for _ in range(3):
            postfix.ask("198.51.100.7", queue_id="LARGE")
        for _ in range(2):
            postfix.ask("2001:db8::7", queue_id="SIX")
        for _ in range(2):
            postfix.ask("203.0.113.7", queue_id="NOSCORE")
    assert explained(daemon, "EXEMPT") == ["The client's network is in [exempt]: not counted and not limited."]
    assert explained(daemon, "LOGIN") == ["The client had logged in as joe: not counted and not limited."]
    assert explained(daemon, "NOWHERE") == ["Postfix sent no usable client address (unknown): accepted, not counted."]
    once = "The client's score was not needed yet; until it is, the smallest limit of all applies: 1 messages/hour."
    again = (
        "Postfix asked again about a message that was decided within the last minute (instance 1.2.3): the same answer"
    )
    assert explained(daemon, "TWICE") == [
        f"{once} The window held 1 with this message: within the limit.",
        f"{again}, not counted again.",
    ]
    own = "An [[override]] sets the client's limit: 2 messages/hour."
    assert [text.partition(". ")[0] + "." for text in explained(daemon, "LARGE")] == [own] * 3
    assert "above 2;" in explained(daemon, "LARGE")[2]
    six = "The zone has no IPv6 and no private addresses, so [unscored] decides: no limit."
    assert explained(daemon, "2001:db8::99")[1] == f"{six} The window held 2 with this message: within the limit."
    no_score = "The zone has no score for the client (looked up over DNS just then), so [unscored] decides: no limit."
    assert explained(daemon, "NOSCORE")[1].startswith(no_score)


def test_what_the_zone_did_not_tell(start: StartDaemon, nameserver: Nameserver) -> None:
    """A limit of [unavailable] is explained by the raw answer of the zone."""
    nameserver.otherwise = addresses("127.255.255.254")
    daemon = start(unavailable={"limit": 1})
    with daemon.client() as postfix:
        for _ in range(2):
            postfix.ask("203.0.113.7", queue_id="REFUSED")
    reason = "The score could not be read (127.255.255.254), so [unavailable] decides: 1 messages/hour."
    assert explained(daemon, "REFUSED")[1].startswith(reason)


def test_observe_mode(start: StartDaemon) -> None:
    """The message above the limit is accepted; the text says why, and what would have happened."""
    daemon = start(mode="observe")
    with daemon.client() as postfix:
        assert [postfix.ask(queue_id="OBSERVED") for _ in range(4)] == ["DUNNO"] * 4
    done = daemon.run("explain", "OBSERVED")
    assert ", accepted, would be deferred, " in done.stdout
    assert 'With mode = "observe" it was accepted nevertheless.' in done.stdout


def test_a_busy_client_is_shown_in_part(start: StartDaemon) -> None:
    """People see the last ten decisions, JSON has them all."""
    daemon = start()
    with daemon.client() as postfix:
        for number in range(30):
            postfix.ask(queue_id=f"{number:X}")
    printed = daemon.run("explain", "192.0.2.75").stdout
    assert printed.startswith("The last 10 of 30 decisions:\n")
    assert printed.count(", queue ID ") == 10
    assert len(daemon.json("explain", "192.0.2.75")) == 30


def test_nothing_remembered(start: StartDaemon) -> None:
    """After a restart the daemon remembers nothing; the command succeeds and says what that can mean."""
    daemon = start()
    with daemon.client() as postfix:
        postfix.ask(queue_id="4ABC")
    assert len(explained(daemon, "4ABC")) == 1
    daemon.stop()
    daemon.start()
    done = daemon.run("explain", "4ABC")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        "Nothing is remembered about 4ABC. The possible reasons:\n- The decision is older than "
    )
    assert "A restart empties it" in done.stdout
    assert daemon.json("explain", "4ABC") == []
    printed = daemon.run("explain", "203.0.113.9").stdout
    assert printed.startswith("Nothing is remembered about 203.0.113.9.")
    now = "203.0.113.9 now: 0 of 1 messages/hour (tier not-asked); 1 more will be accepted, then its score decides"
    assert printed.splitlines()[-1] == now


def test_without_a_daemon(start: StartDaemon) -> None:
    """The memory is the daemon's: status 69."""
    daemon = start()
    daemon.stop()
    done = daemon.run("explain", "4ABC")
    assert (done.returncode, done.stdout) == (69, "")
    assert "no daemon is running" in done.stderr


@pytest.mark.parametrize("subject", ["", "192.0.2", "../etc", "a b", "4ABC;"])
def test_neither_a_queue_id_nor_an_address(subject: str) -> None:
    """A usage error, in one line."""
    done = run_command("explain", subject)
    assert (done.returncode, done.stdout) == (64, "")
    assert "is neither a queue ID nor an IP address" in done.stderr


def test_hostile_attributes_are_shown_as_text(start: StartDaemon) -> None:
    """A sender cannot write control characters into the administrator's terminal, nor a line of its own."""
    daemon = start()
    with daemon.client() as postfix:
        postfix.ask(queue_id="4ABC", sender="\x1b[2Jx\x9b31m\u2028y@example.org")
    done = daemon.run("explain", "4ABC")
    assert "from <\\x1b[2Jx\\x9b31m\\u2028y@example.org>" in done.stdout
    assert "\\u001b" not in json.dumps(done.stdout)
