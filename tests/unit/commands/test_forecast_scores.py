"""Where a forecast has its scores from."""

import json
import time
from pathlib import Path

import pytest
from nameserver import ZONE, Nameserver, addresses

from senderscore_policy.commands.forecast import scores as forecast_scores
from senderscore_policy.commands.forecast.scores import Scores, learn, read_scores
from senderscore_policy.config.load import parse
from senderscore_policy.config.model import Config
from senderscore_policy.errors import InputError
from senderscore_policy.policy.clients import NetworkTable
from senderscore_policy.policy.reputation import UNKNOWN, Reputation, Scored

A, B, C = "192.0.2.75", "192.0.2.76", "192.0.2.77"


@pytest.fixture(autouse=True)
def _no_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a daemon that may run on this machine is read."""
    monkeypatch.setattr(forecast_scores, "SYSTEM_STATE", tmp_path / "nowhere")
    monkeypatch.setattr("senderscore_policy.config.paths.SYSTEM_CONTROL", tmp_path / "nowhere")


def scores_of(path: Path, text: str, assumed: Scored | None = None) -> Scores:
    """Scores from a file with this text."""
    (path / "scores.csv").write_text(text)
    return Scores(read_scores(path / "scores.csv"), assumed or UNKNOWN)


def reputations(scores: Scores, *clients: str) -> list[Reputation]:
    """What is known of these clients."""
    return [scores.known(client).reputation for client in clients]


def test_a_file_of_scores(tmp_path: Path) -> None:
    """Addresses and networks, comments and spaces; the longest prefix wins, and 0 is a score."""
    text = "# mine\n192.0.2.0/24, 40\n192.0.2.75,0 # worst\n\n 192.0.2.77/32 ,100\n::/0,1\n::ffff:198.51.100.1,7\n"
    scores = scores_of(tmp_path, text, Scored(50))
    found = reputations(scores, A, B, C, "198.51.100.1", "203.0.113.1")
    assert found == [Scored(0), Scored(40), Scored(100), Scored(7), Scored(50)]
    assert scores.origins[A] == "file"
    assert scores.origins["203.0.113.1"] == "assumed"


@pytest.mark.parametrize(
    "line", ["192.0.2.75", "192.0.2.75,101", "192.0.2.75,-1", "192.0.2.75,7.5", "host,7", "192.0.2.0/33,7", ",", "a,²"]
)
def test_a_line_that_is_no_score(tmp_path: Path, line: str) -> None:
    """It is an error with its place."""
    with pytest.raises(InputError, match=r"scores\.csv:2: .* is not an address or network, a comma and a score"):
        scores_of(tmp_path, f"# mine\n{line}\n")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing ones, and such that are no text."""
    with pytest.raises(InputError, match="No such file"):
        read_scores(tmp_path / "nowhere")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is no UTF-8 text"):
        read_scores(tmp_path / "binary")


def config(tmp_path: Path, nameserver: Nameserver | None = None, budget: int = 10000) -> Config:
    """A configuration with a state directory of its own."""
    port = nameserver.port if nameserver else 9
    return parse(
        f'[state]\ndirectory = "{tmp_path}"\n[reputation]\nzone = "{ZONE}"\nnameservers = ["127.0.0.1:{port}"]\n'
        f"query_budget = {budget}\ndeadline = 30\n",
        "test.toml",
    )


def save(path: Path, scores: dict[str, int | None], questions: int = 0) -> None:
    """A state file as a daemon leaves it."""
    header = {
        "format": 1,
        "zone": ZONE,
        "nameservers": [],
        "saved_at": time.time(),
        "budget": [[60, 60, questions]] if questions else [],
        "refusal": None,
    }
    entries = [[address, score, int(time.time())] for address, score in scores.items()]
    (path / "scores").write_text(f"{json.dumps(header)}\n{json.dumps(entries)}\n")


def test_what_a_daemon_saved_is_known(tmp_path: Path) -> None:
    """Scores at hand cost no query; a file of scores goes before them."""
    save(tmp_path, {A: 75, B: None, C: 77})
    scores = scores_of(tmp_path, f"{C},7", Scored(50))
    assert learn(scores, config(tmp_path), [A, B, C], [A], lookup=False) == ""
    assert reputations(scores, A, B, C) == [Scored(75), UNKNOWN, Scored(7)]
    assert [scores.origins[client] for client in (A, B, C)] == ["cache", "cache", "file"]


def test_damaged_state_is_nothing(tmp_path: Path) -> None:
    """As for the daemon."""
    (tmp_path / "scores").write_text("garbage")
    scores = Scores(NetworkTable(()), UNKNOWN)
    assert learn(scores, config(tmp_path), [A], [A], lookup=False) == ""
    assert reputations(scores, A) == [UNKNOWN]


def test_lookup_asks_only_for_scores_that_decide(tmp_path: Path) -> None:
    """The others stay as assumed: every query counts."""
    with Nameserver() as nameserver:
        nameserver.answers[A] = addresses("127.0.4.75")
        nameserver.answers[B] = addresses("127.0.4.76")
        scores = Scores(NetworkTable(()), UNKNOWN)
        assert learn(scores, config(tmp_path, nameserver), [A, B], [A], lookup=True) == ""
        assert reputations(scores, A, B) == [Scored(75), UNKNOWN]
        assert scores.origins == {A: "dns", B: "assumed"}
        assert len(nameserver.questions) == 1


def test_lookup_keeps_within_the_budget(tmp_path: Path) -> None:
    """What the daemon has spent is spent here, too; what cannot be asked is told."""
    save(tmp_path, {}, questions=9)
    with Nameserver() as nameserver:
        nameserver.answers[A] = nameserver.answers[B] = addresses("127.0.4.75")
        scores = Scores(NetworkTable(()), UNKNOWN)
        trouble = learn(scores, config(tmp_path, nameserver, budget=100), [A, B], [A, B], lookup=True)
        assert trouble.startswith("1 of the scores could not be looked up (refused: query budget spent")
        assert len(nameserver.questions) == 1


def test_a_zone_that_refuses(tmp_path: Path) -> None:
    """A refusal is no score."""
    with Nameserver() as nameserver:
        nameserver.answers[A] = addresses("127.255.255.254")
        scores = Scores(NetworkTable(()), Scored(50))
        trouble = learn(scores, config(tmp_path, nameserver), [A], [A], lookup=True)
        assert trouble == "1 of the scores could not be looked up (refused: 127.255.255.254)"
        assert reputations(scores, A) == [Scored(50)]
