"""Mail logs as a stream of whole lines: files, packed or not, standard input, and the journal."""

import bz2
import codecs
import gzip
import io
import lzma
import math
import shlex
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

from senderscore_policy.errors import InputError

CHUNK: Final = 1 << 20
"""Bytes read at a time."""
LONGEST_LINE: Final = 1 << 24
"""Bytes without an end of line; a file with more is not a log, and is passed on in pieces."""
STDIN: Final = "-"
JOURNAL: Final = ""
EMPTY_JOURNAL: Final = (
    "the journal shows no mail; run this as root or as a member of the group systemd-journal, or name the mail logs, "
    "such as /var/log/mail.log"
)

_UNPACKERS: Final[dict[bytes, Callable[[Any], Any]]] = {
    b"\x1f\x8b": lambda packed: gzip.GzipFile(fileobj=packed),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"]\0\0": lzma.LZMAFile,
}
"""By the first bytes of a file, whatever its name."""
_OTHER_PACKERS: Final = {b"\x28\xb5\x2f\xfd": "zstdcat", b"\x04\x22\x4d\x18": "lz4cat", b"PK\3\4": "unzip -p"}
_UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Facility mail: the names of Postfix's programs depend on syslog_name.
_JOURNALCTL = ("journalctl", "--quiet", "--no-pager", "--all", "--output=short-iso-precise", "SYSLOG_FACILITY=2")

Advance = Callable[[int], None]
"""Is called with the bytes of a file, as on disk, that were read since the last call."""


def title(name: str) -> str:
    return {STDIN: "standard input", JOURNAL: "the journal"}.get(name, name)


def in_order_of_age(names: Sequence[str]) -> list[str]:
    """The files, those written last at the end, so that a message whose lines are in two of them is found.

    Raises:
        InputError: a file is missing, or is a directory.
        PermissionError: a file is not accessible.
    """
    return sorted(names, key=written_at)


def size_of(names: Sequence[str]) -> int | None:
    """Bytes of all files together as on disk; None if that is unknown (standard input, a pipe)."""
    return None if {STDIN, JOURNAL}.intersection(names) else sum(_status(name)[1] for name in names) or None


def written_at(name: str) -> float:
    """When a file was written last, in seconds since the epoch; infinity if that is unknown."""
    return math.inf if name in {STDIN, JOURNAL} else _status(name)[0]


def _status(name: str) -> tuple[float, int]:
    path = Path(name)
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(name, error) from error
    if path.is_dir():
        raise InputError(f"{name}: is a directory")
    return status.st_mtime, status.st_size


def _unreadable(name: str, error: Exception) -> Exception:
    if isinstance(error, PermissionError):
        return PermissionError(f"{title(name)}: permission denied; run this as root or as a member of the group adm")
    # The errors of gzip and bz2 are OSErrors, without an error number.
    reason = (isinstance(error, OSError) and error.strerror) or f"is damaged or cut short: {error}"
    return InputError(f"{title(name)}: {reason}")


def chunks_of(name: str, advance: Advance) -> Iterator[bytes]:
    """The content of a log, unpacked, as UTF-8, in pieces that end with the end of a line.

    Raises:
        InputError: the log cannot be read to its end.
        PermissionError: the file is not accessible.
    """
    try:
        with _opened(name) as raw:
            packed = io.BufferedReader(raw, CHUNK)
            head = packed.peek(8)
            for magic, command in _OTHER_PACKERS.items():
                if head.startswith(magic):
                    way = f"{command} {shlex.quote(name)} | senderscore-policy forecast -"
                    raise InputError(f"{title(name)}: unpack it: {way}")
            stream = next((unpack(packed) for magic, unpack in _UNPACKERS.items() if head.startswith(magic)), packed)
            done = 0
            for lines in _whole_lines(codecs.EncodedFile(stream, "utf-8", "utf-16") if head[:2] in _UTF_16 else stream):
                if raw.seekable():
                    advance(raw.tell() - done)
                    done = raw.tell()
                yield lines
    except (OSError, EOFError, zlib.error, lzma.LZMAError, UnicodeDecodeError) as error:
        raise _unreadable(name, error) from error


@contextmanager
def _opened(name: str) -> Iterator[io.RawIOBase]:
    if name != JOURNAL:
        with io.FileIO(sys.stdin.fileno() if name == STDIN else name, closefd=name != STDIN) as raw:
            yield raw
        return
    if shutil.which(_JOURNALCTL[0]) is None:
        raise InputError("this host has no journal; name the mail logs, such as /var/log/mail.log")
    with subprocess.Popen(_JOURNALCTL, bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:  # noqa: S603
        # Unbuffered, so that it is a FileIO.
        yield cast("io.RawIOBase", process.stdout)
        if process.wait():
            detail = cast("io.RawIOBase", process.stderr).readall().decode(errors="replace").strip()
            raise InputError(f"the journal cannot be read: {detail or f'{_JOURNALCTL[0]} failed'}")


def _whole_lines(stream: Any) -> Iterator[bytes]:
    rest = b""
    while data := stream.read(CHUNK):
        end = data.rfind(b"\n") + 1
        if end:
            yield rest + data[:end]
            rest = data[end:]
        else:
            rest += data
        if len(rest) > LONGEST_LINE:
            yield rest + b"\n"
            rest = b""
    if rest:
        yield rest + b"\n"
