"""Servers of their own for the tests that want real ones."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_process import COMMAND, Daemon
from memcached_server import MEMCACHED, MemcachedServer
from postfix_server import Postfix, missing_for_postfix


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A new directory whose name leaves room for a unix socket's (108 bytes, unix(7))."""
    with tempfile.TemporaryDirectory(prefix="ssp-") as directory:
        yield Path(directory)


@pytest.fixture
def make_daemon(short_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Makes daemons, not started yet, from their configuration's tables; all must end well after the test."""
    if not COMMAND.exists():
        pytest.skip(f"{COMMAND} is not installed")
    daemons: list[Daemon] = []

    def make(**tables: Any) -> Daemon:
        directory = short_path / str(len(daemons))
        directory.mkdir()
        daemons.append(Daemon(directory, **tables))
        return daemons[-1]

    yield make
    problems: list[AssertionError] = []
    for daemon in daemons:
        try:
            daemon.stop()
        except AssertionError as problem:
            problems.append(problem)
        daemon.close()
    assert not problems, problems


@pytest.fixture
def start_daemon(make_daemon: Callable[..., Daemon]) -> Callable[..., Daemon]:
    """Starts daemons from their configuration's tables; each is ready when this returns."""

    def start(**tables: Any) -> Daemon:
        daemon = make_daemon(**tables)
        daemon.start()
        return daemon

    return start


@pytest.fixture
def start_postfix() -> Iterator[Callable[[int], Postfix]]:
    """Starts a Postfix that asks the policy server at the given port."""
    if problem := missing_for_postfix():
        pytest.skip(problem)
    started: list[Postfix] = []

    def start(policy_port: int) -> Postfix:
        started.append(Postfix.start(policy_port))
        return started[-1]

    yield start
    for postfix in started:
        postfix.stop()


@pytest.fixture
def start_memcached() -> Iterator[Callable[..., MemcachedServer]]:
    """Starts memcached servers, with options of its command line."""
    if MEMCACHED is None:
        pytest.skip("memcached is not installed")
    started: list[MemcachedServer] = []

    def start(*options: str) -> MemcachedServer:
        started.append(MemcachedServer(*options))
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.fixture
def memcached(start_memcached: Callable[..., MemcachedServer]) -> MemcachedServer:
    """A running memcached."""
    return start_memcached()
