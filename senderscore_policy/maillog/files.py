"""Log files as a stream of whole lines, whatever they are packed in."""

import bz2
import gzip
import importlib
import io
import lzma
import math
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from senderscore_policy.errors import InputError

CHUNK: Final = 1 << 20
"""Bytes read at a time."""
LONGEST_LINE: Final = 1 << 24
"""Bytes that are kept in wait for the end of a line; what has none by then is no log, and is passed on in pieces."""
STDIN: Final = "-"

Advance = Callable[[int], None]
"""Told how many bytes of a file, as it is on disk, have been read since the last call."""


class _Counted(io.RawIOBase):
    """A file whose reading is followed."""

    def __init__(self, raw: io.FileIO, advance: Advance) -> None:
        self._raw = raw
        self._advance = advance

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read some bytes."""
        count = self._raw.readinto(buffer) or 0
        self._advance(count)
        return count


class _Zstd:
    """Unpacks zstd by a library that is not in Python before 3.14.

    Raises:
        InputError: the library is not installed.
    """

    def __init__(self, packed: io.BufferedReader) -> None:
        try:
            zstandard: Any = importlib.import_module("zstandard")
        except ImportError as error:
            raise InputError(
                'zstd needs the Python package "zstandard"; or: zstdcat FILE | senderscore-policy forecast -'
            ) from error
        self._packed = packed
        self._error: type[Exception] = zstandard.ZstdError
        self._new_frame: Callable[[], Any] = lambda: zstandard.ZstdDecompressor().decompressobj()
        self._frame = self._new_frame()
        self._ahead = b""
        self._ended = True

    def read(self, size: int, /) -> bytes:
        """Some bytes, about as many as asked for; none at the end.

        Raises:
            EOFError: the file is cut short.
            OSError: it is damaged.
        """
        while packed := self._ahead or self._packed.read(size // 16):
            try:
                data: bytes = self._frame.decompress(packed)
            except self._error as error:
                raise OSError(str(error)) from error
            self._ended = self._frame.eof
            self._ahead = self._frame.unused_data if self._ended else b""
            if self._ended:
                self._frame = self._new_frame()
            if data:
                return data
        if not self._ended:
            raise EOFError("the last frame has no end")
        return b""


_UNPACKERS: Final[dict[bytes, Callable[[Any], Any]]] = {
    b"\x1f\x8b": lambda packed: gzip.GzipFile(fileobj=packed),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": _Zstd,
}
"""By what a packed file begins with; its name need not tell."""


def in_order_of_age(names: Sequence[str]) -> list[str]:
    """The files, those written last at the end, so that a message whose lines are in two of them is found.

    Raises:
        InputError: one is missing, or is a directory.
        PermissionError: one must not be looked at.
    """
    return sorted(names, key=lambda name: math.inf if name == STDIN else _status(name).st_mtime)


def size_of(names: Sequence[str]) -> int | None:
    """Bytes of all files together as they are on disk; None if that is not known (standard input, a pipe).

    Raises:
        InputError, PermissionError: as of `in_order_of_age`.
    """
    return None if STDIN in names else sum(_status(name).st_size for name in names) or None


def _status(name: str) -> os.stat_result:
    path = Path(name)
    try:
        status = path.stat()
    except PermissionError:
        raise
    except OSError as error:
        raise InputError(f"{name}: {error.strerror}") from error
    if path.is_dir():
        raise InputError(f"{name}: is a directory")
    return status


def chunks_of(name: str, advance: Advance) -> Iterator[bytes]:
    """The content of a file, unpacked, in pieces that end with the end of a line.

    Args:
        name: a path, or "-" for standard input.
        advance: told of the bytes read.

    Raises:
        InputError: it cannot be read to its end.
        PermissionError: it must not be read.
    """
    try:
        with io.FileIO(sys.stdin.fileno() if name == STDIN else name, closefd=name != STDIN) as raw:
            packed = io.BufferedReader(_Counted(raw, advance), CHUNK)
            head = packed.peek(8)
            unpack = next((unpack for magic, unpack in _UNPACKERS.items() if head.startswith(magic)), None)
            yield from _whole_lines(unpack(packed) if unpack else packed)
    except PermissionError:
        raise
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        # The errors of gzip, bz2 and zstd are OSErrors, without an error number.
        reason = (isinstance(error, OSError) and error.strerror) or f"is damaged or cut short: {error}"
        raise InputError(f"{'standard input' if name == STDIN else name}: {reason}") from error


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
