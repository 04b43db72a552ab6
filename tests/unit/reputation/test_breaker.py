"""The breaker: when a question to the zone is pointless."""

import itertools
from itertools import pairwise

import pytest

from senderscore_policy.policy.reputation import UNKNOWN, Refused, Reputation, Scored, Unavailable
from senderscore_policy.reputation.guard import (
    FAILURES_IN_A_ROW,
    FIRST_PERIOD,
    LONGEST_PERIOD,
    LONGEST_PROBE_PERIOD,
    MAX_NAMES,
    Breaker,
    Failing,
    Refusing,
    parse_refusal,
)

CLIENT = "192.0.2.75"
TTL = 60.0
REFUSED = Refused("127.255.255.255")
FAILED = Unavailable("timeout")


FRESH = itertools.count()
"""Numbers of clients that were not asked about before."""


def ask(breaker: Breaker, outcome: Reputation, now: float, client: str = "") -> bool:
    """Ask one question, about another client each time unless one is given, if it is allowed."""
    client = client or f"client {next(FRESH)}"
    allowed = breaker.enter(client, now)
    if allowed:
        breaker.record(client, outcome, now)
    return allowed


def failing(*clients: str) -> Breaker:
    """Make a breaker that has seen ten failures at time 0, of these clients in turns."""
    breaker = Breaker(TTL)
    turns = itertools.cycle(clients or [""])
    for _ in range(FAILURES_IN_A_ROW):
        assert ask(breaker, FAILED, 0, next(turns))
    return breaker


def test_a_refusal_stops_all_questions_for_five_minutes() -> None:
    """A refusal holds for every client, so the zone is asked again only after five minutes."""
    breaker = Breaker(TTL)
    ask(breaker, REFUSED, 0)
    assert breaker.state == Refusing("127.255.255.255", FIRST_PERIOD, FIRST_PERIOD)
    assert not breaker.admits(CLIENT, FIRST_PERIOD - 1)
    assert not ask(breaker, Scored(75), FIRST_PERIOD - 1)
    assert breaker.admits(CLIENT, FIRST_PERIOD)


def test_each_further_refusal_doubles_the_pause_up_to_six_hours() -> None:
    """A zone that refuses is asked about a dozen times in the first day, and four times in each further day."""
    breaker, now, pauses = Breaker(TTL), 0.0, []
    for _ in range(9):
        assert ask(breaker, REFUSED, now)
        assert isinstance(breaker.state, Refusing)
        pauses.append(breaker.state.until - now)
        now = breaker.state.until
    assert pauses == [300, 600, 1200, 2400, 4800, 9600, 19200, LONGEST_PERIOD, LONGEST_PERIOD]


def test_many_lookups_refused_at_once_count_as_one_refusal() -> None:
    """Lookups that are under way at the first refusal do not double its pause."""
    breaker = Breaker(TTL)
    assert all(breaker.enter(f"client {number}", 0) for number in range(50))
    for number in range(50):
        breaker.record(f"client {number}", REFUSED, 0)
    assert breaker.state == Refusing("127.255.255.255", FIRST_PERIOD, FIRST_PERIOD)


@pytest.mark.parametrize("answer", [Scored(0), UNKNOWN])
def test_an_answer_to_the_probe_ends_the_refusal(answer: Reputation) -> None:
    """After an answer the next refusal begins with five minutes again."""
    breaker = Breaker(TTL)
    ask(breaker, REFUSED, 0)
    ask(breaker, answer, FIRST_PERIOD)
    assert breaker.state is None
    ask(breaker, REFUSED, 1000)
    assert breaker.state == Refusing("127.255.255.255", FIRST_PERIOD, 1000 + FIRST_PERIOD)


def test_an_answer_to_an_older_question_does_not_end_a_refusal() -> None:
    """An answer to a question from before the refusal says nothing about the present."""
    breaker = Breaker(TTL)
    assert breaker.enter(CLIENT, 0)
    ask(breaker, REFUSED, 1)
    breaker.record(CLIENT, Scored(75), 2)
    assert isinstance(breaker.state, Refusing)


def test_ten_failures_in_a_row_leave_one_probe_for_each_failure_ttl() -> None:
    """After ten failures one question for each `failure_ttl` is allowed, and no other."""
    breaker = failing()
    assert breaker.state == Failing(0, TTL)
    assert not ask(breaker, FAILED, TTL - 1)
    assert [ask(breaker, FAILED, TTL + second) for second in range(61)] == [True] + [False] * 59 + [True]


def test_a_long_outage_is_probed_ever_more_rarely() -> None:
    """A day without an answer costs fewer than 250 probes; a pause is at most a tenth of the outage."""
    breaker = failing()
    probes = [second for second in range(86_400) if ask(breaker, FAILED, second)]
    assert len(probes) < 250
    pauses = [later - earlier for earlier, later in pairwise(probes)]
    assert max(pauses) <= LONGEST_PROBE_PERIOD + 1
    assert all(pause <= max(TTL, 0.1 * earlier) + 1 for earlier, pause in zip(probes, pauses, strict=False))


