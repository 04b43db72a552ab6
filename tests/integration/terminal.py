"""A program on a terminal."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def terminal(*command: str, columns: int = 80, **variables: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A program on a terminal of 24 lines, and the terminal's other end."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
    environment |= {"TERM": "xterm"} | variables
    # A shell's background job, which the tests may be, ignores SIGINT, and lets its children inherit that.
    heeding = ("env", "--default-signal=INT", *command)
    process = subprocess.Popen(heeding, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal: int, text: str) -> str:
    """What the program writes, up to the first time that it holds the text."""
    written = ""
    while text not in written:
        ready, _, _ = select.select([terminal], [], [], 30)
        assert ready, f"no {text!r} in {written!r}"
        written += os.read(terminal, 65536).decode()
    return written


def read_all(terminal: int) -> str:
    """What the program writes, up to its end."""
    written = b""
    while True:
        ready, _, _ = select.select([terminal], [], [], 30)
        assert ready, f"no end after {written!r}"
        try:
            data = os.read(terminal, 65536)
        except OSError:
            # Linux reports the other end's close as EIO.
            return written.decode()
        written += data


def without_escapes(text: str) -> str:
    """The text without colours and cursor movements."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
