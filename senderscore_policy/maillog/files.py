"""Mail logs as a stream of whole lines: files, packed or not, standard input, and the journal."""

import bz2
import codecs
import gzip
import io
import lzma
import math
import os
import shlex
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISDIR
from typing import Any, Final, cast

from senderscore_policy.errors import InputError

CHUNK: Final = 1 << 20
"""Bytes read at a time."""
LONGEST_LINE: Final = 1 << 24
"""Bytes without an end of line; a file with more is not a log, and is passed on in pieces."""
STDIN: Final = "-"
JOURNAL: Final = ""

_READERS: Final[dict[bytes, str | Callable[[Any], Any]]] = {
    b"\x1f\x8b": lambda packed: gzip.GzipFile(fileobj=packed),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"]\0\0": lzma.LZMAFile,
    codecs.BOM_UTF16_LE: lambda text: codecs.EncodedFile(text, "utf-8", "utf-16"),
    codecs.BOM_UTF16_BE: lambda text: codecs.EncodedFile(text, "utf-8", "utf-16"),
    b"\x28\xb5\x2f\xfd": "zstdcat",
    b"\x04\x22\x4d\x18": "lz4cat",
    b"PK\3\4": "unzip -p",
}
"""By the first bytes of a file, whatever its name: a reader, or the command that the user must run."""
# Facility mail: the names of Postfix's programs depend on syslog_name.
_JOURNALCTL = ("journalctl", "--quiet", "--no-pager", "--all", "--output=short-iso-precise", "SYSLOG_FACILITY=2")

Advance = Callable[[int], None]
"""Is called with the bytes of a file, as on disk, that were read since the last call."""


def title(name: str) -> str:
    return {STDIN: "standard input", JOURNAL: "the journal"}.get(name, name)


def size_of(names: Sequence[str]) -> int | None:
    """Bytes of all files together as on disk; None if that is unknown (standard input, a pipe)."""
    return None if {STDIN, JOURNAL}.intersection(names) else sum(_status(name).st_size for name in names) or None


def written_at(name: str) -> float:
    """When a file was written last, in seconds since the epoch; infinity if that is unknown.

    Raises:
        InputError: the file is missing, or is a directory.
        PermissionError: the file is not accessible.
    """
    return math.inf if name in {STDIN, JOURNAL} else _status(name).st_mtime


def _status(name: str) -> os.stat_result:
    try:
        status = Path(name).stat()
    except OSError as error:
        raise _unreadable(name, error) from error
    if S_ISDIR(status.st_mode):
        raise InputError(f"{name}: is a directory")
    return status


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
            reader = next((reader for magic, reader in _READERS.items() if head.startswith(magic)), None)
            if isinstance(reader, str):
                way = f"{reader} {shlex.quote(name)} | senderscore-policy forecast -"
                raise InputError(f"{title(name)}: unpack it: {way}")
            stream, done = reader(packed) if reader else packed, 0
            for lines in _whole_lines(stream):
                if raw.seekable():
                    advance(raw.tell() - done)
                    done = raw.tell()
                yield lines
    except (OSError, EOFError, zlib.error, lzma.LZMAError, UnicodeDecodeError) as error:
        raise _unreadable(name, error) from error
    if name == JOURNAL and not head:
        remedy = "run this as root or as a member of the group systemd-journal, or name the mail logs"
        raise InputError(f"the journal shows no mail; {remedy}, such as /var/log/mail.log")


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
        _, detail = process.communicate()
        if process.returncode:
            reason = detail.decode(errors="replace").strip() or f"{_JOURNALCTL[0]} failed"
            raise InputError(f"the journal cannot be read: {reason}")


def _whole_lines(stream: Any) -> Iterator[bytes]:
    rest = b""
    while data := stream.read(CHUNK):
        end = data.rfind(b"\n") + 1
        if end:
            yield rest + data[:end]
            rest = b""
        rest += data[end:]
        if len(rest) > LONGEST_LINE:
            yield rest + b"\n"
            rest = b""
    if rest:
        yield rest + b"\n"