def test_nine_failures_and_an_answer_are_forgotten() -> None:
    """An answer between failures starts their count again."""
    breaker = Breaker(TTL)
    for _ in range(3):
        for _ in range(FAILURES_IN_A_ROW - 1):
            ask(breaker, FAILED, 0)
        ask(breaker, UNKNOWN, 0)
    assert breaker.state is None


def test_any_answer_ends_the_failing() -> None:
    """A late answer to a question from before the tenth failure ends the state as well."""
    breaker = failing()
    ask(breaker, Scored(50), TTL)
    assert breaker.state is None
    breaker = failing()
    breaker.record(CLIENT, Scored(50), 1)
    assert breaker.state is None


def test_a_probe_that_never_comes_back_is_followed_by_another() -> None:
    """A cancelled lookup does not close the zone for ever."""
    breaker = failing()
    assert [breaker.enter(CLIENT, now) for now in (TTL, TTL + 1, 2 * TTL)] == [True, False, True]


def test_a_failed_probe_of_a_refusing_zone_is_tried_again_soon() -> None:
    """A timeout neither ends a refusal nor makes its pause longer."""
    breaker = Breaker(TTL)
    ask(breaker, REFUSED, 0)
    ask(breaker, FAILED, FIRST_PERIOD)
    assert breaker.state == Refusing("127.255.255.255", FIRST_PERIOD, FIRST_PERIOD + TTL)


def test_a_failing_zone_that_refuses_is_refusing() -> None:
    """A refusal replaces the shorter pause of a failing zone."""
    breaker = failing()
    ask(breaker, REFUSED, TTL)
    assert breaker.state == Refusing("127.255.255.255", FIRST_PERIOD, TTL + FIRST_PERIOD)


def test_an_administrator_may_have_it_probed_at_once() -> None:
    """A reload allows one question; if the zone refuses again, the pause doubles as before."""
    breaker = Breaker(TTL)
    ask(breaker, REFUSED, 0)
    breaker.retry(10)
    assert ask(breaker, REFUSED, 10)
    assert breaker.state == Refusing("127.255.255.255", 2 * FIRST_PERIOD, 10 + 2 * FIRST_PERIOD)
    assert not ask(breaker, REFUSED, 11)


def test_a_refusal_outlives_a_restart() -> None:
    """The pause continues after a restart, less the time in between, so a restart costs no quota."""
    breaker = Breaker(TTL)
    ask(breaker, REFUSED, 0)
    saved = breaker.snapshot(100)
    assert saved is not None
    assert parse_refusal(saved, away=50, now=7) == Refusing("127.255.255.255", FIRST_PERIOD, 7 + 150)
    assert parse_refusal(saved, away=9999, now=7).until == 7


def test_failures_do_not_outlive_a_restart() -> None:
    """A new process starts without failures."""
    assert failing().snapshot(0) is None


@pytest.mark.parametrize("key", ["period", "remaining"])
@pytest.mark.parametrize("value", [None, "x", -1, 1e9, float("nan"), 10**400])
def test_a_damaged_refusal_is_refused(key: str, value: object) -> None:
    """A saved pause that is not a number, or longer than six hours, is an error."""
    saved = {"detail": "127.255.255.255", "period": 300.0, "remaining": 10.0}
    with pytest.raises(ValueError, match="refusal"):
        parse_refusal(saved | {key: value}, away=0, now=0)
    del saved[key]
    with pytest.raises(ValueError, match="refusal"):
        parse_refusal(saved, away=0, now=0)


def test_failures_of_one_client_count_once_until_another_client_fails() -> None:
    """One doomed name does not stop the lookups of all clients; two may be the zone's fault."""
    breaker = Breaker(TTL)
    for _ in range(100):
        assert ask(breaker, FAILED, 0, "doomed")
    assert breaker.failures == 1
    for _ in range(FAILURES_IN_A_ROW - 1):
        assert breaker.state is None
        ask(breaker, FAILED, 0, "other")
    assert isinstance(breaker.state, Failing)


def test_a_probe_goes_to_a_client_that_has_not_failed() -> None:
    """A client that failed in this outage waits one more `failure_ttl` for its turn."""
    breaker = failing("a", "b")
    assert [breaker.admits(client, TTL) for client in "abc"] == [False, False, True]
    assert [breaker.admits(client, 2 * TTL) for client in "abc"] == [True, True, True]


def test_the_clients_remembered_are_bounded() -> None:
    """An outage of years does not fill the memory."""
    breaker = Breaker(TTL)
    for _ in range(3 * MAX_NAMES):
        breaker.record(f"client {next(FRESH)}", FAILED, 0)
    assert len(breaker._failed) <= MAX_NAMES
