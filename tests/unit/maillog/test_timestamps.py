"""Syslog lines without a year or a time zone get the right time."""

import time
from array import array
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from maillog_lines import syslog

from senderscore_policy.maillog.timestamps import OTHER_ZONE, STAMP, Timestamps, as_text


def times(moments: list[str], now: datetime) -> list[datetime]:
    """The timestamps of a log that is read now."""
    found = array("d")
    stamps = Timestamps(now.timestamp() + OTHER_ZONE, found)
    for text in moments:
        match = STAMP.search(text.encode())
        assert match is not None
        found.append(stamps.read(match))
    stamps.end()
    return [datetime.fromtimestamp(at, UTC) for at in found]


def utc(*when: int) -> datetime:
    """A time in UTC."""
    return datetime(*when, tzinfo=UTC)  # type: ignore[misc,arg-type]


def test_a_past_day_is_of_this_year() -> None:
    """A day that has been is this year's."""
    assert times(["Mar  4 10:00:01"], utc(2026, 3, 5)) == [utc(2026, 3, 4, 10, 0, 1)]


def test_a_future_day_was_last_years_with_its_whole_log() -> None:
    """A log with a day that has not come yet is a year old, although its first day has been."""
    moments = ["Mar  4 10:00:00", "Mar  8 10:00:00"]
    assert times(moments, utc(2026, 3, 5)) == [utc(2025, 3, 4, 10), utc(2025, 3, 8, 10)]


@pytest.mark.parametrize("ahead", [timedelta(seconds=3), timedelta(hours=14), timedelta(hours=25)])
def test_a_host_in_another_time_zone_is_not_a_year_back(ahead: timedelta) -> None:
    """Its local time may be ahead of ours by a day and two hours."""
    now = utc(2026, 3, 5, 12)
    assert times([syslog(now + ahead)], now) == [now + ahead]


def test_the_year_changes_within_a_log() -> None:
    """From December to January the year goes up; a late line of the old year belongs to the old year."""
    moments = ["Dec 31 23:59:59", "Jan  1 00:00:00", "Dec 31 23:59:59", "Jan  1 00:00:01"]
    years = [moment.year for moment in times(moments, utc(2026, 3, 5))]
    assert years == [2025, 2026, 2025, 2026]
    assert [moment.year for moment in times(moments[::-1], utc(2026, 3, 5))] == years[::-1]


def test_a_leap_day_puts_its_log_into_a_leap_year() -> None:
    """A 29 February is in the latest year that has one, and so are the lines around it."""
    moments = ["Feb 28 10:00:00", "Feb 29 10:00:00", "Mar  1 10:00:00"]
    expected = [utc(2024, 2, 28, 10), utc(2024, 2, 29, 10), utc(2024, 3, 1, 10)]
    assert times(moments, utc(2026, 3, 5)) == expected
    assert times(moments[1:], utc(2026, 3, 5)) == expected[1:]


def test_a_log_may_span_several_years() -> None:
    """Without a gap of half a year each line is nearest to the one before it."""
    moments = ["Nov  1 00:00:00", "Feb  1 00:00:00", "Jul  1 00:00:00", "Nov  1 00:00:00", "Feb  1 00:00:00"]
    assert [moment.year for moment in times(moments, utc(2026, 3, 5))] == [2024, 2025, 2025, 2025, 2026]


@pytest.mark.parametrize(
    "text", ["Feb 30 10:00:00", "Mar  0 10:00:00", "Foo  1 10:00:00", "Mar  4 25:00:00", "Mar  4 10:60:00"]
)
def test_an_impossible_date_is_refused(text: str) -> None:
    """The line is unread; no other date is invented."""
    with pytest.raises(ValueError, match=r"impossible|is not a month|must be in|out of range"):
        times([text], utc(2026, 3, 5))


@given(
    st.datetimes(datetime(2020, 1, 1), datetime(2029, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001
    st.lists(st.integers(0, 30 * 86400), min_size=1, max_size=12),
)
def test_written_times_are_read_again(begin: datetime, steps: list[int]) -> None:
    """Times of a log that spans less than a year, read within a year of its first line, come back."""
    moments = [begin.replace(microsecond=0)]
    for step in steps:
        moments.append(moments[-1] + timedelta(seconds=step))
    moments = [moment for moment in moments if moment < moments[0] + timedelta(days=363)]
    assert times([syslog(moment) for moment in moments], moments[-1]) == moments


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Asia/Kolkata"])
def test_syslog_writes_local_time(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The date decides between summer and winter time."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    for moment in (utc(2025, 12, 1, 12), utc(2026, 7, 1, 12, 34, 56)):
        assert times([syslog(moment)], utc(2026, 8, 1)) == [moment]


@pytest.mark.parametrize("form", ["%b %d %H:%M:%S", "%Y-%m-%d %H:%M:%S"])
@pytest.mark.parametrize("backwards", [False, True])
def test_an_hour_that_comes_twice_is_read_twice(form: str, backwards: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """When summer time ends, lines go back by an hour; they are not the first pass again."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    moments = [utc(2026, 10, 24, 23, 0) + timedelta(minutes=7 * step) for step in range(40)]
    moments = moments[::-1] if backwards else moments
    assert times([f"{moment.astimezone():{form}}" for moment in moments], utc(2026, 11, 1)) == moments


def test_times_for_programs_have_an_offset() -> None:
    """JSON and CSV carry ISO 8601 times with an offset."""
    assert as_text(utc(2026, 3, 4, 10).timestamp() + 0.5) == "2026-03-04T10:00:00+00:00"
