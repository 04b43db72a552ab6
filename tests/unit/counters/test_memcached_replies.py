"""Replies of a memcached, in whatever pieces they arrive."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from senderscore_policy.counters.memcached.protocol import Pipeline, Replies, ReplyReader, add, number_in
from senderscore_policy.errors import BackendError

LINES = st.one_of(
    st.integers(0, 2**64 - 1).map(lambda number: b"%d" % number),
    st.sampled_from(
        [
            b"NOT_FOUND",
            b"STORED",
            b"NOT_STORED",
            b"DELETED",
            b"CLIENT_ERROR cannot increment or decrement non-numeric value",
            b"SERVER_ERROR out of memory storing object",
        ]
    ),
)
KEYS = st.from_regex(rb"ssp:[0-9.]{1,20}", fullmatch=True)
VALUES = st.dictionaries(
    KEYS, st.one_of(st.binary(max_size=40), st.sampled_from([b"7", b"99 ", b"END", b"\r\nEND\r\n", b""])), max_size=5
)


def sent(lines: list[bytes], values: dict[bytes, bytes] | None) -> bytes:
    """What a memcached sends."""
    reply = b"".join(line + b"\r\n" for line in lines)
    if values is None:
        return reply
    blocks = [b"VALUE %b 0 %d\r\n%b\r\n" % (key, len(value), value) for key, value in values.items()]
    return reply + b"".join(blocks) + b"END\r\n"


def read(pieces: list[bytes], lines: int, *, values: bool) -> Replies | None:
    """The replies from these pieces; a complete reply must come with the last one, not before."""
    reader = ReplyReader(lines, values=values)
    replies = None
    for piece in pieces:
        assert replies is None
        replies = reader.feed(piece)
    return replies


@given(st.lists(LINES, min_size=1, max_size=8), st.none() | VALUES, st.data())
def test_replies_are_the_same_in_whatever_pieces(
    lines: list[bytes], values: dict[bytes, bytes] | None, data: st.DataObject
) -> None:
    """The network may cut a reply anywhere, also inside a value that looks like a reply."""
    reply = sent(lines, values)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(reply) - 1), max_size=6)))
    pieces = [reply[start:end] for start, end in zip([0, *cuts], [*cuts, len(reply)], strict=True)]
    assert read(pieces, len(lines), values=values is not None) == (lines, values or {}, {})
    single = [reply[n : n + 1] for n in range(len(reply))]
    assert read(single, len(lines), values=values is not None) == (lines, values or {}, {})


def test_what_follows_the_replies_belongs_to_the_next_pipeline() -> None:
    """Replies to several pipelines may arrive in one piece."""
    first, second = ReplyReader(1, values=True), ReplyReader(2, values=False)
    assert first.feed(b"1\r\nVALUE k 0 1 77\r\n7\r\nEND\r\n2\r\n3") == ([b"1"], {b"k": b"7"}, {b"k": b"77"})
    assert second.feed(first.rest) is None
    assert second.feed(b"\r\n") == ([b"2", b"3"], {}, {})
    assert second.rest == b""


@given(st.lists(LINES, min_size=1, max_size=4), st.none() | VALUES, st.integers(1, 60))
def test_half_a_reply_is_none(lines: list[bytes], values: dict[bytes, bytes] | None, missing: int) -> None:
    """The reader gives a reply only when it is complete."""
    assert read([sent(lines, values)[:-missing]], len(lines), values=values is not None) is None


@pytest.mark.parametrize(
    ("reply", "lines", "values"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", 3, False),
        (b"ERROR\r\n", 3, False),
        (b"1\r\nERROR\r\n", 3, False),
        (b"1\r\n\r\n", 3, False),
        (b"-1\r\n", 3, False),
        (b"1 \r\n", 3, False),
        (b"\xff\xfe\r\n", 1, False),
        (b"1" * 21 + b"\r\n", 3, False),
        (b"SERVER_ERROR Connection refused\r\n", 3, False),
        (b"END\r\n", 3, True),
        (b"1\r\nERROR\r\n", 1, True),
        (b"1\r\nSERVER_ERROR out of memory writing get response\r\n", 1, True),
        (b"1\r\nVALUE k\r\n", 1, True),
        (b"1\r\nVALUE k 0 -1\r\n", 1, True),
        (b"1\r\nVALUE k 0 3\r\n12345", 1, True),
        (b"x" * 2000, 3, False),
        (b"1\r\n" + b"x" * 2000, 1, True),
        (b"1\r\nVALUE " + b"k" * 2000 + b" 0 1\r\n7\r\nEND\r\n", 1, True),
        (b"CLIENT_ERROR " + b"x" * 2000 + b"\r\n", 1, False),
    ],
)
def test_nonsense_is_noticed_at_once(reply: bytes, lines: int, values: bool) -> None:
    """A wrong reply raises as soon as its first bytes show it."""
    with pytest.raises(BackendError, match="answered"):
        read([reply], lines, values=values)


def test_a_reply_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded whatever is sent."""
    monkeypatch.setattr("senderscore_policy.counters.memcached.protocol.LARGEST_REPLY", 1000)
    reader = ReplyReader(0, values=True)
    assert reader.feed(b"VALUE k 0 999999999\r\n") is None
    with pytest.raises(BackendError, match="without end"):
        reader.feed(b"x" * 1000)
    with pytest.raises(BackendError, match="without end"):
        ReplyReader(0, values=True).feed(sent([], {b"k": b"x" * 1000}))


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (b"99", 99),
        (b"99 ", 99),
        (b"0", 0),
        (b"", None),
        (b" ", None),
        (b"hello", None),
        (b"-1", None),
        (b"+1", None),
        (b"1_0", None),
        (b" 1", None),
        (b"1\r\n", None),
        ("١".encode(), None),
        (b"9" * 5000, None),
    ],
)
def test_only_digits_are_a_counter(value: bytes, number: int | None) -> None:
    """Blanks behind a number are memcached's own, left by `decr`; any other value is not a counter."""
    assert number_in(value) == number


def test_an_order_is_sent_as_one_piece() -> None:
    """All keys go in one `get`, behind the commands."""
    order = Pipeline([add(b"k1", 12, 60), b"incr k1 1\r\n"], [b"k2", b"k3"])
    assert order.encoded() == b"add k1 0 60 2\r\n12\r\nincr k1 1\r\nget k2 k3\r\n"
    assert Pipeline([b"incr k1 1\r\n"], []).encoded() == b"incr k1 1\r\n"
