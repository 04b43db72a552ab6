"""Windows of time in buckets."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from senderscore_policy.policy.window import CLOCK_SKEW, Window

WINDOWS = st.one_of(
    st.builds(Window, st.integers(60, 2_419_200), st.just(1)),
    st.builds(
        lambda seconds, buckets: Window(max(seconds, 5 * buckets), buckets),
        st.integers(60, 2_419_200),
        st.integers(2, 60),
    ),
)


@given(WINDOWS, st.floats(0, 4e9))
def test_a_view_is_the_window(window: Window, now: float) -> None:
    """The view's buckets follow each other without a gap or an overlap and are no longer than the window."""
    view = window.view(now)
    past = sorted({view.current, *(i for i in view.open if i < view.current), *view.closed}, reverse=True)
    assert past == list(range(view.current, view.current - len(past), -1))
    assert len(past) == window.buckets
    assert now - past[-1] * window.bucket_seconds <= window.seconds * (1 + 1e-9)


@given(st.integers(2, 60), st.floats(0, 1e7), st.integers(0, 10**6))
def test_steady_traffic_is_counted_whole(buckets: int, now: float, per_bucket: int) -> None:
    """A steady sender's count is what it sends in a window, less what the current bucket has not seen yet."""
    window = Window(3600, buckets)
    view = window.view(now)
    elapsed = now % window.bucket_seconds / window.bucket_seconds
    counts = dict.fromkeys(view.closed, per_bucket) | {view.current: round(per_bucket * elapsed)}
    counts |= {index: per_bucket for index in view.open if index < view.current}
    assert view.total(counts) == pytest.approx(per_bucket * (buckets - 1 + elapsed), abs=1)


@given(WINDOWS, st.floats(1e6, 4e9), st.lists(st.integers(0, 10**6), min_size=62, max_size=62), st.integers(1, 10**7))
def test_a_client_is_let_in_again_when_its_count_has_room(
    window: Window, now: float, sent: list[int], limit: int
) -> None:
    """At the time that opens_at gives a message is within the limit; a moment before it is not, unless that is now."""
    current = window.view(now).current
    counts = {current - age: count for age, count in enumerate(sent) if age < window.buckets}
    opens = window.opens_at(counts, limit, now)
    assert opens is not None
    moment = 0.001
    assert window.view(opens + moment).total(counts) + 1 <= limit
    assert now <= opens <= now + window.ttl
    if opens - moment > now:
        assert window.view(opens - moment).total(counts) + 1 > limit


def test_a_client_that_stops_is_let_in_after_the_window() -> None:
    """800 messages in one bucket leave the window together, an hour after the bucket's start."""
    window = Window(3600, 12)
    start = 300.0 * 1000
    assert window.opens_at({1000: 800}, 800, start + 299) == start + 3600
    assert window.opens_at({1000: 799}, 800, start + 299) == start + 299
    assert Window(3600, 1).opens_at({83: 800}, 800, start) == 84 * 3600


def test_the_limits_at_either_end() -> None:
    """A limit of 0 never lets anybody in; without a limit it is always now."""
    window = Window(3600, 12)
    assert window.opens_at({}, 0, 1e9) is None
    assert window.opens_at({int(1e9 / 300): 10**9}, math.inf, 1e9) == 1e9


def test_buckets_stay_open_for_the_clock_skew() -> None:
    """A bucket is read with every message until its end is 5 s past, and from 5 s before its start."""
    window = Window(3600, 12)
    start = 300 * 1000
    assert window.view(start + 1).open == (999,)
    assert window.view(start + 1).closed[0] == 998
    assert window.view(start + CLOCK_SKEW).open == ()
    assert window.view(start + CLOCK_SKEW).closed[0] == 999
    assert window.view(start + 299).open == (1001,)


def test_a_fixed_window_is_the_clock_hour() -> None:
    """A fixed window of an hour begins with the hour."""
    window = Window(3600, 1)
    assert window.view(7199.9).current == 1
    assert window.view(7200).current == 2
    assert window.view(7200).closed == ()
    assert window.view(7200).total({1: 50, 2: 3}) == 3


def test_buckets_outlive_the_window() -> None:
    """A bucket is kept for the window and two buckets."""
    assert Window(3600, 12).ttl == 4200
    assert Window(3600, 1).ttl == 10800


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3600, "hour"), (600, "10 minutes"), (60, "minute"), (7200, "2 hours"), (86400, "day"), (90, "90 seconds")],
)
def test_in_words(seconds: int, words: str) -> None:
    """A reply reads "messages/hour" or "messages/10 minutes"."""
    assert str(Window(seconds, 12)) == words
