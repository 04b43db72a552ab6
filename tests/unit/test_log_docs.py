"""docs/log.md describes the lines that the daemon writes."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from senderscore_policy.monitoring.log import decision_line
from senderscore_policy.policy.clients import Client
from senderscore_policy.policy.decision import Decision, Reason
from senderscore_policy.policy.protocol import RequestParser
from senderscore_policy.policy.reputation import UNKNOWN, Refused, Reputation, Scored
from senderscore_policy.policy.tiers import UNLIMITED

PAGE = Path(__file__).parents[2] / "docs/log.md"
DOCUMENT = PAGE.read_text(encoding="utf-8")
ANSWER = "421 sender score = 75, you're limited to 800 messages/hour in our policy, try again later"
FORGED = 'x" tier=0 client=192.0.2.1 client_address=192.0.2.1 action=DUNNO \\" é\u2028'


def line(  # noqa: PLR0917 - the fields of a decision
    sender: str = "news@example.net",
    address: str = "192.0.2.75",
    key: str = "192.0.2.75",
    reason: Reason = Reason.OVER_LIMIT,
    reputation: Reputation | None = Scored(75),  # noqa: B008 - it cannot change
    action: str = ANSWER,
) -> str:
    """Return the daemon's line about a message."""
    attributes = {
        "client_address": address,
        "queue_id": "4T9xKk3gZ2z1Rw",
        "instance": "1f2e.6741.0",
        "sender": sender,
        "protocol_state": "END-OF-MESSAGE",
    }
    text = "".join(f"{name}={value}\n" for name, value in attributes.items())
    (request,) = RequestParser().feed(f"{text}\n".encode())
    counted = reason in {Reason.OVER_LIMIT, Reason.WITHIN_LIMIT}
    count, tier, limit = (801, "71-80", 800.0) if counted else (0, "none", UNLIMITED)
    return decision_line(Decision(request, Client(key, key), reason, action, count, tier, limit, reputation, 0.0))


LINES = [
    line(),
    line(sender=""),
    line(sender=FORGED),
    line(address="2001:db8::25", key="2001:db8::/64", reputation=UNKNOWN),
    line(action="DUNNO"),
    line(reason=Reason.EXEMPT, reputation=None, action="DUNNO"),
    line(reputation=Refused("127.255.255.254"), action='550 say "no" \\o/'),
]


def blocks(language: str) -> list[str]:
    """Return the page's examples in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)


def unquoted(value: str) -> str:
    """Return the value of a field after undoing the quoting that the page describes."""
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value


def test_the_example_is_what_the_daemon_writes() -> None:
    """The page's first example is, character by character, a line of the daemon."""
    assert f"\n{line()}\n" in DOCUMENT


def test_each_field_is_described_in_its_order() -> None:
    """The page's table has exactly the fields of a line, in their order."""
    table = DOCUMENT.partition("| field |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [
        *re.findall(r" (\w+)=", line())[:12],
        "action",
    ]


def test_each_reason_is_described() -> None:
    """The row of the field `reason` names every reason."""
    (row,) = re.findall(r"^\| `reason` .*$", DOCUMENT, re.MULTILINE)
    assert set(re.findall(r"`([a-z-]+)`", row)) - {"reason", "debug"} == set(Reason)


@pytest.mark.parametrize("text", LINES)
def test_the_regular_expression_takes_each_line_apart(text: str) -> None:
    """The page's regular expression finds all fields, also in a line with a hostile sender."""
    (expression,) = blocks("regex")
    found = re.fullmatch(expression.strip(), text)
    assert found
    assert len(found.groupdict()) == 13
    assert found["client_address"] in {"192.0.2.75", "2001:db8::25"}
    assert found["tier"] in {"71-80", "none"}


def test_quoted_values_are_read_back() -> None:
    """The page's rule about quotes and backslashes leads back to the original value."""
    (expression,) = blocks("regex")
    found = re.fullmatch(expression.strip(), line(sender=FORGED))
    assert found
    assert unquoted(found["sender"]) == FORGED.replace("\u2028", "\\u2028")
    assert unquoted(found["action"]) == ANSWER


@pytest.mark.parametrize("text", LINES)
def test_logstash(text: str) -> None:
    """The pattern for logstash, in Ruby's notation, matches each whole line."""
    (example,) = blocks("logstash")
    (pattern,) = re.findall(r"=> '(.*)' }", example)
    found = re.fullmatch(pattern.replace("(?<", "(?P<"), text)
    assert found
    assert found["client_address"] in {"192.0.2.75", "2001:db8::25"}


@pytest.mark.parametrize("text", LINES)
def test_loki(text: str) -> None:
    """The expressions for Loki find the daemon's own fields whatever the sender wrote, and each line is logfmt."""
    expressions = [found for example in blocks("logql") for found in re.findall("regexp `(.*?)`", example)]
    values = [next(re.finditer(expression, text))[1] for expression in expressions]
    assert values[0] in {"71-80", "none"}
    assert values[1] in {"192.0.2.75", "2001:db8::/64"}
    # https://pkg.go.dev/github.com/kr/logfmt: names, each with a value of Go's strings or without blanks and quotes.
    assert re.fullmatch(r'decision(?: \w+=(?:"(?:[^"\\]|\\.)*"|[^\s"=]+))+', text)
    assert all("decision reason=over-limit" in example for example in blocks("logql"))


class TestFail2ban:
    """The filter and the jail for fail2ban."""

    def test_the_page_shows_the_files_to_install(self) -> None:
        """The page shows the files in contrib/, which an administrator copies."""
        folder = PAGE.parents[1] / "contrib/fail2ban"
        files = [folder / kind / "senderscore-policy.conf" for kind in ("filter.d", "jail.d")]
        assert [file.read_text() for file in files] == blocks("ini")

    @pytest.fixture
    def failregex(self) -> str:
        """Return the filter's expression after fail2ban's own substitutions for an address and the line's beginning."""
        filters = configparser.RawConfigParser()
        filters.read_string(blocks("ini")[0])
        text = filters["Definition"]["failregex"]
        return text.replace("%(__prefix_line)s", "").replace("<ADDR>", r"(?P<address>[0-9A-Fa-f.:]+)")

    @pytest.mark.parametrize("text", LINES)
    def test_it_finds_the_client_of_a_deferral(self, failregex: str, text: str) -> None:
        """The filter finds the clients of deferred messages only, also when a sender looks like a field."""
        found = re.match(failregex, text)
        if "reason=over-limit" not in text:
            assert found is None
        else:
            assert found
            assert found["address"] in {"192.0.2.75", "2001:db8::25"}

    @pytest.mark.skipif(shutil.which("fail2ban-regex") is None, reason="fail2ban is not installed")
    def test_with_fail2ban_itself(self, tmp_path: Path) -> None:
        """fail2ban itself finds each deferral in a mail log of syslog."""
        (tmp_path / "filter.conf").write_text(blocks("ini")[0])
        shutil.copy("/etc/fail2ban/filter.d/common.conf", tmp_path)
        log = "".join(f"Nov 22 21:02:14 mx senderscore-policy[917]: {text}\n" for text in LINES)
        (tmp_path / "mail.log").write_text(log)
        command = ["fail2ban-regex", "--out", "ip", str(tmp_path / "mail.log"), str(tmp_path / "filter.conf")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["192.0.2.75"] * 3 + ["2001:db8::25"] + ["192.0.2.75"] * 2
