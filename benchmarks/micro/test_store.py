"""The stores and memcached's protocol, for a hundred messages."""

from typing import Any

from in_process import InProcess

from senderscore_policy.counters.memcached.protocol import Pipeline, ReplyReader, incr
from senderscore_policy.policy.ports import Charge

CHARGES = [Charge(f"10.0.{number % 7}.{number}", 1) for number in range(100)]


def test_charge(benchmark: Any, in_process: InProcess) -> None:
    """Counting; with memcached without the round trip itself."""
    benchmark(lambda: in_process.run(in_process.store.charge(CHARGES, [])))
    assert CHARGES[-1].count


def test_encode_an_order(benchmark: Any) -> None:
    """Commands for memcached."""
    names = [f"ssp:{charge.key}:3600.12:1234567".encode() for charge in CHARGES]
    assert benchmark(lambda: Pipeline([incr(name, 1) for name in names], []).encoded())


def test_read_the_replies(benchmark: Any) -> None:
    """A hundred numbers."""
    data = b"".join(b"%d\r\n" % number for number in range(100))
    assert benchmark(lambda: ReplyReader(100, values=False).feed(data))
