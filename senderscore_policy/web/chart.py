"""The chart of decisions per minute: geometry in percent of the drawing, so that it fits any width."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from senderscore_policy.monitoring.statistics import MINUTES, Minute

UNCOUNTED: Final = "none"
"""The tier of decisions that counted nothing: exempt and authenticated clients, repeats."""
OTHERS: Final = ("not-asked", "unscored", "unavailable", "override", UNCOUNTED)
"""What is no tier of scores, in the order of the legend."""
BAR: Final = 0.78
"""The part of a minute's width that its bar takes."""
TICKS: Final = 5
"""Lines that the scale has, about."""
LABELLED: Final = 15
"""Minutes from one time on the axis to the next."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A tier's part of a minute; all numbers in percent of the drawing."""

    x: float
    y: float
    width: float
    height: float
    shade: str


@dataclass(frozen=True, slots=True)
class Slot:
    """The whole height of a minute, which says more when one points at it."""

    x: float
    width: float
    text: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A line of the scale."""

    y: float
    label: str


@dataclass(frozen=True, slots=True)
class Series:
    """A tier in the legend, with its decisions of the hour."""

    tier: str
    shade: str
    passed: int
    deferred: int


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars above a base line for what passed and below it for what was deferred, in one scale.

    Args:
        base: where that line is, in percent from above.
        times: on the time axis, from the left end to the right.
        passed: decisions of the hour that let a message through.
        deferred: those that did not.
    """

    bars: tuple[Bar, ...]
    slots: tuple[Slot, ...]
    ticks: tuple[Tick, ...]
    series: tuple[Series, ...]
    base: float
    times: tuple[str, ...]
    passed: int
    deferred: int


def tier_order(tier: str) -> tuple[int, str]:
    """Sorts tiers from the worst scores up, then what is no tier of scores."""
    if tier in OTHERS:
        return 1000 + OTHERS.index(tier), tier
    low = re.match(r"\d+", tier)
    return int(low[0]) if low else 999, tier


def shade(tier: str) -> str:
    """The style class of a tier: s0 for the worst scores to s9 for the best, or one of its own."""
    numbers = [int(number) for number in re.findall(r"\d+", tier)]
    if not numbers:
        return f"t-{tier}"
    return f"s{min(9, (numbers[0] + numbers[-1]) // 20)}"


def name(tier: str) -> str:
    """A tier's name for people."""
    return "not counted" if tier == UNCOUNTED else tier


def chart(minutes: Sequence[Minute]) -> Chart:
    """The chart of up to an hour, oldest minute first, which ends at the right edge.

    Args:
        minutes: at least one.
    """
    highest = max(sum(minute.passed.values()) for minute in minutes)
    lowest = max(sum(minute.deferred.values()) for minute in minutes)
    step = _step((highest + lowest) / TICKS)
    above, below = max(1, math.ceil(highest / step)), math.ceil(lowest / step)
    unit = 100 / ((above + below) * step)
    base = above * step * unit
    first = MINUTES - len(minutes)
    width = 100 / MINUTES
    bars = [bar for at, minute in enumerate(minutes, first) for bar in _bars(minute, at * width, base, unit)]
    slots = [Slot(_round(at * width), _round(width), _text(minute)) for at, minute in enumerate(minutes, first)]
    ticks = [Tick(_round(base - n * step * unit), f"{abs(n) * step:,}") for n in range(-below, above + 1)]
    series = tuple(_series(minutes))
    return Chart(
        bars=tuple(bars),
        slots=tuple(slots),
        ticks=tuple(ticks),
        series=series,
        base=_round(base),
        times=tuple(_times(minutes[-1].start)),
        passed=sum(each.passed for each in series),
        deferred=sum(each.deferred for each in series),
    )


def _step(least: float) -> int:
    """A round number that is at least so much: 1, 2 or 5 times a power of ten."""
    power: int = 10 ** max(0, math.ceil(math.log10(max(1, least))) - 1)
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)


def _round(percent: float) -> float:
    return round(percent, 3)


def _bars(minute: Minute, x: float, base: float, unit: float) -> Iterable[Bar]:
    width = 100 / MINUTES
    x, width = _round(x + width * (1 - BAR) / 2), _round(width * BAR)
    y = base
    for tier in sorted(minute.passed, key=tier_order):
        height = minute.passed[tier] * unit
        y -= height
        yield Bar(x, _round(y), width, _round(height), shade(tier))
    y = base
    for tier in sorted(minute.deferred, key=tier_order):
        height = minute.deferred[tier] * unit
        yield Bar(x, _round(y), width, _round(height), shade(tier))
        y += height


def _text(minute: Minute) -> str:
    lines = [
        f"{clock(minute.start)}: {sum(minute.passed.values()):,} passed, {sum(minute.deferred.values()):,} deferred"
    ]
    for tier in sorted(minute.passed.keys() | minute.deferred.keys(), key=tier_order):
        deferred = minute.deferred.get(tier, 0)
        lines.append(
            f"{name(tier)}: {minute.passed.get(tier, 0):,}" + (f" + {deferred:,} deferred" if deferred else "")
        )
    return "\n".join(lines)


def _series(minutes: Sequence[Minute]) -> Iterable[Series]:
    tiers = {tier for minute in minutes for tier in (*minute.passed, *minute.deferred)}
    for tier in sorted(tiers, key=tier_order):
        passed = sum(minute.passed.get(tier, 0) for minute in minutes)
        deferred = sum(minute.deferred.get(tier, 0) for minute in minutes)
        yield Series(name(tier), shade(tier), passed, deferred)


def _times(last: int) -> Iterable[str]:
    """The time at the left edge of the hour and each quarter of it."""
    for ago in range(MINUTES, 0, -LABELLED):
        yield clock(last + 60 - 60 * ago)


def clock(time: float) -> str:
    """Hours and minutes in the host's time zone."""
    return f"{datetime.fromtimestamp(time).astimezone():%H:%M}"
