"""What the tests of the commands share."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_fakes import ControlDaemon, Run, running

from senderscore_policy.cli import COMMANDS, command, main

# Now: a test that becomes another user may not be able to read them.
for name in COMMANDS:
    command(name)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command; its exit status, and what it wrote to stdout and stderr."""

    def command_line(*arguments: str) -> tuple[int, str, str]:
        try:
            status = main(arguments)
        except SystemExit as end:
            status = int(end.code or 0)
        written = capsys.readouterr()
        return status, written.out, written.err

    return command_line


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with a short name (unix sockets live in it) that is home and state directory."""
    with tempfile.TemporaryDirectory(prefix="ssp-") as directory:
        for name in ("RUNTIME_DIRECTORY", "STATE_DIRECTORY", "XDG_RUNTIME_DIR"):
            monkeypatch.delenv(name, raising=False)
        # Open to the user that `closed` becomes.
        Path(directory).chmod(0o755)
        monkeypatch.setenv("HOME", directory)
        yield Path(directory)


@pytest.fixture
def file(place: Path) -> Path:
    """A configuration file; it names the control socket, and asks a closed port for scores."""
    path = place / "policy.toml"
    path.write_text(f"""
[listen]
control = "{place}/control.sock"
[reputation]
nameservers = ["127.0.0.1:9"]
[[override]]
networks = ["192.0.2.0/24"]
score = 75
""")
    return path


@pytest.fixture
def daemon(place: Path) -> Iterator[ControlDaemon]:
    """A daemon with its control socket where `file` says."""
    with running(ControlDaemon(place / "control.sock")) as server:
        yield server
