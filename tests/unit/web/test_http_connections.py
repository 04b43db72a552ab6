"""Connections to the status listener and the control socket."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from math import inf
from pathlib import Path

import pytest
from fakes import DaemonSite, site

from senderscore_policy.config.endpoints import Unix
from senderscore_policy.server.sockets import bind
from senderscore_policy.web import api, listener

ASK = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
ONCE = ASK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def facts() -> dict[str, object]:
    """Nothing that only a composition root knows."""
    return {}


@contextlib.asynccontextmanager
async def served(directory: Path, kind: str = "status", host: str = "") -> AsyncIterator[DaemonSite]:
    """A daemon that answers HTTP at `directory/http.sock`."""
    async with site(directory) as daemon:
        handlers = api.Api(daemon.collector, facts)
        serving = await api.serve(handlers, kind, [bind(Unix(str(directory / "http.sock")))], host)
        daemon.serving = serving
        yield daemon
        await serving.cleanup()


async def connect(directory: Path) -> Peer:
    """A new connection."""
    return await asyncio.open_unix_connection(str(directory / "http.sock"))


async def answer(directory: Path, request: bytes) -> bytes:
    """The answer to one request, on a connection of its own."""
    reader, writer = await connect(directory)
    writer.write(request)
    async with asyncio.timeout(30):
        received = await reader.read()
    writer.close()
    return received


async def heard(peer: Peer) -> bytes:
    """The first line of an answer whose body is read, too; nothing if the daemon has closed the connection."""
    async with asyncio.timeout(30):
        head = await peer[0].readuntil(b"\r\n\r\n") if not peer[0].at_eof() else b""
        if length := re.search(rb"Content-Length: (\d+)", head):
            await peer[0].readexactly(int(length[1]))
    return head.partition(b"\r\n")[0]


async def test_a_crowd_of_connections_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newcomer is answered: the daemon closes a connection that never asked, then the one that is idle longest."""
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 3)
    async with served(tmp_path):
        asked = [await connect(tmp_path) for _ in range(2)]
        for each in asked:
            each[1].write(ASK)
            assert await heard(each) == b"HTTP/1.1 200 OK"
        silent = await connect(tmp_path)
        silent[1].write(ASK[:20])
        assert (await answer(tmp_path, ONCE)).startswith(b"HTTP/1.1 200 OK")
        assert await silent[0].read() == b""
        # Both idle connections are still there; further ones that stay take the place of the older one.
        asked[1][1].write(ASK)
        assert await heard(asked[1]) == b"HTTP/1.1 200 OK"
        more = []
        for _ in range(2):
            more.append(await connect(tmp_path))
            more[-1][1].write(ASK)
            assert await heard(more[-1]) == b"HTTP/1.1 200 OK"
        assert await asked[0][0].read() == b""
        asked[1][1].write(ONCE)
        assert await heard(asked[1]) == b"HTTP/1.1 200 OK"
        for _, writer in (*asked, silent, *more):
            writer.close()


