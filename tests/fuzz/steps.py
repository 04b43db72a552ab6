"""What the checks share: a stream cut into pieces, and coroutines without an event loop."""

import random
import zlib
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def single_bytes(data: bytes) -> Iterator[bytes]:
    """The stream byte by byte, of a long one only the end: a fuzzer is to try many."""
    start = max(0, len(data) - 40)
    if start:
        yield data[:start]
    for at in range(start, len(data)):
        yield data[at : at + 1]


def cut(data: bytes) -> Iterator[bytes]:
    """The stream in pieces of odd lengths; the same bytes always in the same ones, so that a finding repeats itself."""
    rng = random.Random(zlib.crc32(data))
    start = 0
    while start < len(data):
        end = start + rng.choice((1, 2, 3, 17, 200))
        yield data[start:end]
        start = end


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing; an event loop would take most of the time."""
    try:
        while True:
            coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
