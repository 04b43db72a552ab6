"""The command forecast: what it prints and writes, and how it fails."""

import csv
import gzip
import io
import json
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from maillog_lines import Log

from senderscore_policy.cli import main
from senderscore_policy.commands.forecast import scores as forecast_scores

Forecast = Callable[..., tuple[int, str, str]]

HOSTILE = "<script>alert(1)</script>\x1b[31m{{7*7}}"


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


def test_json(forecast: Forecast, log: Path) -> None:
    """One object, with every client."""
    status, out, err = forecast("--json", "--scores", "scores.csv", str(log))
    result = json.loads(out)
    assert (status, err) == (0, "")
    assert result.keys() == {"messages", "deferred", "clients"}
    assert (result["messages"], result["deferred"], len(result["clients"])) == (450, 50, 152)
    assert result["clients"][0].keys() == {
        "client", "score", "tier", "limit", "messages", "deferred", "first_deferred"
    }  # fmt: skip
    assert result["clients"][1] == {
        "client": "192.0.2.75",
        "score": 75,
        "tier": "71-80",
        "limit": 800,
        "messages": 150,
        "deferred": 0,
        "first_deferred": None,
    }


def test_csv(forecast: Forecast, log: Path) -> None:
    """The same as lines."""
    status, out, _ = forecast("--csv", "--scores", "scores.csv", str(log))
    rows = list(csv.DictReader(io.StringIO(out)))
    assert (status, len(rows), rows[0]["client"], rows[0]["deferred"]) == (0, 152, "192.0.2.5", "50")


def test_text(forecast: Forecast, log: Path) -> None:
    """The result, the tiers, who was deferred, and what the numbers rest on; nothing that a terminal obeys."""
    status, out, _ = forecast("--scores", "scores.csv", str(log))
    assert status == 0
    assert "50 of 450 messages (11.1%) would have been deferred, of 1 of 152 clients." in out
    assert re.search(r"^0-10 +100 +1 +150 +50$", out, re.MULTILINE)
    assert re.search(
        r"^192\.0\.2\.5 +5 +0-10 +100 +150 +50 +20\d\d-.* <script>alert\(1\)</script>\\x1b\[31m", out, re.MULTILINE
    )
    assert "Scores: 2 from the file. The other 150 IPv4 clients are assumed to have no score at all" in out
    assert "1 of 2,702 lines could not be read" in out
    assert "In reality a deferred message comes back" in out
    assert out.replace("\n", "").isprintable()


def test_what_is_only_guessed_is_said(forecast: Forecast, log: Path) -> None:
    """Without any scores nobody is limited; who reads that is told how many scores would matter."""
    out = forecast(str(log))[1]
    assert "0 of 450 messages" in out
    assert "None is known. All 152 IPv4 clients are assumed to have no score at all" in " ".join(out.split())
    assert "2 clients of an assumed score sent more than the smallest limit" in out


def test_assumption(forecast: Forecast, log: Path) -> None:
    """Clients without a known score are taken as they are assumed to be."""
    result = json.loads(forecast("--json", "--assume", "5", str(log))[1])
    assert (result["deferred"], {client["score"] for client in result["clients"]}) == (100, {5})


def test_comparison(forecast: Forecast, log: Path) -> None:
    """What another configuration would change."""
    Path("other.toml").write_text('[[tier]]\nscores = "0-100"\nlimit = 120\n')
    arguments = ("--scores", "scores.csv", "--compare", "other.toml", str(log))
    result = json.loads(forecast("--json", *arguments)[1])
    assert (result["deferred"], result["compare"]["deferred"]) == (50, 60)
    out = forecast("--html", "out.html", *arguments)[1]
    assert "Under other.toml: 60 messages deferred." in out
    assert re.search(r"^192\.0\.2\.75 +150 +0 +30 +\+30 ", out, re.MULTILINE)
    page = Path("out.html").read_text()
    assert "60 messages would have been deferred instead of 50." in page
    assert ">+30<" in page.replace("\n", "").replace("</tr>", "<")


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


def test_the_page_stands_alone_and_shows_what_is_hostile_as_text(forecast: Forecast, log: Path) -> None:
    """No script, no request to anywhere, and names out of DNS are text."""
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
    assert "<script>alert(1)</script>\\x1b[31m{{7*7}}" in page.text
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
        (["policy.toml"], "policy.toml: is no mail log"),
        (["broken.gz"], "broken.gz: is damaged or cut short"),
        (["--scores", "policy.toml", "mail.log"], "policy.toml:1: '[state]' is not an address or network"),
        (["--html", "nowhere/out.html", "mail.log"], "nowhere/out.html: there is no such directory"),
        (["--html", ".", "mail.log"], ".: Is a directory"),
        (["--assume", "101", "mail.log"], "'101' is neither a score from 0 to 100 nor unscored"),
        (["--json", "--csv", "mail.log"], "not allowed with"),
        ([], "the following arguments are required: MAILLOG"),
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
