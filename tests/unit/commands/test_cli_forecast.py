"""The command forecast: its output, its page and its errors."""

import csv
import gzip
import io
import json
import os
import re
from collections.abc import Callable
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from maillog_lines import BEGIN, Log, from_clients

from senderscore_policy.cli import main
from senderscore_policy.commands.forecast import scores as forecast_scores

Forecast = Callable[..., tuple[int, str, str]]

LEAP_DAY = "Feb 30 10:00:00 mx postfix/smtpd[1]: B1: client=a[192.0.2.1]"
HOSTILE = "<script>alert(1)</script>\x1b]0;{{7*7}}"


@pytest.fixture
def forecast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Forecast:
    """Runs the command with a configuration of its own; exit status, stdout, stderr."""
    monkeypatch.setattr(forecast_scores, "SYSTEM_STATE", tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    Path("policy.toml").write_text(f'[state]\ndirectory = "{tmp_path}"\n[listen]\ncontrol = "{tmp_path}/none"\n')
    Path("scores.csv").write_text("192.0.2.5,5\n192.0.2.75,75\n")

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            status = main(["forecast", "-c", "policy.toml", *arguments])
        except SystemExit as end:
            status = int(end.code or 0)
        written = capsys.readouterr()
        return status, written.out, written.err

    return run


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log with a client far above its limit, and others."""
    log = Log()
    for number in range(150):
        log.message("192.0.2.5", name=HOSTILE)
        log.message("192.0.2.75")
        log.message(f"198.51.100.{number}")
    log.line("garbage")
    log.lines.append("garbage")
    path = tmp_path / "mail.log"
    path.write_text(log.text)
    return path


def test_json_has_the_result_its_basis_and_every_client(forecast: Forecast, log: Path) -> None:
    """One object, with the period, the coverage, the range, the queries and the notes."""
    status, out, err = forecast("--json", "--scores", "scores.csv", str(log))
    result = json.loads(out)
    assert (status, err) == (0, "")
    assert (result["messages"], result["deferred"], len(result["clients"])) == (450, 50, 152)
    assert (result["deferred_range"], result["late"], result["deciding"]) == ([50, 50], 50, [])
    assert result["coverage"] == {
        "files": 1,
        "lines": 2702,
        "postfix": 2251,
        "unread": {},
        "without_postfix": [],
        "begun": 450,
        "without_end": 0,
        "repeated": 0,
    }
    assert result["period"].keys() == {"begin", "end"}
    assert result["queries"] == {"total": 2, "per_day": 2.0, "most_in_a_day": 2, "budget_per_day": 1000}
    assert any(note.startswith("Scores: 2 from --scores; 150 IPv4 clients are assumed") for note in result["notes"])
    assert result["clients"][1] == {
        "client": "192.0.2.75",
        "host": "mx.example.net",
        "score": 75,
        "origin": "file",
        "tier": "71-80",
        "limit": 800,
        "messages": 150,
        "peak": 150,
        "deferred": 0,
        "late": 0,
        "first_deferred": None,
        "last_deferred": None,
        "hours_deferred": 0,
    }


def test_csv_has_a_line_for_each_client(forecast: Forecast, log: Path) -> None:
    """The notes go to standard error, and the output is a file for --scores."""
    status, out, err = forecast("--csv", "--scores", "scores.csv", str(log))
    rows = list(csv.DictReader(io.StringIO(out)))
    assert (status, len(rows), rows[0]["client"], rows[0]["deferred"]) == (0, 152, "192.0.2.5", "50")
    assert rows[1]["host"] == "mx.example.net"
    assert "Read: 1 log with 2,702 lines" in err
    assert re.match(r"20\d\d-.* to 20.*: 50 of 450 messages", err)
    Path("again.csv").write_text(out)
    assert json.loads(forecast("--json", "--scores", "again.csv", str(log))[1])["deferred"] == 50


def test_the_text_has_the_result_and_its_basis(forecast: Forecast, log: Path) -> None:
    """The headline, the tiers, the deferred clients and the notes; nothing that a terminal obeys."""
    status, out, _ = forecast("--scores", "scores.csv", str(log))
    text = " ".join(out.split())
    assert status == 0
    assert "50 of 450 messages (11.1%) would have been deferred, from 1 of 152 clients." in out
    assert "Of 50 deferred messages, Postfix took 50, which would have been late." in text
    assert "Messages are deferred in 1 hour, between 20" in text
    assert "The daemon would have asked for 2 scores: 2.0 a day, at most 2 in one day; the budget allows 1,000" in text
    assert re.search(r"^0-10 +100 +1 +150 +50$", out, re.MULTILINE)
    assert re.search(r"^192\.0\.2\.5 +5 +100 +150 +150 +50 +20\d\d-.* <script>alert\(1", out, re.MULTILINE)
    assert "Scores: 2 from --scores; 150 IPv4 clients are assumed to have no score (unscored)." in text
    assert "Read: 1 log with 2,702 lines, 2,251 by Postfix's smtpd, cleanup and qmgr; 450 messages begun" in text
    assert "A mail server sends a deferred message again" in text
    assert out.replace("\n", "").isprintable()


@pytest.mark.parametrize("width", [130, 80])
def test_tables_fit_the_terminal(forecast: Forecast, log: Path, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """A host's name is cut to what the terminal has room for, and a narrow terminal shows fewer columns."""
    monkeypatch.setenv("COLUMNS", str(width))
    log.write_text(log.read_text().replace("mx.example.net", f"{'a' * 250}.net"))
    out = forecast("--assume", "5", str(log))[1]
    assert re.search(r" a+…$", out, re.MULTILINE)
    assert max(map(len, out.splitlines()[1:])) <= width
    assert ("last deferred" in out, "first deferred" in out) == (width > 80, width > 80)


def test_without_scores_the_result_is_a_range(forecast: Forecast, log: Path) -> None:
    """The headline depends on the clients whose score decides, which are listed with their peak."""
    out = forecast(str(log))[1]
    assert "0 to 100 of 450 messages would have been deferred, depending on the scores of 2 clients." in out
    assert "--lookup asks 2 questions. If these clients have no score, 0 would be deferred." in out
    assert "Of at most 100 deferred messages, Postfix took 100, which would have been late." in out
    assert "Scores: none is known; 152 IPv4 clients are assumed to have no score (unscored)." in out
    assert re.search(r"^192\.0\.2\.75 +150 +150 +50 +mx\.example\.net$", out, re.MULTILINE)
    result = json.loads(forecast("--json", str(log))[1])
    assert (result["deferred_range"], result["deciding"]) == ([0, 100], ["192.0.2.5", "192.0.2.75"])
    assert {client["origin"] for client in result["clients"]} == {"assumed"}
    forecast("--html", "out.html", str(log))
    assert "<title>Forecast: 0 to 100 of 450 messages would have been deferred" in Path("out.html").read_text()


def test_an_assumption_makes_one_result(forecast: Forecast, log: Path) -> None:
    """Clients without a known score have the score that --assume names."""
    result = json.loads(forecast("--json", "--assume", "5", str(log))[1])
    assert (result["deferred"], {client["score"] for client in result["clients"]}) == (100, {5})
    text = " ".join(forecast("--assume", "5", str(log))[1].split())
    assert "100 of 450 messages (22.2%) would have been deferred, from 2 of 152 clients." in text
    assert "2 clients with an assumed score sent more than the smallest limit in a window. With other scores" in text


def test_spam_is_told_from_late_mail(forecast: Forecast, tmp_path: Path) -> None:
    """The log knows which of the deferred messages a filter rejected anyway."""
    log = Log()
    for number in range(150):
        log.now = BEGIN + timedelta(seconds=number)
        log.line(f"B{number}: client=a[192.0.2.5]")
        log.line(f"B{number}: milter-reject: END-OF-MESSAGE from a[192.0.2.5]: 5.7.1 Spam", "postfix/cleanup[1]")
    log.messages("192.0.2.5", 7)
    (tmp_path / "mail.log").write_text(log.text)
    text = " ".join(forecast("--scores", "scores.csv", "mail.log")[1].split())
    parts = "Postfix took 7, which would have been late; a filter rejected, held or discarded 50 anyway"
    assert f"Of 57 deferred messages, {parts}." in text
    result = json.loads(forecast("--json", "--scores", "scores.csv", "mail.log")[1])
    assert (result["late"], result["filtered"], result["clients"][0]["late"]) == (7, 50, 7)


def test_permitted_networks_are_not_asked(forecast: Forecast, tmp_path: Path) -> None:
    """Private clients get a note, and --not-asked takes Postfix's mynetworks."""
    (tmp_path / "mail.log").write_text(from_clients(["10.0.0.5", "10.0.0.5", "192.0.2.6"]))
    assert "2 messages of 1 client in private networks counted." in " ".join(forecast("mail.log")[1].split())
    out = forecast("--json", "--not-asked", "127.0.0.0/8, 10.0.0.0/8 [::1]/128", "mail.log")[1]
    result = json.loads(out)
    assert ([client["client"] for client in result["clients"]], result["uncounted"]) == (["192.0.2.6"], 2)
    assert "private" not in out


@pytest.mark.parametrize(
    ("damage", "note"),
    [
        (lambda lines: [line for line in lines if "client=" in line], "3 messages that clients began, 3 have no end"),
        (lambda lines: [line for line in lines if "qmgr" in line], "No client began a message in the log"),
        (lambda lines: lines * 2, "3 messages occurred more than once in the logs and counted once"),
        (lambda lines: [*lines, LEAP_DAY], "1 line of Postfix could not be read: impossible date."),
    ],
)
def test_every_output_says_what_is_missing(
    forecast: Forecast, tmp_path: Path, damage: Callable[[list[str]], list[str]], note: str
) -> None:
    """Lost, repeated and unread lines are notes of the text, the page, JSON and CSV."""
    log = Log()
    log.messages("192.0.2.5", 3)
    (tmp_path / "mail.log").write_text("\n".join(damage(log.lines)) + "\n")
    for option in ((), ("--json",), ("--csv",)):
        _, out, err = forecast(*option, "mail.log")
        assert note in " ".join((out + err).split()), option
    forecast("--html", "out.html", "mail.log")
    assert note in Path("out.html").read_text()


def test_comparison(forecast: Forecast, log: Path) -> None:
    """Another configuration's result is shown with the clients that it treats differently."""
    Path("other.toml").write_text('[[tier]]\nscores = "0-100"\nlimit = 120\n')
    arguments = ("--scores", "scores.csv", "--compare", "other.toml", str(log))
    result = json.loads(forecast("--json", *arguments)[1])
    assert (result["deferred"], result["compare"]["deferred"]) == (50, 60)
    assert len(result["compare"]["clients"]) == 152
    out = forecast("--html", "out.html", *arguments)[1]
    assert "Under other.toml: 60 messages deferred." in out
    assert re.search(r"^192\.0\.2\.75 +150 +0 +30 +\+30 ", out, re.MULTILINE)
    page = Path("out.html").read_text()
    assert "60 messages would have been deferred instead of 50." in page
    assert ">+30<" in page.replace("\n", "").replace("</tr>", "<")


def test_without_a_log_the_journal_is_read(forecast: Forecast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """journalctl prints the mail facility as JSON; an empty journal and a failure are errors with a remedy."""
    entry = {"__REALTIME_TIMESTAMP": "1772618400000000", "_HOSTNAME": "mx", "_PID": "1"}
    texts = {"smtpd": "B1: client=a[192.0.2.5]", "qmgr": "B1: from=<a@b>, size=1, nrcpt=1 (queue active)"}
    entries = [entry | {"SYSLOG_IDENTIFIER": f"postfix/{name}", "MESSAGE": text} for name, text in texts.items()]
    (tmp_path / "journal").write_text("".join(json.dumps(each) + "\n" for each in entries))
    program = tmp_path / "journalctl"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for script, status, text in (
        (f'case "$*" in *SYSLOG_FACILITY=2*) cat {tmp_path}/journal;; esac', os.EX_OK, "1 message "),
        (
            "true",
            os.EX_USAGE,
            "the journal shows no mail; run this as root or as a member of the group",
        ),
        ("echo broken >&2; exit 1", os.EX_USAGE, "the journal cannot be read: broken"),
    ):
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        found, out, err = forecast()
        assert (found, text in out + err) == (status, True), out + err


class Page(HTMLParser):
    """The elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_no_other_file_and_shows_hostile_names_as_text(forecast: Forecast, log: Path) -> None:
    """It has no script and makes no request, and names out of DNS are text."""
    status, out, _ = forecast("--html", "out.html", "--scores", "scores.csv", str(log))
    assert (status, "The whole report is in out.html." in out) == (0, True)
    text = Path("out.html").read_text()
    page = Page(text)
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "link", "img", "iframe", "object", "base", "a"})
    named = {name for _, attributes in page.elements for name in attributes}
    assert named.isdisjoint({"src", "href", "xlink:href", "srcset", "action", "style"})
    assert not any(name.startswith("on") for name in named)
    assert "http" not in text.replace("http-equiv", "")
    assert "url(" not in text
    assert "<script>alert(1)</script>\\x1b]0;{{7*7}}" in page.text
    assert any(tag == "svg" for tag, _ in page.elements)


def test_a_page_of_nothing(forecast: Forecast) -> None:
    """An empty log has a page, too."""
    Path("empty.log").touch()
    status, out, _ = forecast("--html", "out.html", "empty.log")
    assert (status, "0 of 0 messages" in out) == (0, True)
    assert "No client." in Path("out.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.log"], "nowhere.log: No such file or directory"),
        (["policy.toml"], "policy.toml: no line of Postfix's smtpd, cleanup or qmgr; the first line is '[state]'"),
        (["broken.gz"], "broken.gz: is damaged or cut short"),
        (["--scores", "policy.toml", "mail.log"], "policy.toml:1: '[state]' is not an address or network"),
        (["--html", "nowhere/out.html", "mail.log"], "nowhere/out.html: there is no such directory"),
        (["--html", ".", "mail.log"], ".: Is a directory"),
        (["--assume", "101", "mail.log"], "'101' is neither a score from 0 to 100 nor unscored"),
        (["--json", "--csv", "mail.log"], "not allowed with"),
        (["--not-asked", "hash:/etc/networks", "mail.log"], "name networks only, not tables or host names"),
    ],
)
def test_mistakes(forecast: Forecast, log: Path, arguments: list[str], message: str) -> None:
    """Each is one line on stderr, and exit status 64."""
    Path("broken.gz").write_bytes(gzip.compress(log.read_bytes())[:500])
    status, out, err = forecast(*arguments)
    assert (status, out, err.count("\n")) == (os.EX_USAGE, "", 1)
    assert message in err


def test_a_mistake_in_the_other_configuration(forecast: Forecast, log: Path) -> None:
    """It is a mistake in a configuration, exit status 78."""
    Path("other.toml").write_text("mood = 1\n")
    status, _, err = forecast("--compare", "other.toml", str(log))
    assert (status, "other.toml" in err) == (os.EX_CONFIG, True)
