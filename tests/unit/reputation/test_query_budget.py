"""The query budget: how many questions are allowed, whatever the clocks do."""

import pytest
from fakes import DAY, HOUR, START, FakeClock
from hypothesis import given
from hypothesis import strategies as st

from senderscore_policy.reputation.budget import QueryBudget

MONTH = 30 * DAY


def spend_all(budget: QueryBudget) -> int:
    """Spend until it refuses."""
    spent = 0
    while budget.spend():
        spent += 1
    return spent


def most_within(times: list[float], span: float) -> int:
    """The most of these times that lie within any span, both ends included."""
    return max((sum(1 for later in times[n:] if later - time <= span) for n, time in enumerate(times)), default=0)


steps = st.lists(
    st.tuples(st.floats(0, 3 * DAY) | st.sampled_from([0.0, HOUR, DAY, 15 * DAY]), st.integers(1, 8)), max_size=60
)


@given(limit=st.integers(1, 120), steps=steps)
def test_no_window_ever_holds_more_than_the_limit(limit: int, steps: list[tuple[float, int]]) -> None:
    """At most the limit in any 30 days, and at most a tenth of it (one at least) in any 24 hours."""
    clock = FakeClock()
    budget = QueryBudget(limit, clock)
    sent: list[float] = []
    for wait, wanted in steps:
        clock.pass_time(wait)
        sent += [clock.uptime for _ in range(wanted) if budget.spend()]
    assert most_within(sent, MONTH) <= limit
    assert most_within(sent, DAY) <= max(1, limit // 10)


@given(limit=st.integers(1, 120), steps=steps, restart_after=st.integers(0, 60))
def test_a_restart_gives_nothing_back(limit: int, steps: list[tuple[float, int]], restart_after: int) -> None:
    """A new process that restores the saved use has the same limits, on another monotonic clock."""
    clock = FakeClock()
    budget = QueryBudget(limit, clock)
    sent: list[float] = []
    for number, (wait, wanted) in enumerate(steps):
        if number == restart_after:
            saved = budget.snapshot()
            clock.uptime = 3.0
            budget = QueryBudget(limit, clock)
            budget.restore(saved, away=0)
        clock.pass_time(wait)
        sent += [clock.now for _ in range(wanted) if budget.spend()]
    # Ages are saved in milliseconds.
    assert most_within(sent, MONTH - 0.01) <= limit
    assert most_within(sent, DAY - 0.01) <= max(1, limit // 10)


def test_the_day_is_full_before_the_month() -> None:
    """A botnet's hour spends the budget of a day and not of a month."""
    clock = FakeClock()
    budget = QueryBudget(10_000, clock)
    assert spend_all(budget) == 1000
    assert not budget.allows()
    clock.pass_time(DAY + 1)
    assert budget.allows()
    assert spend_all(budget) == 1000


def test_the_month_is_full_after_ten_such_days_and_frees_itself() -> None:
    """After 30 days the first day's questions are available again."""
    clock = FakeClock()
    budget = QueryBudget(10_000, clock)
    for _ in range(10):
        spend_all(budget)
        clock.pass_time(DAY + 1)
    assert not budget.allows()
    assert (budget.used, budget.used_today) == (10_000, 0)
    clock.pass_time(20 * DAY)
    assert spend_all(budget) == 1000


def test_without_a_budget_questions_are_counted_and_never_refused() -> None:
    """Without a limit the questions are still counted for the metrics."""
    budget = QueryBudget(0, FakeClock())
    assert all(budget.spend() for _ in range(5000))
    assert budget.used == budget.used_today == 5000
    assert budget.allows(refresh=True)


def test_a_small_budget_still_allows_a_question_a_day() -> None:
    """A tenth of five questions is rounded up to one a day."""
    assert spend_all(QueryBudget(5, FakeClock())) == 1


def test_refreshes_stop_before_first_questions() -> None:
    """The last fifth of a day, and of a month, is for clients without any score."""
    clock = FakeClock()
    budget = QueryBudget(1000, clock)
    for _ in range(79):
        budget.spend()
    assert budget.allows(refresh=True)
    budget.spend()
    assert not budget.allows(refresh=True)
    assert budget.allows()
    for _ in range(9):
        clock.pass_time(DAY + 1)
        spend_all(budget)
    clock.pass_time(DAY + 1)
    assert budget.used_today == 0
    assert not budget.allows(refresh=True)


@pytest.mark.parametrize("step", [-365 * DAY, -HOUR, HOUR, 365 * DAY])
def test_a_wall_clock_that_steps_changes_nothing(step: float) -> None:
    """The windows follow the monotonic clock."""
    clock = FakeClock()
    budget = QueryBudget(100, clock)
    spend_all(budget)
    clock.now += step
    assert not budget.allows()
    assert not budget.spend()
    assert budget.used == 10


def test_time_switched_off_counts() -> None:
    """A machine that was off for a day has its day's questions again."""
    clock = FakeClock()
    budget = QueryBudget(100, clock)
    spend_all(budget)
    saved = budget.snapshot()
    started = QueryBudget(100, clock)
    started.restore(saved, away=DAY + 1)
    assert started.allows()
    assert started.used == 10


def test_restarting_all_the_time_does_not_keep_questions_young() -> None:
    """A daemon that restarts every ten minutes frees its questions on time, because their ages are exact."""
    clock = FakeClock()
    budget = QueryBudget(100, clock)
    spend_all(budget)
    while clock.now <= START + DAY:
        assert not budget.allows()
        saved = budget.snapshot()
        clock.pass_time(600)
        clock.uptime = 1.0
        budget = QueryBudget(100, clock)
        budget.restore(saved, away=600)
    assert budget.allows()


def test_another_limit_takes_hold_at_once() -> None:
    """The questions sent so far count against the new limit."""
    budget = QueryBudget(100, FakeClock())
    spend_all(budget)
    budget.limit = 200
    assert budget.allows()
    assert spend_all(budget) == 10
    budget.limit = 50
    assert not budget.allows()
    budget.limit = 0
    assert budget.spend()


def test_memory_is_bounded_by_hours() -> None:
    """The budget keeps one slot for each hour, however many questions are sent."""
    clock = FakeClock()
    budget = QueryBudget(0, clock)
    for _ in range(5000):
        clock.pass_time(600)
        budget.spend()
    assert len(budget.snapshot()) <= 30 * 24 + 1


@pytest.mark.parametrize(
    "saved",
    [
        [[0, 0]],
        [[0, 0, 1, 1]],
        ["abc"],
        [None],
        [[0, "x", 1]],
        [[0, 10, 1]],
        [[10, 0, 0]],
        [[10, 5, 1], [20, 15, 1]],
        [[-10, -20, 1]],
        [[float("nan"), float("nan"), 1]],
        [[10**400, 0, 1]],
        [[10, 5, float("inf")]],
    ],
)
def test_damaged_state_is_refused_whole(saved: list[object]) -> None:
    """Damaged state is an error, and no part of it is restored."""
    budget = QueryBudget(100, FakeClock())
    with pytest.raises(ValueError, match="query budget"):
        budget.restore([[30, 20, 4], *saved], away=0)
    assert budget.used == 0


def test_it_reads_well() -> None:
    """The budget's text, which logs and the status page show, is a sentence fit for people."""
    budget = QueryBudget(10_000, FakeClock())
    budget.spend()
    assert str(budget) == "1 of 1000 questions in 24 hours, 1 of 10000 in 30 days"
    budget.limit = 0
    assert str(budget) == "1 questions in 24 hours, 1 in 30 days"
