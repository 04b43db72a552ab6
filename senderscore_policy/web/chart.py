"""The bar chart of the status page and of the forecast's report: geometry in percent, so that it fits any width."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple

from senderscore_policy.policy.durations import period

Column = tuple[float, Mapping[str, int], Mapping[str, int]]
"""Decisions of one step of time: its start in seconds since the epoch, then passed and deferred ones by tier."""
PLAIN: Final = ""
"""The tier in a chart that does not distinguish tiers."""
UNCOUNTED: Final = "none"
"""The tier of decisions that counted nothing: exempt and authenticated clients, repeats."""
OTHERS: Final = ("not-asked", "unscored", "unavailable", "override", UNCOUNTED)
"""The tiers without a range of scores, in the order of the legend."""
BAR: Final = 0.78
"""The part of a step's width that its bar takes."""


class Bar(NamedTuple):
    """A tier's part of a column; all numbers in percent of the drawing."""

    x: float
    y: float
    width: float
    height: float
    shade: str


class Slot(NamedTuple):
    """The whole height of a column, which shows its numbers when a pointer hovers over it."""

    x: float
    width: float
    text: str


class Tick(NamedTuple):
    """A line of the scale."""

    y: float
    label: str


class Series(NamedTuple):
    """A tier in the legend, with its decisions in the whole chart."""

    tier: str
    shade: str
    passed: int
    deferred: int


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars above a base line for messages that passed and below it for deferred ones, in one scale."""

    bars: tuple[Bar, ...]
    slots: tuple[Slot, ...]
    ticks: tuple[Tick, ...]
    series: tuple[Series, ...]
    base: float  # in percent from above
    times: tuple[str, ...]  # evenly spaced from the left end to the right end
    passed: int
    deferred: int


def tier_order(tier: str) -> tuple[int, str]:
    """Sorts tiers from the worst scores up, then those without a range of scores."""
    if tier in OTHERS:
        return 1000 + OTHERS.index(tier), tier
    low = re.match(r"\d+", tier)
    return int(low[0]) if low else 999, tier


def shade(tier: str) -> str:
    """The style class of a tier: s0 for the worst scores to s9 for the best, or one of its own."""
    numbers = [int(number) for number in re.findall(r"\d+", tier)]
    if not numbers:
        return f"t-{tier or 'plain'}"
    return f"s{min(9, (numbers[0] + numbers[-1]) // 20)}"


def name(tier: str) -> str:
    return "not counted" if tier == UNCOUNTED else tier


def local(time: float) -> datetime:
    """A time in the host's time zone."""
    return datetime.fromtimestamp(time, UTC).astimezone()


def clock(time: float) -> str:
    return f"{local(time):%H:%M}"


def day_and_clock(time: float) -> str:
    return f"{local(time):%d %b %H:%M}"


def chart(
    columns: Sequence[Column], step: float, slots: int, labels: int, label: Callable[[float], str] = clock
) -> Chart:
    """The chart of at least one column, each `step` seconds after the one before; the last ends at the right edge.

    The chart has room for `slots` columns. Labels divide the time axis into `labels` parts.
    """
    highest = max(sum(passed.values()) for _, passed, _ in columns)
    lowest = max(sum(deferred.values()) for _, _, deferred in columns)
    high = _round_number((highest + lowest) / 5)  # about five lines of the scale
    above, below = max(1, math.ceil(highest / high)), math.ceil(lowest / high)
    unit = 100 / ((above + below) * high)
    base = above * high * unit
    width = 100 / slots
    end = columns[-1][0] + step
    series = tuple(_series(columns))
    placed = [(at * width, column) for at, column in enumerate(columns, slots - len(columns))]
    return Chart(
        bars=tuple(bar for x, column in placed for bar in _bars(column, x, width, base, unit)),
        slots=tuple(Slot(_exact(x), _exact(width), _text(column, label)) for x, column in placed),
        ticks=tuple(Tick(_exact(base - n * high * unit), f"{abs(n) * high:,}") for n in range(-below, above + 1)),
        series=series,
        base=_exact(base),
        times=tuple(label(end - slots * step * (labels - n) / labels) for n in range(labels + 1)),
        passed=sum(each.passed for each in series),
        deferred=sum(each.deferred for each in series),
    )


