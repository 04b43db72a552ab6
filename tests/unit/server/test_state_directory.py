"""The state directory: what the daemon keeps over a restart."""

import asyncio
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from senderscore_policy.errors import BackendError
from senderscore_policy.server.state import StateDirectory, write_atomically


class Part:
    """Saved as its lines; "bad" is malformed."""

    def __init__(self, *lines: str) -> None:
        self.lines = list(lines)

    def snapshot(self) -> Iterator[str]:
        return iter(list(self.lines))

    def restore(self, lines: Iterable[str]) -> None:
        lines = list(lines)
        if "bad" in lines:
            raise ValueError("it is bad")
        self.lines = lines


def save(directory: Path, part: Part) -> StateDirectory:
    """Save the part in the directory."""
    state = StateDirectory(directory, {"part": part})
    asyncio.run(state.save())
    return state


def test_saved_and_restored(tmp_path: Path) -> None:
    """The next process restores what was saved; only the owner can read the files."""
    directory = tmp_path / "new" / "state"
    save(directory, Part("a", "b"))
    part = Part()
    StateDirectory(directory, {"part": part}).restore()
    assert part.lines == ["a", "b"]
    assert stat.S_IMODE((directory / "part").stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert [path.name for path in directory.iterdir()] == ["part"]


def test_malformed_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A malformed file becomes `.bad` with a warning, and the daemon starts empty."""
    (tmp_path / "part").write_text("bad\n")
    part = Part()
    StateDirectory(tmp_path, {"part": part}).restore()
    assert part.lines == []
    assert (tmp_path / "part.bad").exists()
    assert not (tmp_path / "part").exists()
    assert "renamed to part.bad" in caplog.text


@pytest.mark.parametrize(("kind", "make"), [("a FIFO", os.mkfifo), ("a directory", Path.mkdir)])
def test_what_is_not_a_file_is_renamed_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, make: Callable[[Path], None]
) -> None:
    """Something else in the place of a state file neither holds up the start nor prevents the next save."""
    make(tmp_path / "part")
    state = StateDirectory(tmp_path, {"part": Part("a")})
    state.restore()
    assert f"{kind}, not a file" in caplog.text
    asyncio.run(state.save())
    assert (tmp_path / "part").read_text() == "a\n"


def test_only_one_daemon_uses_the_directory(tmp_path: Path) -> None:
    """A second daemon is refused with an error that names the directory, which a first one creates."""
    directory = tmp_path / "state"
    StateDirectory(directory, {}).lock()
    with pytest.raises(BackendError, match=f"another daemon uses the state directory {directory}"):
        StateDirectory(directory, {}).lock()


def test_temporary_files_of_a_killed_daemon_are_removed(tmp_path: Path) -> None:
    """A daemon that was killed while it saved leaves a temporary file, which the next start removes."""
    for name in (".part.x1y2z3w4", ".other.x1y2z3w4", "part.bad"):
        (tmp_path / name).touch()
    state = StateDirectory(tmp_path, {"part": Part()})
    state.lock()
    state.restore()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.x1y2z3w4", "part.bad"]


def test_bytes_that_are_no_text_are_set_aside(tmp_path: Path) -> None:
    """A file that is not UTF-8 text is malformed."""
    (tmp_path / "part").write_bytes(b"\xff\xfe\x00")
    StateDirectory(tmp_path, {"part": Part()}).restore()
    assert (tmp_path / "part.bad").exists()


def test_unwritable_is_told_once_and_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While the state directory cannot be written, the log has one warning and `problem` the reason."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    part = Part("a")
    state = StateDirectory(blocked / "state", {"part": part})
    caplog.set_level("INFO")
    asyncio.run(state.save())
    asyncio.run(state.save())
    assert state.problem
    assert caplog.text.count("state not saved") == 1
    blocked.unlink()
    asyncio.run(state.save())
    assert state.problem == ""
    assert "saved again" in caplog.text


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """An error while writing leaves the old file, and no temporary one."""

    def lines() -> Iterator[str]:
        yield "new"
        raise OSError("disk full")

    path = tmp_path / "part"
    path.write_text("old\n")
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, lines())
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]
