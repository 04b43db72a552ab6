"""The bar chart of the status page and of the forecast's report: geometry in percent, so that it fits any width."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars above a base line for messages that passed and below it for deferred ones, in one scale.

    All lengths are in percent of the drawing.
    """

    bars: list[Bar]
    slots: list[tuple[float, str]]  # each column's left edge, and its numbers, for a pointer that hovers over it
    width: float  # of a slot
    ticks: list[tuple[float, str]]  # the lines of the scale, and their labels
    base: float  # from above
    times: list[str]  # evenly spaced from the left end to the right end
    series: list[tuple[str, int, int]]  # each tier, with its passed and its deferred decisions
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


def chart(columns: Sequence[Column], step: float, slots: int, labels: int, form: str = "%H:%M") -> Chart:
    """The chart of at least one column, each `step` seconds after the one before; the last ends at the right edge.

    The chart has room for `slots` columns. Labels of the form divide the time axis into `labels` parts.
    """
    passed: Counter[str] = Counter()
    deferred: Counter[str] = Counter()
    for _, accepted, late in columns:
        passed.update(accepted)
        deferred.update(late)
    highest = max(sum(accepted.values()) for _, accepted, _ in columns)
    lowest = max(sum(late.values()) for _, _, late in columns)
    high = _round_number((highest + lowest) / 5)  # about five lines of the scale
    above, below = max(1, math.ceil(highest / high)), math.ceil(lowest / high)
    unit = 100 / ((above + below) * high)
    base = above * high * unit
    width = 100 / slots
    end = columns[-1][0] + step
    placed = [(at * width, column) for at, column in enumerate(columns, slots - len(columns))]
    return Chart(
        bars=[bar for x, column in placed for bar in _bars(column, x, width, base, unit)],
        slots=[(x, _text(column, form)) for x, column in placed],
        width=width,
        ticks=[(base - n * high * unit, f"{abs(n) * high:,}") for n in range(-below, above + 1)],
        base=base,
        times=[f"{local(end - slots * step * (labels - n) / labels):{form}}" for n in range(labels + 1)],
        series=[(tier, passed[tier], deferred[tier]) for tier in sorted(passed | deferred, key=tier_order)],
        passed=passed.total(),
        deferred=deferred.total(),
    )


def _round_number(least: float) -> int:
    """The smallest of 1, 2 or 5 times a power of ten that is not below `least`."""
    power: int = 10 ** max(0, math.ceil(math.log10(max(1, least))) - 1)
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)


def _bars(column: Column, x: float, width: float, base: float, unit: float) -> Iterable[Bar]:
    _, passed, deferred = column
    x, width = x + width * (1 - BAR) / 2, width * BAR
    above = below = base
    for tier in sorted(passed, key=tier_order):
        height = passed[tier] * unit
        above -= height
        yield Bar(x, above, width, height, shade(tier))
    for tier in sorted(deferred, key=tier_order):
        height = deferred[tier] * unit
        yield Bar(x, below, width, height, "late" if tier == PLAIN else shade(tier))
        below += height


def _text(column: Column, form: str) -> str:
    start, passed, deferred = column
    lines = [f"{local(start):{form}}: {sum(passed.values()):,} passed, {sum(deferred.values()):,} deferred"]
    for tier in sorted((passed.keys() | deferred.keys()) - {PLAIN}, key=tier_order):
        late = deferred.get(tier, 0)
        lines.append(f"{name(tier)}: {passed.get(tier, 0):,}" + (f" + {late:,} deferred" if late else ""))
    return "\n".join(lines)


HOUR: Final = 3600
MOST_COLUMNS: Final = 120
_STEPS: Final = (1, 2, 3, 6, 12, 24, 48, 168, 720, 8760)
"""Hours that a column of hourly counts may cover."""


class Span:
    """The time that all charts of a report show: from the first of these hours to the last.

    Args:
        hours: their starts, in seconds since the epoch.
    """

    def __init__(self, hours: Sequence[int]) -> None:
        begin, end = min(hours), max(hours) + HOUR
        least = (end - begin) / MOST_COLUMNS / HOUR
        self._step = next((step for step in _STEPS if step >= least), _STEPS[-1]) * HOUR
        if self._step > HOUR:
            # Days begin at midnight of the host's time zone, not of UTC.
            begin -= local(begin).hour * HOUR
        self._begin, self._columns = begin, -(-(end - begin) // self._step)
        self.step_text = period(self._step)  # "hour", "3 hours", "day"

    def chart(self, messages: Mapping[int, int], deferred: Mapping[int, int]) -> Chart:
        """The chart of counts by the start of their hour: of all messages, and of those that would be deferred."""
        sums = [[0, 0] for _ in range(self._columns)]
        for kind, hourly in enumerate((messages, deferred)):
            for hour, count in hourly.items():
                sums[(hour - self._begin) // self._step][kind] += count
        columns = [
            (self._begin + at * self._step, {PLAIN: count - late}, {PLAIN: late} if late else {})
            for at, (count, late) in enumerate(sums)
        ]
        labels = next((parts for parts in (4, 5, 6, 3, 2) if self._columns % parts == 0), 1)
        return chart(columns, self._step, self._columns, labels, "%d %b %H:%M")
