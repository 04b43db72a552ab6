"""docs/reliability.md describes every fault of `make chaos`."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_every_fault_is_described_and_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page describes each fault of `make chaos`, and has a result for each and for no other."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "tests" / "chaos"), *sys.path])
    from faults import FAULTS
    from page import BEGIN, END

    prose, _, rest = (ROOT / "docs" / "reliability.md").read_text().partition(BEGIN)
    results, _, _ = rest.partition(END)
    names = [fault.name for fault in FAULTS]
    assert first_cells(results)[1:] == names
    assert first_cells(prose)[1:] == [name for name in names if not name.endswith(", no uvloop")]


def first_cells(text: str) -> list[str]:
    """Return the first column of the tables, without their rules."""
    return re.findall(r"^\| ([^|]+?) \|", text, re.MULTILINE)
