"""The policy delegation protocol, without a socket: bytes in, requests out.

A request is lines of `name=value` and an empty line; the reply is `action=…` and an empty line
(Postfix SMTPD_POLICY_README, "Protocol description").
"""

import sys
from functools import lru_cache
from typing import Final

from senderscore_policy.errors import ProtocolError

MAX_REQUEST: Final = 64 * 1024
"""Bytes of a request, its empty line included."""
MAX_VALUE: Final = 16 * 1024
"""Bytes of one attribute's value."""

_NOT_STRUCTURE: Final = bytes(byte for byte in range(256) if byte not in b"\n=\0")
"""What is left out to see a request's structure: its line feeds, equal signs and NULs."""
_FIRST_LINE: Final = b"request=smtpd_access_policy\n"


class Request:
    """One policy request. An attribute is searched in its bytes when it is needed.

    Nearly every request is decided by three of its twenty-odd attributes, and finding those is much
    cheaper than splitting all of them (benchmarks/micro).
    """

    __slots__ = ("raw",)

    def __init__(self, raw: bytes) -> None:
        self.raw = raw  # the lines, each with a line feed before it and after it; an empty line may follow

    def after(self, prefix: bytes) -> bytes:
        """The attribute's value, the first if it is sent twice; empty if absent (Postfix sends empty for unknown).

        `prefix` is a line feed, the attribute's name and "=": one constant, for the hot path.
        """
        raw = self.raw
        start = raw.find(prefix)
        if start < 0:
            return b""
        start += len(prefix)
        return raw[start : raw.index(b"\n", start)]

    def text(self, name: str) -> str:
        return printable(self.after(f"\n{name}=".encode()))


def printable(value: bytes) -> str:
    """A value as text, for people: bytes that are not UTF-8 and control characters are escaped."""
    text = value.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _checked(raw: bytes) -> Request:
    """A request from its lines; `raw` begins with a line feed and ends with two. ProtocolError: it is malformed."""
    if len(raw) == 2:
        raise ProtocolError("an empty request")
    kind = Request(raw).after(b"\nrequest=")
    if kind and kind != b"smtpd_access_policy":
        raise ProtocolError(f"request={kind[:64]!r}, not smtpd_access_policy")
    # Each line of a sound request leaves "\n=" (and further "="); one pass in C for the whole request.
    structure = raw.translate(None, _NOT_STRUCTURE)
    # By number: `in` first tries to make one of a bytes object, and formats the error.
    if 0 in structure:
        raise ProtocolError("a NUL byte")
    if structure.find(b"\n\n", 0, -1) >= 0:
        line = next(line for line in raw[1:].split(b"\n") if b"=" not in line)
        raise ProtocolError(f"a line without '=': {line[:64]!r}")
    if len(raw) > MAX_VALUE:
        for line in raw.split(b"\n"):
            if len(line.partition(b"=")[2]) > MAX_VALUE:
                raise ProtocolError(f"a value of over {MAX_VALUE} bytes: {line[:64]!r}")
    return Request(raw)


class RequestParser:
    """Cuts a stream of bytes into requests, the same whatever the chunks it arrives in.

    Attributes:
        fault: set once the peer has sent something that is not a policy request: the requests returned so far
            are sound, nothing after them may be answered.
        more: whether the buffer holds a complete request.
    """

    def __init__(self) -> None:
        # Always begins with the line feed that ends what came before, so that every line has one on either side.
        self._buffer = bytearray(b"\n")
        self._searched = 0
        self.fault: ProtocolError | None = None
        self.more = False

    @property
    def partial(self) -> bool:
        """Whether a request has begun and its end has not come yet."""
        return len(self._buffer) > 1 and not self.more

    def feed(self, data: bytes, most: int = sys.maxsize) -> list[Request]:
        """Take what was received and return the requests that it completes, in order, at most `most` (1 or more).

        The others stay in the buffer, for a later call, whose `data` may be empty.
        """
        if self.fault:
            return []
        # What Postfix sends: one request in one piece. It need not go through the buffer.
        if len(self._buffer) == 1 and len(data) <= MAX_VALUE and data.startswith(_FIRST_LINE) and 0x0D not in data:
            structure = data.translate(None, _NOT_STRUCTURE)
            if structure.find(b"\n\n") == len(structure) - 2 and data.endswith(b"\n\n") and 0 not in structure:
                return [Request(b"\n" + data)]
        buffer = self._buffer
        received = len(buffer)
        buffer += data
        if 0x0D in data or buffer[received - 1] == 0x0D:
            buffer[received - 1 :] = buffer[received - 1 :].replace(b"\r\n", b"\n")
        requests: list[Request] = []
        start = 0
        end = buffer.find(b"\n\n", self._searched)
        try:
            while end >= 0 and end + 1 - start <= MAX_REQUEST and len(requests) < most:
                requests.append(_checked(bytes(buffer[start : end + 2])))
                start = end + 1
                end = buffer.find(b"\n\n", start)
        except ProtocolError as fault:
            self.fault = fault
        self.more = end >= 0
        if (end + 1 if self.more else len(buffer) - 1) - start > MAX_REQUEST:
            self.fault = ProtocolError(f"a request of over {MAX_REQUEST} bytes")
        del buffer[:start]
        # The last bytes, "\n" or "\n\r", may be the beginning of the two line ends that end the request.
        self._searched = 0 if self.more else max(0, len(buffer) - 2)
        return requests


@lru_cache(4096)
def reply(action: str) -> bytes:
    return f"action={action}\n\n".encode()
