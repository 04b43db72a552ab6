"""What fuzzing has kept: inputs that reach every part of the code, and those that once broke it."""

import importlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

CORPUS = Path(__file__).parent / "corpus"
CHECKS = sorted(path.name for path in CORPUS.iterdir())


@pytest.mark.parametrize("name", CHECKS)
def test_the_corpus_holds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each input has the property that its check states."""
    check = importlib.import_module(name)
    for module, bound, value in check.SMALLER:
        monkeypatch.setattr(module, bound, value)
    inputs = [path.read_bytes() for path in (CORPUS / name).iterdir()]
    assert inputs
    for data in inputs:
        check.check(data)


@pytest.mark.parametrize("name", CHECKS)
@given(data=st.binary())
def test_any_bytes_hold(name: str, data: bytes) -> None:
    """So do any bytes, with the daemon's own bounds."""
    importlib.import_module(name).check(data)
