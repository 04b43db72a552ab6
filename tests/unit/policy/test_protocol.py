"""The policy delegation protocol, bytes in, requests out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from senderscore_policy.policy.protocol import MAX_REQUEST, MAX_VALUE, RequestParser, reply

# SMTPD_POLICY_README, "Protocol description", as Postfix sends it.
POSTFIX = b"""request=smtpd_access_policy
protocol_state=END-OF-MESSAGE
protocol_name=ESMTP
helo_name=some.domain.example
queue_id=8045F2AB23
sender=foo@bar.example
recipient=
recipient_count=1
client_address=192.0.2.75
client_name=mx.example.net
reverse_client_name=mx.example.net
instance=123.456.7
sasl_method=
sasl_username=
sasl_sender=
size=12345
ccert_subject=
ccert_issuer=
ccert_fingerprint=
encryption_protocol=
encryption_cipher=
encryption_keysize=0
etrn_domain=
stress=
ccert_pubkey_fingerprint=
client_port=1234
policy_context=
server_address=192.0.2.1
server_port=25

"""
STREAM = (
    POSTFIX
    + b"request=smtpd_access_policy\r\nclient_address=192.0.2.1\r\n\r\n"
    + b"client_address=192.0.2.2\nhelo_name=a=b==\nunknown=\xff\xfe\n\n"
    + POSTFIX
)
PIECES = [b"request=smtpd_access_policy", b"client_address=::1", b"a=b", b"x", b"", b"\n", b"\r\n", b"\r", b"=", b"\0"]


def parse(stream: bytes, size: int) -> tuple[list[bytes], str]:
    """The requests of a stream that arrives in chunks of this size, and its fault."""
    parser = RequestParser()
    requests = [r.raw for start in range(0, len(stream), size) for r in parser.feed(stream[start : start + size])]
    return requests, str(parser.fault or "")


@pytest.mark.parametrize("size", [4096, 128, 16, 1])
def test_any_chunks_give_the_same_requests(size: int) -> None:
    """The same stream cut into chunks of any size gives the same requests."""
    requests, fault = parse(STREAM, size)
    assert (requests, fault) == parse(STREAM, len(STREAM))
    assert len(requests) == 4


@given(st.lists(st.sampled_from(PIECES)), st.data())
def test_any_cut_of_any_stream(pieces: list[bytes], data: st.DataObject) -> None:
    """Sound or malformed, a stream means the same however it is cut, up to and including its fault."""
    stream = b"\n".join(pieces) + b"\n\n"
    parser = RequestParser()
    requests, start = [], 0
    while start < len(stream):
        end = data.draw(st.integers(start + 1, len(stream)))
        requests += [request.raw for request in parser.feed(stream[start:end])]
        start = end
    assert (requests, str(parser.fault or "")) == parse(stream, len(stream))


def test_the_beginning_of_the_next_request_is_kept() -> None:
    """A request and a part of the next one in the same chunk are cut where the first one ends."""
    parser = RequestParser()
    assert [request.raw for request in parser.feed(POSTFIX + b"client_")] == [b"\n" + POSTFIX]
    assert parser.partial
    assert [request.raw for request in parser.feed(b"address=192.0.2.1\n\n")] == [b"\nclient_address=192.0.2.1\n\n"]


def test_attributes() -> None:
    """Values are found by name; absent is empty; "=" in a value is kept; of a repeated attribute the first counts."""
    (request,) = RequestParser().feed(b"name=1\nhelo_name=a=b\nname=2\nclient=\n\n")
    assert request.after(b"\nname=") == b"1"
    assert request.after(b"\nhelo_name=") == b"a=b"
    assert request.after(b"\nclient=") == b""
    assert request.after(b"\name=") == b""


def test_text_is_printable() -> None:
    """As text a value has no control characters and no broken UTF-8, so that it cannot forge a log line."""
    (request,) = RequestParser().feed(b"a=x\x1b[31m\xff\rz\nb=\xc3\xa4\xe2\x80\xa8\n\n")
    assert request.text("a") == "x\\x1b[31m\\xff\\rz"
    assert request.text("b") == "ä\\u2028"


@pytest.mark.parametrize(
    ("stream", "fault"),
    [
        (b"nonsense\n\n", "without '='"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "without '='"),
        (b"request=smtpd_access_policy\nbroken\n\n", "without '='"),
        (b"request=smtpd_access_policy\nhelo_name=a\0b\n\n", "NUL"),
        (b"request=junk\nclient_address=192.0.2.1\n\n", "request=b'junk'"),
        (b"a=" + b"x" * (MAX_VALUE + 1) + b"\n\n", "a value of over"),
        (b"a=b\n" * (MAX_REQUEST // 4 + 1), "a request of over"),
        (b"a=b\n" * (MAX_REQUEST // 4) + b"\n", "a request of over"),
        (b"x" * (MAX_REQUEST + 1), "a request of over"),
    ],
)
def test_malformed(stream: bytes, fault: str) -> None:
    """A malformed request is a fault: requests before it are valid, and nothing after it is read."""
    parser = RequestParser()
    requests = parser.feed(POSTFIX + stream)
    assert len(requests) == 1
    assert fault in str(parser.fault)
    assert parser.feed(POSTFIX) == []


def test_limits_are_reached_and_not_passed() -> None:
    """A value of 16 KiB and a request of 64 KiB are still sound."""
    assert len(RequestParser().feed(b"a=" + b"x" * MAX_VALUE + b"\n\n")) == 1
    assert len(RequestParser().feed(b"a=b\n" * (MAX_REQUEST // 4 - 1) + b"a=\n\n")) == 1


@pytest.mark.parametrize("size", [4096, MAX_REQUEST + 1])
def test_a_request_of_one_byte_too_many_is_refused_however_it_arrives(size: int) -> None:
    """Whether it comes in one piece or in several."""
    requests, fault = parse(b"a=b\n" * (MAX_REQUEST // 4) + b"\n", size)
    assert requests == []
    assert "a request of over" in fault


def test_partial() -> None:
    """A parser knows whether a request has begun."""
    parser = RequestParser()
    assert not parser.partial
    parser.feed(b"a=b\n")
    assert parser.partial
    parser.feed(b"\n")
    assert not parser.partial


def test_reply() -> None:
    """A reply is the action and an empty line."""
    assert reply("DUNNO") == b"action=DUNNO\n\n"
