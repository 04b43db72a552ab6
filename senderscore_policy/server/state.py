"""Files of the state directory, which keep counters and scores over a restart."""

import asyncio
import fcntl
import logging
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TextIO

from senderscore_policy.errors import BackendError
from senderscore_policy.policy.ports import Persistent
from senderscore_policy.server.sockets import kind_of

SAVE_INTERVAL: Final = 60.0
"""Seconds between two saves."""

log = logging.getLogger(__name__)


def write_atomically(path: Path, lines: Iterator[str]) -> None:
    """Replace a file by these lines, with mode 0600; a reader, also after an OSError, sees the old file or the new."""
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


def _open_file(path: Path) -> TextIO:
    """Open a regular file to read text; ValueError: something else, such as a FIFO, which would wait for a writer."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise ValueError(f"{kind_of(mode)}, not a file")
    return path.open(encoding="utf-8")


class StateDirectory:
    """Saves parts of the daemon and restores them at the next start; each has a file of its name."""

    def __init__(self, directory: Path, parts: dict[str, Persistent]) -> None:
        self._directory = directory
        self._parts = parts
        self._saving = asyncio.Lock()
        self._locked: int | None = None
        self.problem = ""  # why the last save failed
        self.saved_at: float | None = None  # the last successful save, in seconds since the epoch

    @property
    def state(self) -> str:
        """The word "ok", or "degraded: " and why nothing is saved."""
        return f"degraded: state not saved: {self.problem}" if self.problem else "ok"

    def lock(self) -> None:
        """Keep other daemons out of the directory until this process ends; BackendError: another one uses it.

        A directory that cannot be created or locked (a read-only disk) does not stop the daemon: each save
        reports its own failure.
        """
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            log.warning("state directory %s is not usable: %s", self._directory, error.strerror)
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise BackendError(
                f"another daemon uses the state directory {self._directory}: stop it, or give this one a [state] "
                "directory of its own"
            ) from error
        except OSError as error:
            # Some network file systems have no locks.
            log.warning("state directory %s is not locked: %s", self._directory, error.strerror)
        self._locked = descriptor

    def restore(self) -> None:
        """Restore what was saved; rename a malformed file to `.bad` and start empty."""
        for name, part in self._parts.items():
            path = self._directory / name
            try:
                if self._locked is not None:
                    # A daemon may have been killed while it saved. Without the lock, one may be saving now.
                    for unfinished in self._directory.glob(f".{name}.*"):
                        unfinished.unlink()
                with _open_file(path) as file:
                    part.restore(line.rstrip("\n") for line in file)
            except FileNotFoundError:
                continue
            except OSError as error:
                log.warning("state file %s not read, starting empty: %s", path, error.strerror)
            except ValueError as error:
                log.warning("state file %s is malformed (%s); renamed to %s.bad, starting empty", path, error, name)
                try:
                    path.replace(path.with_name(f"{name}.bad"))
                except OSError as failure:
                    log.warning("state file %s could not be renamed: %s", path, failure.strerror)

    async def save(self) -> None:
        """Save every part; a thread writes the files."""
        async with self._saving:
            snapshots = {name: part.snapshot() for name, part in self._parts.items()}
            problem = await asyncio.to_thread(self._write, snapshots)
        if problem and not self.problem:
            log.warning("state not saved, a restart would lose it: %s", problem)
        elif self.problem and not problem:
            log.info("state is saved again")
        self.problem = problem
        if not problem:
            self.saved_at = time.time()

    async def save_regularly(self) -> None:
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
