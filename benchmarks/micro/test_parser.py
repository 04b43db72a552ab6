"""The parser: bytes in, requests out."""

from collections.abc import Callable
from typing import Any

from senderscore_policy.policy.protocol import Request, RequestParser


def test_a_request_in_one_piece(benchmark: Any, make_batch: Callable[[], list[bytes]]) -> None:
    """What Postfix sends."""
    parser, data = RequestParser(), make_batch()[0]
    [request] = benchmark(parser.feed, data)
    assert request.after(b"\nclient_address=") == b"11.0.0.0"


def test_a_request_in_pieces_of_128_bytes(benchmark: Any, make_batch: Callable[[], list[bytes]]) -> None:
    """The pieces in which a slow network delivers it."""
    parser, data = RequestParser(), make_batch()[0]
    pieces = [data[start : start + 128] for start in range(0, len(data), 128)]
    assert benchmark(lambda: [request for piece in pieces for request in parser.feed(piece)])


def test_the_attributes_of_a_decision(benchmark: Any, make_batch: Callable[[], list[bytes]]) -> None:
    """The three that nearly every decision needs."""
    request = Request(b"\n" + make_batch()[0][:-1])
    prefixes = (b"\nclient_address=", b"\nsasl_username=", b"\ninstance=")
    assert benchmark(lambda: [request.after(prefix) for prefix in prefixes])[0] == b"11.0.0.0"
