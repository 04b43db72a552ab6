"""Pipelines of memcached commands: all are sent at once, their replies read in one go. Without a socket.

Commands and replies are those of memcached's protocol.txt. pymemcache's own pipelines raise at the
first bad line and lose the replies to commands that were executed.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from senderscore_policy.errors import BackendError
from senderscore_policy.policy.window import Window

NOT_FOUND: Final = b"NOT_FOUND"
INVALID: Final = b"CLIENT_ERROR"
"""What the reply begins with if the key holds no number."""
LARGEST_REPLY: Final = 64 * 1024 * 1024
"""Bytes of all replies of a round trip; a thousand clients' buckets are about one megabyte."""
LONGEST_RELATIVE: Final = 30 * 86400
"""Seconds; an exptime above it is a date for memcached (protocol.txt, "Expiration times")."""
_LONGEST_LINE: Final = 1024
_LONGEST_NUMBER: Final = 20
_LARGEST_INDEX: Final = 2**40
"""The largest index of a bucket; buckets of a second reach it in 30,000 years."""

# Out of memory concerns the key at hand. Any other SERVER_ERROR (a proxy without its memcached) concerns the server.
# None is as long as _LONGEST_LINE: a line is nonsense or not, in whatever pieces it arrives.
_LINE = re.compile(
    rb"[0-9]{1,20}|NOT_FOUND|STORED|NOT_STORED|EXISTS|DELETED|(?:CLIENT_ERROR|SERVER_ERROR out of memory)[^\r\n]{0,500}"
)
_VALUE = re.compile(rb"VALUE ([^ ]{1,250}) [0-9]{1,10} ([0-9]{1,9})(?: ([0-9]{1,20}))?")
_KEY = re.compile("[!-~]{1,250}")
"""A key of memcached (protocol.txt, "Keys"): without blanks or control characters, which would end it, or a command."""


def key_named(name: str) -> bytes:
    """The key of this name, for each key that is sent to memcached. ValueError: memcached has no such keys."""
    if not _KEY.fullmatch(name):
        raise ValueError(f"{name[:60]!a} cannot be a key of memcached")
    return name.encode("ascii")


def incr(key: bytes, amount: int) -> bytes:
    return b"incr %b %d\r\n" % (key, amount)


def decr(key: bytes, amount: int) -> bytes:
    return b"decr %b %d\r\n" % (key, amount)


def add(key: bytes, number: int, exptime: int) -> bytes:
    """Answered by STORED, by NOT_STORED if the key exists, or by SERVER_ERROR."""
    return b"add %b 0 %d %d\r\n%d\r\n" % (key, exptime, len(str(number)), number)


def cas(key: bytes, number: int, exptime: int, token: bytes) -> bytes:
    """Answered by STORED, by EXISTS if the key has changed since its token was read, by NOT_FOUND or SERVER_ERROR."""
    return b"cas %b 0 %d %d %b\r\n%d\r\n" % (key, exptime, len(str(number)), token, number)


def put(key: bytes, text: bytes, exptime: int) -> bytes:
    return b"set %b 0 %d %d\r\n%b\r\n" % (key, exptime, len(text), text)


def delete(key: bytes) -> bytes:
    return b"delete %b\r\n" % key


def number_in(value: bytes) -> int | None:
    """The number that a counter's value holds, None if it is not a number. `decr` leaves blanks after a number."""
    digits = value.rstrip(b" ")
    return int(digits) if digits.isdigit() and len(digits) <= _LONGEST_NUMBER else None


def count_in(values: Mapping[bytes, bytes], key: bytes) -> int:
    """The count under the key; 0 if there is none."""
    return number_in(values.get(key, b"")) or 0


class Replies(NamedTuple):
    """A line for each command, and the values and tokens of the keys that exist.

    A line is a number, NOT_FOUND, STORED, NOT_STORED, DELETED, CLIENT_ERROR … or SERVER_ERROR out of memory ….
    """

    lines: list[bytes]
    values: dict[bytes, bytes]
    tokens: dict[bytes, bytes]


