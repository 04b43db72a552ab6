"""How fast the machine is with one processor busy, and with two: virtual ones may share a core or wait for others."""

import subprocess
import sys
import time
from pathlib import Path
from statistics import quantiles
from typing import Final

REPEATS: Final = 400
LOOP: Final = 200_000


def times() -> list[float]:
    """Milliseconds for a loop of nothing, again and again."""
    found = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        for _ in range(LOOP):
            pass
        found.append(1000 * (time.perf_counter() - begin))
    return found


def description() -> str:
    """In words: the median and the slowest tenth, with one such loop and with two at the same time."""
    alone = _spread(times())
    other = subprocess.Popen([sys.executable, str(Path(__file__).absolute())])
    try:
        beside = _spread(times())
    finally:
        other.wait()
    return f"{alone} on one processor, {beside} when a second one is as busy"


def _spread(milliseconds: list[float]) -> str:
    deciles = quantiles(milliseconds, n=10)
    return f"{deciles[4]:.1f} ms (slowest tenth over {deciles[8]:.1f} ms)"


if __name__ == "__main__":
    times()