def _round_number(least: float) -> int:
    """The smallest of 1, 2 or 5 times a power of ten that is not below `least`."""
    power: int = 10 ** max(0, math.ceil(math.log10(max(1, least))) - 1)
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)


def _exact(percent: float) -> float:
    return round(percent, 3)


def _bars(column: Column, x: float, width: float, base: float, unit: float) -> Iterable[Bar]:
    _, passed, deferred = column
    x, width = _exact(x + width * (1 - BAR) / 2), _exact(width * BAR)
    above = below = base
    for tier in sorted(passed, key=tier_order):
        height = passed[tier] * unit
        above -= height
        yield Bar(x, _exact(above), width, _exact(height), shade(tier))
    for tier in sorted(deferred, key=tier_order):
        height = deferred[tier] * unit
        yield Bar(x, _exact(below), width, _exact(height), "late" if tier == PLAIN else shade(tier))
        below += height


def _text(column: Column, label: Callable[[float], str]) -> str:
    start, passed, deferred = column
    lines = [f"{label(start)}: {sum(passed.values()):,} passed, {sum(deferred.values()):,} deferred"]
    for tier in sorted((passed.keys() | deferred.keys()) - {PLAIN}, key=tier_order):
        late = deferred.get(tier, 0)
        lines.append(f"{name(tier)}: {passed.get(tier, 0):,}" + (f" + {late:,} deferred" if late else ""))
    return "\n".join(lines)


def _series(columns: Sequence[Column]) -> Iterable[Series]:
    tiers = {tier for _, passed, deferred in columns for tier in (*passed, *deferred)}
    for tier in sorted(tiers, key=tier_order):
        passed = sum(column[1].get(tier, 0) for column in columns)
        deferred = sum(column[2].get(tier, 0) for column in columns)
        yield Series(name(tier), shade(tier), passed, deferred)


HOUR: Final = 3600
MOST_COLUMNS: Final = 120
_STEPS: Final = (1, 2, 3, 6, 12, 24, 48, 168, 720, 8760)
"""Hours that a column of hourly counts may cover."""


class Span(NamedTuple):
    """The time that all charts of a report show."""

    begin: int  # seconds since the epoch
    step: int  # seconds
    columns: int

    @property
    def step_text(self) -> str:
        """The step in words: "hour", "3 hours", "day"."""
        return period(self.step)

    def chart(self, messages: Mapping[int, int], deferred: Mapping[int, int]) -> Chart:
        """The chart of counts by the start of their hour: of all messages, and of those that would be deferred."""
        sums = [[0, 0] for _ in range(self.columns)]
        for kind, hourly in enumerate((messages, deferred)):
            for hour, count in hourly.items():
                sums[(hour - self.begin) // self.step][kind] += count
        columns = [
            (self.begin + at * self.step, {PLAIN: count - late}, {PLAIN: late} if late else {})
            for at, (count, late) in enumerate(sums)
        ]
        labels = next((parts for parts in (4, 5, 6, 3, 2) if self.columns % parts == 0), 1)
        return chart(columns, self.step, self.columns, labels, day_and_clock)


def span_of(hours: Sequence[int]) -> Span:
    """The time from the first of these hours (seconds since the epoch) to the last, in at most `MOST_COLUMNS` steps."""
    begin, end = min(hours), max(hours) + HOUR
    step = next(hours * HOUR for hours in _STEPS if end - begin <= MOST_COLUMNS * hours * HOUR or hours == _STEPS[-1])
    if step > HOUR:
        # Days begin at midnight of the host's time zone, not of UTC.
        begin -= local(begin).hour * HOUR
    return Span(begin, step, -(-(end - begin) // step))
