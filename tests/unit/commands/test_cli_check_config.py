"""The command `check-config`."""

import json
from pathlib import Path

import pytest
from command_fakes import Run

from senderscore_policy.config import paths
from senderscore_policy.config.load import DEFAULT_FILE

TWO_TIERS = '[[tier]]\nscores = "0-50"\nlimit = 0\n[[tier]]\nscores = "51-100"\nlimit = "unlimited"\n'


def test_a_sound_file_shows_its_tiers(run: Run, file: Path) -> None:
    """The administrator sees what the file means, with the window that limits hold for."""
    file.write_text(TWO_TIERS.replace("limit = 0", "limit = 50") + "[counters]\nwindow = 600\n")
    status, out, err = run("check-config", "-c", str(file))
    assert (status, err) == (0, "")
    assert (
        out
        == f"""{file}: no mistakes

different from the defaults:
  tier[1] = {{ scores = "0-50", limit = 50 }}
  tier[2] = {{ scores = "51-100", limit = "unlimited" }}
  counters.window = 600

tier         messages/10 minutes
0-50                          50
51-100                 unlimited
unscored               unlimited
unavailable            unlimited
"""
    )


def test_warnings_follow(run: Run, file: Path) -> None:
    """A warning does not change the exit status."""
    file.write_text(TWO_TIERS)
    status, out, _ = run("check-config", "-c", str(file))
    assert status == 0
    assert f"\nwarning: {file}:3: tier[1].limit: the limit of 0-50 is 0: " in out


def test_json(run: Run, file: Path) -> None:
    """Programs get the same."""
    file.write_text(TWO_TIERS)
    status, out, _ = run("check-config", "--json", "-c", str(file))
    answer = json.loads(out)
    assert status == 0
    assert answer["ok"] is True
    assert answer["errors"] == []
    assert answer["tiers"][:2] == [{"tier": "0-50", "limit": 0}, {"tier": "51-100", "limit": "unlimited"}]
    assert len(answer["warnings"]) == 1
    assert answer["settings"] == {
        "tier[1]": {"scores": "0-50", "limit": 0},
        "tier[2]": {"scores": "51-100", "limit": "unlimited"},
    }


def test_json_of_a_file_with_mistakes(run: Run, file: Path) -> None:
    """The reasons are in both places: stdout for programs, stderr for people."""
    file.write_text("[counters]\nbuckets = 0")
    status, out, err = run("check-config", "--json", "-c", str(file))
    answer = json.loads(out)
    assert status == 78
    assert answer["ok"] is False
    assert [f"senderscore-policy: {problem}" for problem in answer["errors"]] == err.splitlines()


def test_defaults_is_the_default_file(run: Run) -> None:
    """The output can be redirected into policy.toml."""
    assert run("check-config", "--defaults") == (0, DEFAULT_FILE.read_text(), "")


def test_without_a_file_the_output_says_so(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The output does not look like that of a file."""
    monkeypatch.setattr(paths, "CONFIG_FILE", tmp_path / "policy.toml")
    status, out, _ = run("check-config")
    assert status == 0
    assert out.startswith("there is no /etc/senderscore-policy/policy.toml: the built-in defaults apply\n")


def test_it_shows_what_differs_from_the_defaults(run: Run, file: Path) -> None:
    """Options at their defaults are left out; a long list is cut for people, and whole for programs."""
    networks = [f"192.0.2.{number}" for number in range(9)]
    file.write_text(f"""
mode = "enforce"
[reputation]
deadline = 1
lookup = "lazy"
lazy_share = 0.25
[reply]
over_limit = "450 später"
[[override]]
networks = {json.dumps(networks)}
limit = 5
""")
    _, out, _ = run("check-config", str(file))
    shown = json.dumps(networks[:5])[1:-1]
    assert out.split("\n\n")[1].splitlines() == [
        "different from the defaults:",
        "  reputation.lazy_share = 0.25",
        '  reply.over_limit = "450 später"',
        f"  override[1] = {{ networks = [{shown}, … 4 more], limit = 5 }}",
    ]
    assert json.loads(run("check-config", "--json", str(file))[1])["settings"]["override[1]"]["networks"] == networks
    assert "different" not in run("check-config", str(DEFAULT_FILE))[1]


def test_quiet_prints_mistakes_and_warnings_only(run: Run, file: Path) -> None:
    """A reload by systemd leaves nothing in the journal unless there is something to say."""
    assert run("check-config", "--quiet", "-c", str(file)) == (0, "", "")
    file.write_text('mode = "observe"')
    status, out, err = run("check-config", "--quiet", "-c", str(file))
    assert (status, err) == (0, "")
    assert out.startswith(f"warning: {file}:1: mode: ")
    assert len(out.splitlines()) == 1
    file.write_text('mode = "off"')
    assert run("check-config", "--quiet", "-c", str(file))[0] == 78
