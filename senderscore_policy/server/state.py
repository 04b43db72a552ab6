"""What outlives a restart: lines in files of the state directory."""

import asyncio
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from senderscore_policy.policy.ports import Persistent

SAVE_INTERVAL: Final = 60.0
"""Seconds between two saves."""

log = logging.getLogger(__name__)


def write_atomically(path: Path, lines: Iterator[str]) -> None:
    """Replace the file by these lines: readers see the old file or the new one, whole, mode 0600.

    Raises:
        OSError: it could not be written; the old file stands.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class StateDirectory:
    """Saves and restores the parts of the daemon that outlive it. Never a reason not to start.

    Args:
        directory: made if it is missing, mode 0700.
        parts: each kept in a file of its name.

    Attributes:
        problem: why the last save failed; empty: it did not.
        saved_at: the time of the last one that did not, in seconds since the epoch; None: there was none yet.
    """

    def __init__(self, directory: Path, parts: dict[str, Persistent]) -> None:
        self._directory = directory
        self._parts = parts
        self._saving = asyncio.Lock()
        self.problem = ""
        self.saved_at: float | None = None

    @property
    def state(self) -> str:
        """The word "ok", or "degraded: " and why nothing is saved."""
        return f"degraded: state not saved: {self.problem}" if self.problem else "ok"

    def restore(self) -> None:
        """Take up what is saved; a malformed file is set aside as `.bad`."""
        for name, part in self._parts.items():
            path = self._directory / name
            try:
                with path.open(encoding="utf-8") as file:
                    part.restore(line.rstrip("\n") for line in file)
            except FileNotFoundError:
                continue
            except OSError as error:
                log.warning("state not read, starting empty: %s", error)
            except ValueError as error:
                log.warning(
                    "state file %s is malformed (%s); set aside as %s.bad, starting empty", path, error, path.name
                )
                self._set_aside(path)

    async def save(self) -> None:
        """Save every part, in a thread."""
        async with self._saving:
            snapshots = {name: part.snapshot() for name, part in self._parts.items()}
            problem = await asyncio.get_running_loop().run_in_executor(None, self._write, snapshots)
        if problem and not self.problem:
            log.warning("state not saved, a restart would lose it: %s", problem)
        elif self.problem and not problem:
            log.info("state is saved again")
        self.problem = problem
        if not problem:
            self.saved_at = time.time()

    async def save_regularly(self) -> None:
        """Save every `SAVE_INTERVAL`, for ever."""
        while True:
            await asyncio.sleep(SAVE_INTERVAL)
            await self.save()

    def _write(self, snapshots: dict[str, Iterator[str]]) -> str:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name, lines in snapshots.items():
                write_atomically(self._directory / name, lines)
        except OSError as error:
            return str(error)
        return ""

    @staticmethod
    def _set_aside(path: Path) -> None:
        try:
            path.replace(path.with_name(f"{path.name}.bad"))
        except OSError as error:
            log.warning("state file %s could not be set aside: %s", path, error)