Unanswered = Callable[[Replies | None], None]


class Pipeline(NamedTuple):
    """What one server is asked in one round trip: commands, then keys to read, with `tokens` also theirs for `cas`.

    `unanswered` is called once if no answer comes in time: with a late answer, or None if there will be no answer.
    """

    commands: Sequence[bytes]
    keys: Sequence[bytes]
    tokens: bool = False
    unanswered: Unanswered = lambda _: None

    def encoded(self) -> bytes:
        """The bytes to send. All keys go in one `get`: only memory bounds their number in memcached."""
        commands = b"".join(self.commands)
        if not self.keys:
            return commands
        return commands + (b"gets " if self.tokens else b"get ") + b" ".join(self.keys) + b"\r\n"


class ReplyReader:
    """Puts the replies to one pipeline together, in whatever pieces they arrive: lines, then the values of keys if any.

    `rest` is what arrived after them.
    """

    __slots__ = ("_in_values", "_missing", "_received", "_replies", "rest")

    def __init__(self, lines: int, *, values: bool) -> None:
        self._missing = lines
        self._in_values = values
        self._received = 0
        self.rest = b""
        self._replies = Replies([], {}, {})

    def feed(self, data: bytes) -> Replies | None:
        """Take in what arrived; the replies once they are complete. BackendError: this is not such a reply."""
        self._received += len(data)
        if self._received > LARGEST_REPLY:
            raise BackendError("it sends without end")
        self.rest += data
        if self._missing:
            self._take_lines()
        if not self._missing and self._in_values:
            self._take_values()
        return None if self._missing or self._in_values else self._replies

    def _take_lines(self) -> None:
        *lines, self.rest = self.rest.split(b"\r\n", self._missing)
        self._missing -= len(lines)
        # Nearly always all of them are numbers.
        if not (b"".join(lines).isdigit() and all(lines) and len(max(lines, key=len)) <= _LONGEST_NUMBER):
            for line in lines:
                if not _LINE.fullmatch(line):
                    raise nonsense(line)
        if self._missing and len(self.rest) > _LONGEST_LINE:
            raise nonsense(self.rest)
        self._replies.lines.extend(lines)

    def _take_values(self) -> None:
        rest, start = self.rest, 0
        while self._in_values and (end := rest.find(b"\r\n", start)) >= 0:
            line = rest[start:end]
            if line == b"END":
                self._in_values = False
                start = end + 2
                break
            header = _VALUE.fullmatch(line)
            if header is None:
                raise nonsense(line)
            stop = end + 2 + int(header[2])
            if len(rest) < stop + 2:
                break
            if rest[stop : stop + 2] != b"\r\n":
                raise nonsense(line)
            self._replies.values[header[1]] = rest[end + 2 : stop]
            if header[3]:
                self._replies.tokens[header[1]] = header[3]
            start = stop + 2
        else:
            if len(rest) - start > _LONGEST_LINE:
                raise nonsense(rest[start:])
        self.rest = rest[start:]


def nonsense(reply: bytes) -> BackendError:
    return BackendError(f"answered {reply[:60]!r}")


def expiry(ttl: int, now: float) -> int:
    """The exptime that lets an item live for `ttl` seconds from `now` (seconds since the epoch)."""
    return ttl if ttl <= LONGEST_RELATIVE else int(now) + ttl


class BucketKeys:
    """Names the counter of a client in a bucket: `ssp:192.0.2.75:3600.12:1234567`.

    The window is part of the name: daemons with different windows share no counter.
    """

    def __init__(self, prefix: str, window: Window) -> None:
        self._prefix = prefix
        self._tail = f":{window.seconds}.{window.buckets}:"

    def stem(self, client: str) -> bytes:
        """The names of a client's counters without the bucket's index; empty if the client cannot be part of a key."""
        stem = f"{self._prefix}{client}{self._tail}"
        return stem.encode("ascii") if _KEY.fullmatch(f"{stem}{_LARGEST_INDEX}") else b""
