"""Syslog lines without a year get the right one."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from maillog_lines import syslog

from senderscore_policy.maillog.timestamps import ABSOLUTE, Stamps, as_text


def times(moments: list[str], now: datetime) -> list[datetime]:
    """The timestamps of a file as they are understood."""
    stamps = Stamps()
    found = [stamps.read(text.encode()) for text in moments]
    hours = stamps.hours(now.timestamp())
    assert all(hour != ABSOLUTE for hour, _ in found)
    return [datetime.fromtimestamp(hours[hour] + seconds, UTC) for hour, seconds in found]


def utc(*when: int) -> datetime:
    """A time in UTC."""
    return datetime(*when, tzinfo=UTC)  # type: ignore[misc,arg-type]


@pytest.fixture(autouse=True)
def _in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_this_year_if_it_is_past() -> None:
    """A day that has been is this year's."""
    assert times(["Mar  4 10:00:01"], utc(2026, 3, 5)) == [utc(2026, 3, 4, 10, 0, 1)]


def test_last_year_if_it_would_be_in_the_future() -> None:
    """A day that has not come yet was last year's, and so is all of its file."""
    assert times(["Mar  4 10:00:00", "Mar  6 10:00:00"], utc(2026, 3, 5)) == [utc(2025, 3, 4, 10), utc(2025, 3, 6, 10)]


def test_the_same_day_later() -> None:
    """The time of day decides on the last day."""
    assert times(["Mar  5 11:59:59"], utc(2026, 3, 5, 12)) == [utc(2026, 3, 5, 11, 59, 59)]
    assert times(["Mar  5 13:00:00"], utc(2026, 3, 5, 12)) == [utc(2025, 3, 5, 13)]


def test_a_host_whose_clock_is_ahead() -> None:
    """A log that is being written may be some seconds ahead of us; that does not make it a year old."""
    assert times(["Mar  5 12:00:03"], utc(2026, 3, 5, 12)) == [utc(2026, 3, 5, 12, 0, 3)]


def test_over_the_turn_of_the_year() -> None:
    """From December to January the year goes up; a late line of the old year belongs to the old year."""
    moments = ["Dec 31 23:59:59", "Jan  1 00:00:00", "Dec 31 23:59:59", "Jan  1 00:00:01"]
    assert times(moments, utc(2026, 3, 5)) == [
        utc(2025, 12, 31, 23, 59, 59),
        utc(2026, 1, 1),
        utc(2025, 12, 31, 23, 59, 59),
        utc(2026, 1, 1, 0, 0, 1),
    ]


def test_a_leap_day() -> None:
    """A 29 February is in the latest year that has one."""
    assert times(["Feb 29 10:00:00"], utc(2026, 3, 5)) == [utc(2024, 2, 29, 10)]


def test_a_log_of_several_years() -> None:
    """One file without gaps of half a year may hold any number of them."""
    moments = ["Nov  1 00:00:00", "Feb  1 00:00:00", "Jul  1 00:00:00", "Nov  1 00:00:00", "Feb  1 00:00:00"]
    assert [moment.year for moment in times(moments, utc(2026, 3, 5))] == [2024, 2025, 2025, 2025, 2026]


@pytest.mark.parametrize("text", ["Feb 30 10:00:00", "Mar  0 10:00:00", "Foo  1 10:00:00", "Mar  4 25:00:00"])
def test_no_date(text: str) -> None:
    """It is refused when it is read."""
    with pytest.raises(ValueError, match="is no date"):
        Stamps().read(text.encode())


@given(
    st.datetimes(datetime(2020, 1, 1), datetime(2029, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001
    st.lists(st.integers(0, 30 * 86400), min_size=1, max_size=12),
)
def test_what_was_written_is_read(begin: datetime, steps: list[int]) -> None:
    """Times of a file that spans less than a year, read within a year of its first line, come back as they were."""
    moments = [begin.replace(microsecond=0)]
    for step in steps:
        moments.append(moments[-1] + timedelta(seconds=step))
    moments = [moment for moment in moments if moment < moments[0] + timedelta(days=364)]
    assert times([syslog(moment) for moment in moments], moments[-1]) == moments


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Asia/Kolkata"])
def test_local_time(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Syslog writes local time, in summer and in winter."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    for moment in (utc(2025, 12, 1, 12), utc(2026, 7, 1, 12, 34, 56)):
        assert times([syslog(moment)], utc(2026, 8, 1)) == [moment]


def test_times_for_programs() -> None:
    """ISO 8601 with an offset."""
    assert as_text(utc(2026, 3, 4, 10).timestamp() + 0.5) == "2026-03-04T10:00:00+00:00"
