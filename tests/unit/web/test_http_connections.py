"""Connections to the status listener and the control socket."""

import asyncio
from pathlib import Path

import pytest
from fakes import site

from senderscore_policy.config.endpoints import Unix
from senderscore_policy.monitoring.decisions import DecisionHistory
from senderscore_policy.server.sockets import bind
from senderscore_policy.web import api
from senderscore_policy.web.inquiries import Inquiries

ASK = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def test_who_opens_connections_and_says_nothing_takes_no_more_than_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Further connections are closed at once; when one of the silent ones is gone, the next is served."""
    monkeypatch.setattr(api, "MAX_CONNECTIONS", 3)
    path = str(tmp_path / "status.sock")

    async def ask() -> bytes:
        reader, writer = await asyncio.open_unix_connection(path)
        try:
            writer.write(ASK)
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def crowd() -> None:
        async with site(tmp_path) as daemon:
            handlers = api.Api(daemon.desk, daemon.parts, Inquiries(daemon.parts, daemon.desk, DecisionHistory(), dict))
            listening = await api.serve(handlers.application(writable=False), [bind(Unix(path))])
            silent = [await asyncio.open_unix_connection(path) for _ in range(3)]
            assert await ask() == b""
            silent[0][1].close()
            await silent[0][1].wait_closed()
            async with asyncio.timeout(30):
                while not (answer := await ask()):
                    pass
            assert answer.startswith(b"HTTP/1.1 200 OK")
            await listening.cleanup()
            assert await silent[1][0].read() == b""
            for _, writer in silent:
                writer.close()

    asyncio.run(crowd())


def test_who_says_nothing_for_long_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silent connections make room by themselves; one that has asked may stay."""
    path = str(tmp_path / "status.sock")

    async def crowd() -> None:
        async with site(tmp_path) as daemon:
            handlers = api.Api(daemon.desk, daemon.parts, Inquiries(daemon.parts, daemon.desk, DecisionHistory(), dict))
            listening = await api.serve(handlers.application(writable=False), [bind(Unix(path))])
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(ASK.replace(b"Connection: close\r\n", b""))
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
            assert not listening._silent
            monkeypatch.setattr(api, "FIRST_REQUEST_TIME", 0)
            async with asyncio.timeout(30):
                silent_reader, silent_writer = await asyncio.open_unix_connection(path)
                assert await silent_reader.read() == b""
                silent_writer.close()
            writer.write(ASK)
            assert b"HTTP/1.1 200 OK" in await reader.read()
            writer.close()
            await listening.cleanup()

    asyncio.run(crowd())