async def test_a_crowd_of_busy_connections_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While every connection waits for an answer, a newcomer takes the place of the one that asked most often."""
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 3)
    async with served(tmp_path) as daemon:
        busy = [await connect(tmp_path) for _ in range(3)]
        for _ in range(2):
            busy[1][1].write(ASK)
            assert await heard(busy[1]) == b"HTTP/1.1 200 OK"
        async with daemon.collector._collecting:
            for each in busy:
                each[1].write(ASK.replace(b"/healthz", b"/api/status"))
            async with asyncio.timeout(30):
                while any(each.active_at < inf for each in daemon.serving._runner.server.connections):  # noqa: ASYNC110
                    await asyncio.sleep(0)
            newcomer = await connect(tmp_path)
            newcomer[1].write(ONCE)
            assert await busy[1][0].read() == b""
        assert await heard(newcomer) == b"HTTP/1.1 200 OK"
        for _, writer in (*busy, newcomer):
            writer.close()


@pytest.mark.parametrize("first", [b"", ASK], ids=["never", "once"])
@pytest.mark.parametrize("begun", [b"", ASK[:30]], ids=["silent", "half a request"])
async def test_a_request_has_to_come_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bytes, begun: bytes
) -> None:
    """The daemon closes a connection without a complete request, whether its peer has asked before or not."""
    monkeypatch.setattr(listener, "REQUEST_TIME", 0.3)
    async with served(tmp_path):
        reader, writer = await connect(tmp_path)
        writer.write(first)
        if first:
            assert await heard((reader, writer)) == b"HTTP/1.1 200 OK"
        writer.write(begun)
        async with asyncio.timeout(30):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:10046", 200), ("127.0.0.1:1", 200), ("192.0.2.1", 200), ("[::1]:80", 200),
        ("mx1.example.org", 200), ("mx1.example.org.:1", 200), ("evil.example", 421), ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421), ("mx1.example.org@evil.example", 421), ("", 421), ("[::1", 421),
        ("[evil]", 421),
    ],
)  # fmt: skip
async def test_the_daemon_answers_to_its_own_names_alone(tmp_path: Path, host: str, status: int) -> None:
    """A page whose name resolves to 127.0.0.1 (DNS rebinding) gets no list of clients."""
    async with served(tmp_path, host="mx1.example.org"):
        request = f"GET /api/clients HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        received = await answer(tmp_path, request)
        assert received.startswith(b"HTTP/1.1 %d " % status)
        assert (b'"clients"' in received) is (status == 200)


async def test_a_request_without_a_host_is_answered(tmp_path: Path) -> None:
    """HTTP/1.0 has no Host header, and a browser never leaves it out."""
    async with served(tmp_path):
        assert (await answer(tmp_path, b"GET /healthz HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.0 200 OK")


@pytest.mark.parametrize(
    ("target", "status"),
    [("http://localhost:1/metrics", 200), ("http://[::1]/metrics", 200), ("http://evil.example/metrics", 421),
     ("http://localhost@evil.example/metrics", 421)],
)  # fmt: skip
async def test_a_target_may_name_the_host(tmp_path: Path, target: str, status: int) -> None:
    """A host in the target of the request counts, whatever the header says (RFC 9112, 3.2.2)."""
    async with served(tmp_path):
        request = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
        assert (await answer(tmp_path, request)).startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize(
    ("kind", "path", "page"),
    [("status", "/clients/%3Cb%3E", "../"), ("status", "/no/such/page", "../../"), ("status", "/none", "./"),
     ("status", "/clients/2001:db8::/48", "../../"), ("metrics", "/", "")],
)  # fmt: skip
async def test_a_browser_gets_an_error_as_a_page(tmp_path: Path, kind: str, path: str, page: str) -> None:
    """A visitor reads what is wrong and finds the way back; a program gets JSON, as from a listener without pages."""
    async with served(tmp_path, kind):
        for accept, html in (("text/html,*/*;q=0.8", bool(page)), ("*/*", False)):
            request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
            received = (await answer(tmp_path, request.encode())).decode()
            assert received.startswith("HTTP/1.1 40")
            assert ("Content-Type: text/html" in received) is html
            assert ('{"error": ' in received) is not html
            if html:
                assert f'<a href="{page}">All clients</a>' in received
                assert "<b>" not in received


def test_the_hosts_file_knows_all_names_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of this host are on the lines of /etc/hosts that contain its host name."""
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n127.0.1.1 MX1.example.org mx1 # us\n\n192.0.2.9 other.example.org other\n")
    monkeypatch.setattr(listener, "_HOSTS_FILE", hosts)
    monkeypatch.setattr(listener.socket, "gethostname", lambda: "mx1")
    assert listener.own_names() == {"localhost", "mx1", "mx1.example.org"}
    hosts.unlink()
    assert listener.own_names() == {"localhost", "mx1"}


@pytest.mark.parametrize(
    "request_",
    [b"\x1b[31m\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\x1b[31m\x00y\r\n\r\n", b"GET /\xff\x1b HTTP/9.9\r\n\r\n"],
)
async def test_a_malformed_request_is_one_line_of_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, request_: bytes
) -> None:
    """The peer gets 400; the log gets a line at most, and no control characters."""
    async with served(tmp_path):
        assert b" 400 Bad Request\r\n" in await answer(tmp_path, request_)
    assert len(caplog.records) <= 1
    assert caplog.text.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "fe80%3A%3A%25x%0D%0Aset%20ssp%3A192.0.2.7%3A3600.12%3A1%200%203600%204%0D%0A5000%0D%0Aget%20",
        "fe80::1%25eth0",
        "fe80::%25%C3%A9%2F64", "192.0.2.75%2F255.255.255.255", "2001:db8::1%2F64", "2001:db8::%2F32", "192.0.2.0%2F24",
        "::ffff:192.0.2.0%2F120", "192.0.2.75%0A", "%1b[31m", "192.0.2.75%2F", "%2F64", "2001:db8::%2F064%2F",
        "a" * 5000,
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/api/clients/%s", "/api/clients/%s/decisions", "/api/clients/%s/reset"])
async def test_only_what_is_counted_has_a_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str, text: str
) -> None:
    """A zone index, a misplaced mask, control characters and a network without a counter are refused with 400."""
    method = "POST" if path.endswith("reset") else "GET"
    async with served(tmp_path, "control"):
        request = f"{method} {path % text} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        assert (await answer(tmp_path, request.encode())).startswith(b"HTTP/1.1 400 ")
    assert not caplog.records


@pytest.mark.parametrize(
    ("text", "client"),
    [
        ("192.0.2.75", "192.0.2.75"), ("::ffff:192.0.2.75", "192.0.2.75"), ("192.0.2.75%2F32", "192.0.2.75"),
        ("2001:db8::1", "2001:db8::/64"), ("2001:DB8::%2F64", "2001:db8::/64"), ("2001:db8::/64", "2001:db8::/64"),
        ("2001:db8::_64", "2001:db8::/64"), ("2001:db8::5%2F128", "2001:db8::/64"),
    ],
)  # fmt: skip
async def test_a_client_is_named_by_address_or_as_it_is_counted(tmp_path: Path, text: str, client: str) -> None:
    """An address selects the client under which it is counted; a network must be such a client itself."""
    async with served(tmp_path):
        for path, expected in (("/api/clients", f'"client": "{client}"'), ("/clients", f"<title>{client} ")):
            request = f"GET {path}/{text} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            assert expected.encode() in await answer(tmp_path, request)
