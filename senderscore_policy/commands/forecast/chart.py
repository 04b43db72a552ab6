"""The geometry of the charts in a forecast's page: bars of messages over time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from senderscore_policy.commands.forecast.simulation import HOUR

MOST_BARS: Final = 120
_STEPS: Final = (1, 2, 3, 6, 12, 24, 48, 168, 720, 8760)
"""Hours that a bar may stand for."""
_LABELS: Final = 6


@dataclass(frozen=True, slots=True)
class Bar:
    """The messages of one step of time; heights from 0 to 100.

    Args:
        passed: height of the messages that would have passed.
        deferred: height of those that would have been deferred, on top of them.
        text: for people.
    """

    passed: float
    deferred: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars over time.

    Args:
        bars: from left to right, without gaps in time.
        largest: messages at the height of 100.
        step: what a bar stands for, "3 hours".
        labels: times below the bars, evenly spaced from the left.
    """

    bars: list[Bar]
    largest: int
    step: str
    labels: list[str]


@dataclass(frozen=True, slots=True)
class Span:
    """The time that all charts of a page show.

    Args:
        begin: seconds since the epoch.
        step: seconds of a bar.
        bars: how many.
    """

    begin: int
    step: int
    bars: int


def span_of(hours: Sequence[int]) -> Span:
    """The time from the first hour to the last.

    Args:
        hours: beginnings of hours with messages, seconds since the epoch; at least one.
    """
    begin, end = min(hours), max(hours) + HOUR
    step = next(hours * HOUR for hours in _STEPS if end - begin <= MOST_BARS * hours * HOUR or hours == _STEPS[-1])
    if step > HOUR:
        # Days begin at midnight, here and not in UTC.
        local = datetime.fromtimestamp(begin, UTC).astimezone()
        begin -= local.hour * HOUR
    return Span(begin, step, -(-(end - begin) // step))


def chart(span: Span, messages: Mapping[int, int], deferred: Mapping[int, int]) -> Chart:
    """The bars of messages by hour.

    Args:
        span: of the chart.
        messages: all messages by hour.
        deferred: those of them that would have been deferred.
    """
    total, late = _by_step(span, messages), _by_step(span, deferred)
    largest = max(1, *total)
    bars = [
        Bar(
            100 * (here - held) / largest,
            100 * held / largest,
            f"{_label(span.begin + index * span.step)}: {here:,} messages, {held:,} deferred",
        )
        for index, (here, held) in enumerate(zip(total, late, strict=True))
    ]
    hours = span.step // HOUR
    step = "hour" if hours == 1 else f"{hours} hours" if hours < 24 else "day" if hours == 24 else f"{hours // 24} days"
    return Chart(bars, largest, step, _labels(span))


def _by_step(span: Span, hourly: Mapping[int, int]) -> list[int]:
    sums = [0] * span.bars
    for hour, count in hourly.items():
        sums[(hour - span.begin) // span.step] += count
    return sums


def _labels(span: Span) -> list[str]:
    every = max(1, span.bars / _LABELS)
    starts = [int(number * every) for number in range(min(_LABELS, span.bars))]
    return [_label(span.begin + start * span.step) for start in starts]


def _label(time: int) -> str:
    return f"{datetime.fromtimestamp(time, UTC).astimezone():%d %b %H:%M}"
