"""What a memcached answers: the replies to an order, the counters in them, and a score that daemons share."""

from collections.abc import Iterable

from steps import cut, single_bytes

from senderscore_policy.config.endpoints import Inet
from senderscore_policy.config.model import CounterSettings
from senderscore_policy.counters.memcached import protocol
from senderscore_policy.counters.memcached.batch import ClientBuckets, ServerBatch
from senderscore_policy.counters.memcached.connection import Server
from senderscore_policy.counters.memcached.protocol import Replies, ReplyReader, number_in
from senderscore_policy.errors import BackendError
from senderscore_policy.reputation.cache import from_text

SMALLER = ((protocol, "LARGEST_REPLY", 250),)
"""A bound that a short stream can pass."""
ZONE = "score.test"


def check(data: bytes) -> None:
    """Replies are the same in any pieces; nonsense is a BackendError, at the same byte; no number is made up.

    Args:
        data: of the first byte the lower bits are the number of commands, the highest says that a `get`
            follows them; the rest is what memcached sends.
    """
    if not data:
        return
    lines, values, stream = data[0] & 7, bool(data[0] & 128), data[1:]
    if not lines and not values:
        return
    readings = [_read(pieces, lines, values=values) for pieces in ([stream], cut(stream), single_bytes(stream))]
    end, outcome = min(readings, key=lambda reading: reading[0])
    for other_end, other in readings:
        # Behind complete replies nothing may follow.
        assert other == (outcome if other_end == end else "nonsense")
    if isinstance(outcome, Replies):
        _count(outcome, lines)


def _read(pieces: Iterable[bytes], lines: int, *, values: bool) -> tuple[int, Replies | str | None]:
    """What comes of it, after how many bytes: the replies, "nonsense", or nothing yet."""
    reader = ReplyReader(lines, values=values)
    at = 0
    for piece in pieces:
        at += len(piece)
        try:
            replies = reader.feed(piece)
        except BackendError:
            return at, "nonsense"
        if replies is not None:
            # A connection that is owed nothing else takes more for nonsense.
            return at, "nonsense" if reader.rest else replies
    return at, None


def _count(replies: Replies, lines: int) -> None:
    assert len(replies.lines) == lines
    for value in replies.values.values():
        number = number_in(value)
        assert number is None or 0 <= number < 10**20
        if value.isascii():
            shared = from_text(value.decode(), ZONE)
            assert shared is None or value.endswith(b":score.test")
    part = ServerBatch(Server(Inet("192.0.2.250", 11211), CounterSettings()))
    for number in range(lines):
        account = ClientBuckets(f"192.0.2.{number}", b"key%d" % number, ())
        part.increments[account] = account.increment
    part.take(replies)
    assert all(0 <= number < 10**20 for number in part.numbers.values())
    assert len(part.numbers) + len(part.missing) + len(part.invalid) <= lines + len(replies.values)
