"""The command `ask`."""

import json
import socket
from pathlib import Path

import pytest
from command_fakes import PolicyServer, Run, closed

from senderscore_policy.policy.protocol import Request, RequestParser


def parsed(message: bytes) -> Request:
    """The one request in the message, as the daemon reads it."""
    parser = RequestParser()
    [request] = parser.feed(message)
    assert parser.fault is None
    assert not parser.partial
    return request


def test_it_prints_the_action(run: Run) -> None:
    """The daemon's action is printed unchanged, or as JSON."""
    with PolicyServer(b"action=421 score = 75, later\n\n") as server:
        assert run("ask", "--endpoint", server.endpoint, "192.0.2.75") == (0, "action=421 score = 75, later\n", "")
    with PolicyServer(b"action=DUNNO\n\n") as server:
        status, out, _ = run("ask", "--json", "--endpoint", server.endpoint)
    assert status == 0
    assert json.loads(out) == {"action": "DUNNO"}


def test_it_asks_about_a_message_at_end_of_data(run: Run) -> None:
    """Attributes that are not given have sensible values."""
    with PolicyServer(b"action=DUNNO\n\n") as server:
        run("ask", "--endpoint", server.endpoint)
    request = parsed(server.request)
    assert request.raw.startswith(b"\nrequest=smtpd_access_policy\n")
    for name, value in (
        ("protocol_state", "END-OF-MESSAGE"),
        ("protocol_name", "ESMTP"),
        ("client_address", "192.0.2.1"),
        ("recipient_count", "1"),
        ("sender", "sender@example.org"),
        ("sasl_username", ""),
    ):
        assert request.text(name) == value
    assert request.text("queue_id")


def test_given_attributes_go_first(run: Run) -> None:
    """Also after an option, with "=" in the value, empty, and in bytes that are not UTF-8."""
    odd = b"x\xff=y".decode("utf-8", "surrogateescape")
    with PolicyServer(b"action=DUNNO\n\n") as server:
        run(
            "ask", "client_address=2001:db8::1", "--endpoint", server.endpoint, f"sender={odd}", "queue_id=", "stress=1"
        )
    request = parsed(server.request)
    assert request.after(b"\nclient_address=") == b"2001:db8::1"
    assert request.after(b"\nsender=") == b"x\xff=y"
    assert request.after(b"\nqueue_id=") == b""
    assert request.after(b"\nstress=") == b"1"


def test_each_call_is_a_message_of_its_own(run: Run) -> None:
    """The instance differs, unless one is given: then it is the same message again."""
    instances = []
    for arguments in ([], [], ["instance=a.1"]):
        with PolicyServer(b"action=DUNNO\n\n") as server:
            run("ask", "--endpoint", server.endpoint, *arguments)
        instances.append(parsed(server.request).text("instance"))
    assert len(set(instances)) == 3
    assert all(instances)
    assert instances[2] == "a.1"


def test_the_endpoint_is_the_first_of_the_configuration(run: Run, place: Path, file: Path) -> None:
    """TCP or unix socket."""
    with PolicyServer(b"action=DUNNO\n\n", place / "policy.sock") as server:
        file.write_text(f'listen.policy = ["{server.endpoint}", "inet:127.0.0.1:10045"]')
        assert run("ask", "-c", str(file))[0] == 0


def test_an_endpoint_that_is_given_needs_no_configuration(run: Run, file: Path) -> None:
    """A daemon elsewhere can be asked whatever this host's file says."""
    file.write_text("mistake")
    with PolicyServer(b"action=DUNNO\n\n") as server:
        assert run("ask", "-c", str(file), "--endpoint", server.endpoint)[0] == 0


def test_nobody_listening_is_69(run: Run, place: Path) -> None:
    """The line names the endpoint."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        endpoint = f"inet:127.0.0.1:{unheard.getsockname()[1]}"
        status, out, err = run("ask", "--endpoint", endpoint)
    assert (status, out) == (69, "")
    assert err == f"senderscore-policy: {endpoint}: Connection refused; is the daemon running?\n"
    status, _, err = run("ask", "--endpoint", f"unix:{place}/policy.sock")
    assert status == 69
    assert err == f"senderscore-policy: unix:{place}/policy.sock: No such file or directory; is the daemon running?\n"


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"", "the connection was closed without a reply; the daemon's log says why"),
        (b"action=DUNNO\n", "the answer is not a policy reply: b'action=DUNNO\\n'"),
        (b"220 mx.example.org ESMTP\n\n", "the answer is not a policy reply"),
        (b"action=a\nb=c\n\n", "the answer is not a policy reply"),
        (b"x" * 100_000, "the answer is not a policy reply"),
    ],
)
def test_no_reply_is_69(run: Run, reply: bytes, words: str) -> None:
    """A malformed request is closed without a reply; and other servers answer other things."""
    with PolicyServer(reply) as server:
        status, out, err = run("ask", "--endpoint", server.endpoint)
    assert (status, out) == (69, "")
    assert words in err
    assert len(err.splitlines()) == 1


def test_silence_is_69(run: Run) -> None:
    """`ask` waits for the time of --timeout."""
    with PolicyServer(None) as server:
        status, _, err = run("ask", "--endpoint", server.endpoint, "--timeout", "0.05")
    assert status == 69
    assert err == f"senderscore-policy: {server.endpoint}: no answer within 0.05 s\n"


def test_a_socket_that_denies_access_is_77(run: Run, place: Path) -> None:
    """As smtpd would be denied it."""
    (place / "run").mkdir()
    with closed(place / "run"):
        status, _, err = run("ask", "--endpoint", f"unix:{place}/run/policy.sock")
    assert status == 77
    assert "permission denied" in err


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("192.0.2.75", "192.0.2.75"),
        ("mx.example.net[192.0.2.75]", "192.0.2.75"),
        ("client=mx.example.net[192.0.2.75]", "192.0.2.75"),
        ("client_address=[2001:db8::25]", "2001:db8::25"),
        ("client_address=", ""),
    ],
)
def test_an_address_is_the_client_s(run: Run, given: str, sent: str) -> None:
    """It may be written as in a log."""
    with PolicyServer(b"action=DUNNO\n\n") as server:
        assert run("ask", "--endpoint", server.endpoint, given) == (0, "action=DUNNO\n", "")
    assert parsed(server.request).text("client_address") == sent


def test_without_an_address_it_names_the_one_it_takes(run: Run) -> None:
    """Otherwise the count of 192.0.2.1 would be a riddle."""
    with PolicyServer(b"action=DUNNO\n\n") as server:
        _, _, err = run("ask", "--endpoint", server.endpoint, "recipient_count=2")
    assert err == "senderscore-policy: no address is given, so the client is 192.0.2.1\n"


def test_an_unknown_attribute_is_refused_with_a_suggestion(run: Run) -> None:
    """A misspelt attribute would be ignored by the daemon, and its default decide."""
    status, _, err = run("ask", "cleint_address=192.0.2.75")
    assert status == 64
    assert "'cleint_address' is not an attribute of a policy request; did you mean client_address?" in err
