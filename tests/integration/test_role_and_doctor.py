"""The Ansible role and `doctor` agree about Postfix's configuration, as postconf reads it."""

import shutil
import sys
from pathlib import Path

import pytest

from senderscore_policy.commands.doctor.finding import Finding, Status
from senderscore_policy.commands.doctor.postconf import read_postfix
from senderscore_policy.commands.doctor.postfix import postfix_findings
from senderscore_policy.config.model import Config

sys.path.append(str(Path(__file__).parents[1] / "unit" / "ansible"))
from test_postfix_lists import CASES, Case, plan, undone

pytestmark = pytest.mark.skipif(shutil.which("postconf", path="/usr/sbin") is None, reason="Postfix is not installed")

DOCTORS_CORPUS = Path(__file__).parents[1] / "postfix"
EARLY = "by-hand-in-early-lists"
"""The role leaves this check to the administrator, and doctor reports it: it also counts mail that is refused later."""


def findings(directory: Path, main: str, master: str) -> list[Finding]:
    """What doctor says about the texts of a main.cf and a master.cf."""
    (directory / "main.cf").write_bytes(main.encode())
    (directory / "master.cf").write_bytes(master.encode())
    config = Config()
    return list(postfix_findings(read_postfix(directory), config.listen.policy, config, asked=False))


@pytest.mark.real
@pytest.mark.parametrize("case", [case for case in CASES if case.id != EARLY and not case.values[0].text("refused")])  # type: ignore[attr-defined]
def test_doctor_accepts_what_the_role_writes(case: Case, tmp_path: Path) -> None:
    """Postfix asks the daemon on each entrance, and no list has a mistake."""
    made = plan(*case.files, **case.wish)
    found = findings(tmp_path, made["main"], made["master"])
    assert [finding for finding in found if finding.status is Status.FAIL] == []
    assert any(finding.check == "postfix" and finding.status is Status.OK for finding in found)


@pytest.mark.real
@pytest.mark.parametrize("case", [case for case in CASES if case.values[0].text("left")])  # type: ignore[attr-defined]
def test_doctor_names_what_still_asks_after_absent(case: Case, tmp_path: Path) -> None:
    """Both keep the daemon from being removed while Postfix names it."""
    left = plan(*case.files, state="absent")
    assert left["mentions"]
    found = findings(tmp_path, left["main"], left["master"])
    assert [finding.detail for finding in found if finding.check == "references"] != ["none"]


@pytest.mark.real
@pytest.mark.parametrize("directory", sorted(DOCTORS_CORPUS.iterdir()), ids=lambda directory: directory.name)
def test_the_role_restores_every_configuration_of_doctor_s_corpus(directory: Path) -> None:
    """Where the role does not refuse a configuration, `absent` removes again what `present` added."""
    main, master = ((directory / name).read_text() for name in ("main.cf", "master.cf"))
    without = plan(main, master, state="absent")
    if not plan(without["main"], without["master"])["refusals"]:
        assert undone(without["main"], without["master"]) == (without["main"], without["master"])
