"""What the micro-benchmarks share: requests as Postfix sends them, and a daemon's parts without its sockets."""

import itertools
from collections.abc import Callable, Iterator

import pytest
from in_process import InProcess, encode

BATCH = 100
"""Requests decided together: one from each of a hundred connections."""


@pytest.fixture
def make_batch() -> Callable[[], list[bytes]]:
    """Makes a batch of requests from 4,000 clients, each message with an instance of its own."""
    numbers = itertools.count()

    def make() -> list[bytes]:
        return [encode(number * 31 % 4000, number) for number in itertools.islice(numbers, BATCH)]

    return make


@pytest.fixture(params=["memory", "memcached"])
def in_process(request: pytest.FixtureRequest) -> Iterator[InProcess]:
    """A daemon's parts with either store; limits that are never reached."""
    with InProcess(request.param, BATCH) as parts:
        yield parts


@pytest.fixture
def deferring() -> Iterator[InProcess]:
    """A daemon's parts that defer everything."""
    with InProcess("memory", BATCH, limit="0") as parts:
        yield parts
