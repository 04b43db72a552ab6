"""The alert rules, in Prometheus' own tests of rules."""

import shutil
import subprocess
from pathlib import Path

import pytest

RULES = Path(__file__).parents[2] / "docs/prometheus"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed; make test has it"),
]


@pytest.mark.parametrize(
    "command",
    [
        ["check", "rules", "senderscore-policy.rules.yml"],
        ["test", "rules", "senderscore-policy.rules.test.yml"],
        ["test", "rules", "senderscore-policy.slow.test.yml"],
    ],
    ids=["check", "test", "slow"],
)
def test_promtool_accepts_the_rules(command: list[str]) -> None:
    """The rules are well-formed, and each fires when it should and at no other time."""
    done = subprocess.run(["promtool", *command], cwd=RULES, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
