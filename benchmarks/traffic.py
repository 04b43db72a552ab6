"""What simulated clients send against an hourly limit: times of messages, the same in every run."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

HOUR: Final = 3600.0
DAY: Final = 24 * HOUR
START: Final = 472_222 * HOUR
"""A full hour, in seconds since the epoch."""
SEED: Final = 4711


@dataclass(frozen=True)
class Traffic:
    """One client for a day.

    Args:
        name: as the report calls it.
        times: of its messages, in order, for a limit per hour.
    """

    name: str
    times: Callable[[int], Iterator[float]]


def steady(share: float, phase: float = 0.5, seconds: float = DAY) -> Callable[[int], Iterator[float]]:
    """Evenly spaced messages.

    Args:
        share: messages an hour, as a share of the limit.
        phase: of a message's distance, before the first one.
        seconds: for how long.
    """

    def times(limit: int) -> Iterator[float]:
        distance = HOUR / (share * limit)
        return (START + (number + phase) * distance for number in range(int(seconds / distance)))

    return times


def at_random(share: float) -> Callable[[int], Iterator[float]]:
    """Independent messages (Poisson)."""

    def times(limit: int) -> Iterator[float]:
        rng = random.Random(SEED)
        now = START
        while (now := now + rng.expovariate(share * limit / HOUR)) < START + DAY:
            yield now

    return times


def bursts(share: float, every: float, within: float, first: float = 0.0) -> Callable[[int], Iterator[float]]:
    """The same burst over and over.

    Args:
        share: its messages, as a share of the limit.
        every: seconds from one burst to the next.
        within: seconds that a burst lasts.
        first: seconds after a full hour at which the first one begins.
    """

    def times(limit: int) -> Iterator[float]:
        number = round(share * limit)
        for burst in range(int((DAY - first) // every)):
            begin = START + first + burst * every
            yield from (begin + within * each / number for each in range(number))

    return times


def two_bursts(bucket: float) -> Callable[[int], Iterator[float]]:
    """The worst case for a sliding window: the limit in the last second of a bucket, and again when that bucket leaves.

    Args:
        bucket: its length in seconds.
    """

    def times(limit: int) -> Iterator[float]:
        for again in range(11):
            begin = START + again * 2 * HOUR
            yield from (begin + bucket - 1 + each / limit for each in range(limit))
            yield from (begin + HOUR + bucket * each / (4 * limit) for each in range(4 * limit))

    return times


TRAFFIC: Final = (
    *(Traffic(f"steady, {share:g} N an hour", steady(share)) for share in (0.9, 0.99, 1.01, 1.1, 3.0)),
    *(Traffic(f"at random, {share:g} N an hour", at_random(share)) for share in (0.8, 0.9, 1.0, 1.2, 3.0)),
    Traffic("0.3 N in a minute, every 20 minutes", bursts(0.3, HOUR / 3, 60)),
    Traffic("0.5 N in a minute, every 20 minutes", bursts(0.5, HOUR / 3, 60)),
    Traffic("0.5 N in a minute, every hour", bursts(0.5, HOUR, 60)),
    Traffic("0.9 N in a minute, every hour", bursts(0.9, HOUR, 60)),
    Traffic("4 N an hour from hh:45 to hh:15, else nothing", bursts(2.0, HOUR, HOUR / 2, first=0.75 * HOUR)),
    Traffic("2 N in two seconds around hh:00, every two hours", bursts(2.0, 2 * HOUR, 2, first=HOUR - 1)),
)
