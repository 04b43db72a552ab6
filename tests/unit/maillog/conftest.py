"""Reading logs in tests."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from senderscore_policy.maillog.messages import Traffic, read_logs

Read = Callable[..., Traffic]


@pytest.fixture(autouse=True)
def _in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads logs, given as their content, one after the other."""

    def read(*logs: str | bytes) -> Traffic:
        names = []
        for number, log in enumerate(logs):
            path = tmp_path / (f"mail.log.{number}" if number else "mail.log")
            path.write_bytes(log.encode() if isinstance(log, str) else log)
            names.append(str(path))
        return read_logs(names, lambda _: None)

    return read
