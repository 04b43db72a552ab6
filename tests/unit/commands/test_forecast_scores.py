"""A forecast takes scores from a file, the daemon, the zone, or an assumption."""

import json
import time
from pathlib import Path

import pytest
from nameserver import ZONE, Nameserver, addresses

from senderscore_policy.commands.forecast import scores as forecast_scores
from senderscore_policy.commands.forecast.scores import Scores, read_scores
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
    """Their reputations."""
    return [scores.find(client)[0] for client in clients]


def origins(scores: Scores, *clients: str) -> list[str]:
    """Where the scores of clients come from."""
    return [scores.find(client)[1] for client in clients]


def test_a_file_of_scores_has_addresses_and_networks(tmp_path: Path) -> None:
    """Comments and spaces are allowed, the longest prefix wins, 0 is a score, and a client may be unscored."""
    text = "# mine\n192.0.2.0/24, 40\n192.0.2.75,0 # worst\n\n 192.0.2.77/32 ,100\n::ffff:198.51.100.1,7\n"
    text += "198.51.100.2,unscored\n"
    scores = scores_of(tmp_path, text, Scored(50))
    found = reputations(scores, A, B, C, "198.51.100.1", "198.51.100.2", "203.0.113.1")
    assert found == [Scored(0), Scored(40), Scored(100), Scored(7), UNKNOWN, Scored(50)]
    assert origins(scores, A, "203.0.113.1") == ["file", "assumed"]


def test_spreadsheets_begin_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Excel's "CSV UTF-8" is read, with a header or without."""
    assert reputations(scores_of(tmp_path, f"\ufeff{A},75\r\n"), A) == [Scored(75)]
    assert reputations(scores_of(tmp_path, f"\ufeff{A};75\r\n"), A) == [Scored(75)]
    assert reputations(scores_of(tmp_path, f"\ufeffscore,client\r\n75,{A}\r\n"), A) == [Scored(75)]


def test_the_output_of_a_forecast_is_a_file_of_scores(tmp_path: Path) -> None:
    """Its known scores count, also of unscored clients; assumed ones and overrides do not become known by it."""
    text = (
        "client,host,score,origin,tier\n"
        f'{A},"a, b",75,known,71-80\n{B},b,,known,unscored\n{C},c,5,assumed,0-10\n'
        "192.0.2.78,d,9,override,0-10\n2001:db8::/64,e,,known,unscored\n"
    )
    scores = scores_of(tmp_path, text, Scored(50))
    assert reputations(scores, A, B, C, "192.0.2.78") == [Scored(75), UNKNOWN, Scored(50), Scored(50)]


@pytest.mark.parametrize(
    "line", ["192.0.2.75", "192.0.2.75,101", "192.0.2.75,-1", "192.0.2.75,7.5", "host,7", "192.0.2.0/33,7", ",", "a,²"]
)
def test_a_mistake_in_a_file_of_scores_is_an_error_with_its_place(tmp_path: Path, line: str) -> None:
    """The error names file, line and text."""
    with pytest.raises(InputError, match=r"scores\.csv:2: .* is not an address or network, a comma and a score"):
        scores_of(tmp_path, f"# mine\n{line}\n")


def test_a_line_that_is_shorter_than_the_header_is_an_error(tmp_path: Path) -> None:
    """A header may name the client last."""
    with pytest.raises(InputError, match=r"scores\.csv:2: '75' is not an address or network"):
        scores_of(tmp_path, "score,client\n75\n")


def test_unreadable_files_of_scores_are_named(tmp_path: Path) -> None:
    """A missing file and one that is not text are mistakes of the user."""
    with pytest.raises(InputError, match="No such file"):
        read_scores(tmp_path / "nowhere")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is not UTF-8 text"):
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


def test_a_daemons_saved_scores_are_known(tmp_path: Path) -> None:
    """Saved scores cost no query; a file of scores goes before them."""
    save(tmp_path, {A: 75, B: None, C: 77})
    scores = scores_of(tmp_path, f"{C},7", Scored(50))
    assert scores.learn(config(tmp_path), [A], lookup=False) == ""
    assert reputations(scores, A, B, C) == [Scored(75), UNKNOWN, Scored(7)]
    assert origins(scores, A, B, C) == ["known", "known", "file"]


def test_damaged_state_is_ignored(tmp_path: Path) -> None:
    """A damaged state file is ignored, as the daemon does."""
    (tmp_path / "scores").write_text("garbage")
    scores = Scores(NetworkTable(()), UNKNOWN)
    assert scores.learn(config(tmp_path), [A], lookup=False) == ""
    assert reputations(scores, A) == [UNKNOWN]


def test_lookup_asks_only_for_scores_that_decide(tmp_path: Path) -> None:
    """The others stay as assumed: every query counts."""
    with Nameserver() as nameserver:
        nameserver.answers[A] = addresses("127.0.4.75")
        nameserver.answers[B] = addresses("127.0.4.76")
        scores = Scores(NetworkTable(()), UNKNOWN)
        assert scores.learn(config(tmp_path, nameserver), [A], lookup=True) == ""
        assert reputations(scores, A, B) == [Scored(75), UNKNOWN]
        assert origins(scores, A, B) == ["known", "assumed"]
        assert len(nameserver.questions) == 1


def test_lookup_keeps_within_the_budget(tmp_path: Path) -> None:
    """The daemon's queries count here, too; the result says which scores are missing."""
    save(tmp_path, {}, questions=9)
    with Nameserver() as nameserver:
        nameserver.answers[A] = nameserver.answers[B] = addresses("127.0.4.75")
        scores = Scores(NetworkTable(()), UNKNOWN)
        trouble = scores.learn(config(tmp_path, nameserver, budget=100), [A, B], lookup=True)
        assert trouble.startswith("1 score could not be looked up (refused: query budget spent")
        assert len(nameserver.questions) == 1


def test_a_refusal_is_reported(tmp_path: Path) -> None:
    """A refusal leaves the client as assumed, and the result shows the zone's answer."""
    with Nameserver() as nameserver:
        nameserver.answers[A] = addresses("127.255.255.254")
        scores = Scores(NetworkTable(()), Scored(50))
        trouble = scores.learn(config(tmp_path, nameserver), [A], lookup=True)
        assert trouble == "1 score could not be looked up (refused: 127.255.255.254)"
        assert reputations(scores, A) == [Scored(50)]
