"""A batch of a hundred requests, each on its own connection: divide by a hundred for one decision."""

from collections.abc import Callable
from typing import Any

from in_process import InProcess


def test_receive(benchmark: Any, in_process: InProcess, make_batch: Callable[[], list[bytes]]) -> None:
    """From received bytes to questions of the engine (the same with either store); deciding them is not measured."""

    def prepare() -> tuple[tuple[list[bytes]], dict[str, object]]:
        in_process.run(in_process.engine.run())
        return (make_batch(),), {}

    benchmark.pedantic(in_process.receive, setup=prepare, rounds=300)


def test_decide(benchmark: Any, in_process: InProcess, make_batch: Callable[[], list[bytes]]) -> None:
    """From received bytes to replies, all within the limits."""
    benchmark.pedantic(in_process.decide, setup=lambda: ((make_batch(),), {}), rounds=300, warmup_rounds=50)


def test_defer(benchmark: Any, deferring: InProcess, make_batch: Callable[[], list[bytes]]) -> None:
    """From received bytes to replies and log lines, all above the limits."""
    benchmark.pedantic(deferring.decide, setup=lambda: ((make_batch(),), {}), rounds=300, warmup_rounds=50)
