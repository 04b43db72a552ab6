"""Waiting for what happens outside the test, and the ports that it happens at."""

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def eventually(probe: Callable[[], T | None], what: str, seconds: float = 30) -> T:
    """The first truthy result of `probe`, asked again until it comes.

    For events without a notification, such as a line in a log; `seconds` only bounds a failure.

    Raises:
        AssertionError: it never came.
    """
    deadline = time.monotonic() + seconds
    while not (result := probe()):
        assert time.monotonic() < deadline, f"still waiting for {what} after {seconds} s"
        time.sleep(0.01)
    return result


def wait_for_listener(endpoint: Path | int) -> None:
    """Wait until somebody listens on the unix socket or the TCP port of 127.0.0.1."""
    family, address = (
        (socket.AF_UNIX, str(endpoint)) if isinstance(endpoint, Path) else (socket.AF_INET, ("127.0.0.1", endpoint))
    )

    def listens() -> bool:
        with socket.socket(family) as probe:
            return probe.connect_ex(address) == 0

    eventually(listens, f"a listener on {endpoint}")


def free_port() -> int:
    """A free TCP port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
