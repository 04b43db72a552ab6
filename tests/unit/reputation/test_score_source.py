"""The score source: what it caches, shares and merges, how long requests wait, and when it asks the zone."""

import asyncio
import logging
import subprocess
import sys
from dataclasses import replace

import pytest
from fakes import DAY, HOUR, MINUTE, START, FakeShared, score_site

from senderscore_policy.config.endpoints import Inet
from senderscore_policy.config.model import ReputationSettings
from senderscore_policy.policy.reputation import UNKNOWN, CachedScore, Refused, Reputation, Scored, Unavailable
from senderscore_policy.reputation.guard import FAILURES_IN_A_ROW, FIRST_PERIOD, LONGEST_PROBE_PERIOD
from senderscore_policy.reputation.source import MAX_LOOKUPS

CLIENT = "192.0.2.75"
OTHER = "192.0.2.76"
DEFAULTS = ReputationSettings()
IMPATIENT = replace(DEFAULTS, deadline=0.01)
REFUSED = Refused("127.255.255.255")
FAILED = Unavailable("SERVFAIL")


# What is kept, and for how long


async def test_a_score_is_asked_for_once_a_day() -> None:
    """A score is fresh for a day."""
    site = score_site()
    site.zone.outcomes[CLIENT] = Scored(75)
    assert site.source.known(CLIENT) is None
    assert await site.source.lookup(CLIENT) == Scored(75)
    site.clock.pass_time(DAY - 1)
    assert await site.source.lookup(CLIENT) == Scored(75)
    assert site.source.known(CLIENT) == CachedScore(Scored(75), START, START + DAY, "dns")
    assert site.zone.asked == [CLIENT]
    assert site.record.outcomes == ["scored"]
    assert site.record.results == ["miss", "hit"]


async def test_a_client_without_a_score_is_asked_for_again_after_six_hours() -> None:
    """A client without a score is looked up again after six hours."""
    site = score_site()
    assert await site.source.lookup(CLIENT) == UNKNOWN
    assert site.source.known(CLIENT) == CachedScore(UNKNOWN, START, START + 6 * HOUR, "dns")
    site.clock.pass_time(6 * HOUR)
    site.zone.outcomes[CLIENT] = Scored(10)
    assert await site.source.lookup(CLIENT) == Scored(10)


async def test_a_failure_is_kept_for_a_minute() -> None:
    """A client whose lookup failed is not looked up again within a minute."""
    site = score_site()
    site.zone.outcomes[CLIENT] = FAILED
    assert await site.source.lookup(CLIENT) == FAILED
    site.clock.pass_time(MINUTE - 1)
    assert await site.source.lookup(CLIENT) == FAILED
    site.source.start(CLIENT)
    await site.settle()
    assert site.zone.asked == [CLIENT]
    site.clock.pass_time(1)
    assert site.source.known(CLIENT) is None
    site.zone.outcomes[CLIENT] = Scored(75)
    assert await site.source.lookup(CLIENT) == Scored(75)


async def test_a_stale_score_is_served_while_a_refresh_runs() -> None:
    """No request waits for the new score."""
    site = score_site()
    site.zone.outcomes[CLIENT] = Scored(75)
    await site.source.lookup(CLIENT)
    site.clock.pass_time(DAY)
    site.zone.outcomes[CLIENT] = Scored(20)
    site.zone.hold()
    site.source.start(CLIENT)
    await site.settle()
    assert site.source.known(CLIENT) == CachedScore(Scored(75), START, START + DAY, "dns")
    site.zone.release()
    await site.settle()
    assert site.source.known(CLIENT) == CachedScore(Scored(20), START + DAY, START + 2 * DAY, "dns")
    assert site.record.results[-3:] == ["miss", "stale", "hit"]


@pytest.mark.parametrize("failure", [FAILED, REFUSED])
async def test_a_stale_score_outlives_failures_for_a_week(failure: Reputation) -> None:
    """A failed lookup does not remove a stale score; after seven days the score is dropped."""
    site = score_site()
    site.zone.outcomes[CLIENT] = Scored(75)
    await site.source.lookup(CLIENT)
    site.clock.pass_time(DAY)
    site.zone.outcomes[CLIENT] = failure
    assert await site.source.lookup(CLIENT) == Scored(75)
    assert site.source.known(CLIENT) == CachedScore(Scored(75), START, START + DAY + MINUTE, "dns")
    site.clock.pass_time(6 * DAY - 1)
    assert await site.source.lookup(CLIENT) == Scored(75)
    site.clock.pass_time(1)
    known = site.source.known(CLIENT)
    assert known is None or known.reputation == failure
    assert await site.source.lookup(CLIENT) == failure


async def test_a_clock_set_back_an_hour_keeps_scores_and_drops_failures() -> None:
    """Scores stay, because asking for every client again would cost the budget; failures must not live longer."""
    site = score_site()
    site.zone.outcomes = {CLIENT: Scored(75), OTHER: FAILED}
    await site.source.lookup(CLIENT)
    await site.source.lookup(OTHER)
    site.clock.now -= HOUR
    assert site.source.known(CLIENT) is not None
    assert site.source.known(OTHER) is None


async def test_a_score_from_a_far_future_is_dropped() -> None:
    """A score that was fetched while the clock was wrong by years is dropped."""
    site = score_site()
    site.zone.outcomes[CLIENT] = Scored(75)
    site.clock.now += 1000 * DAY
    await site.source.lookup(CLIENT)
    site.clock.now -= 1000 * DAY
    assert site.source.known(CLIENT) is None


# Waiting


async def test_identical_lookups_are_one() -> None:
    """A hundred messages of one client cost one question."""
    site = score_site()
    site.zone.outcomes[CLIENT] = Scored(75)
    site.source.start(CLIENT)
    outcomes = await asyncio.gather(*(site.source.lookup(CLIENT) for _ in range(100)))
    assert outcomes == [Scored(75)] * 100
    assert site.zone.asked == [CLIENT]


async def test_after_the_deadline_the_request_goes_on_and_so_does_the_lookup() -> None:
    """The late answer serves the next request."""
    site = score_site(IMPATIENT)
    site.zone.outcomes[CLIENT] = Scored(75)
    site.zone.hold()
    assert isinstance(await site.source.lookup(CLIENT), Unavailable)
    assert site.source.known(CLIENT) is None
    site.zone.release()
    await site.settle()
    assert await site.source.lookup(CLIENT) == Scored(75)
    assert site.zone.asked == [CLIENT]


async def test_after_the_deadline_a_stale_score_is_better_than_none() -> None:
    """A request that has waited long enough gets the score of the day before."""
    site = score_site(IMPATIENT)
    site.zone.outcomes[CLIENT] = Scored(75)
    await site.source.lookup(CLIENT)
    site.clock.pass_time(DAY)
    site.zone.hold()
    assert await site.source.lookup(CLIENT) == Scored(75)
    await site.source.close()


async def test_lookups_under_way_are_bounded() -> None:
    """A flood of new clients cannot use up the sockets; one too many is unavailable at once."""
    site = score_site(replace(DEFAULTS, query_budget=0))
    site.zone.hold()
    for number in range(MAX_LOOKUPS + 50):
        site.source.start(f"10.0.{number >> 8}.{number & 255}")
    for _ in range(100):  # they take turns
        await site.settle()
    assert len(site.zone.asked) == MAX_LOOKUPS
    assert isinstance(await site.source.lookup(CLIENT), Unavailable)
    site.zone.release()
    await site.settle()
    assert await site.source.lookup(CLIENT) == UNKNOWN


async def test_closing_ends_lookups_and_leaves_nobody_waiting() -> None:
    """A stop ends all lookups, and the requests that wait for them get an outcome."""
    site = score_site()
    site.zone.hold()
    waiting = asyncio.create_task(site.source.lookup(CLIENT))
    await site.settle()
    await site.source.close()
    assert isinstance(await waiting, Unavailable)


async def test_a_fault_in_a_lookup_is_logged_and_fails_open(caplog: pytest.LogCaptureFixture) -> None:
    """An internal error makes one client unavailable; the log has a traceback."""
    site = score_site()

    async def broken(address: str) -> None:
        raise ZeroDivisionError(address)

    site.zone.query_raw = broken
    assert isinstance(await site.source.lookup(CLIENT), Unavailable)
    assert "ZeroDivisionError" in caplog.text


def test_the_source_itself_does_not_load_dnspython() -> None:
    """The daemon is ready without dnspython; the first lookup loads it."""
    program = "import sys, senderscore_policy.reputation.source; sys.exit('dns' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# Other daemons


async def test_a_score_that_another_daemon_looked_up_costs_no_question() -> None:
    """A shared score keeps its age."""
    shared = FakeShared({CLIENT: f"75:{int(START - HOUR)}:score.senderscore.com"})
    site = score_site(shared=shared)
    assert await site.source.lookup(CLIENT) == Scored(75)
    assert site.source.known(CLIENT) == CachedScore(Scored(75), START - HOUR, START - HOUR + DAY, "cache")
    assert site.zone.asked == []
    assert site.record.results == ["shared", "hit"]


async def test_what_the_zone_said_is_shared() -> None:
    """Scores and their absence are shared with other daemons, failures are not."""
    site = score_site(shared=FakeShared())
    site.zone.outcomes = {CLIENT: Scored(0), "192.0.2.1": FAILED}
    for address in (CLIENT, OTHER, "192.0.2.1"):
        await site.source.lookup(address)
    await site.settle()
    assert site.shared.texts == {
        CLIENT: f"0:{int(START)}:score.senderscore.com",
        OTHER: f"unknown:{int(START)}:score.senderscore.com",
    }
    assert site.shared.ttls == {CLIENT: DAY, OTHER: 6 * HOUR}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "75",
        "75:",
        f"101:{int(START)}:score.senderscore.com",
        f"-1:{int(START)}:score.senderscore.com",
        f"²:{int(START)}:score.senderscore.com",
        f"75:{int(START)}:score.elsewhere.test",
        f"75:{int(START)}",
        f"75:{int(START) + 60}:score.senderscore.com",
        f"75:{int(START - DAY)}:score.senderscore.com",
        f"unknown:{int(START - 6 * HOUR)}:score.senderscore.com",
        f"75:{'9' * 500}:score.senderscore.com",
        "garbage:garbage:garbage",
    ],
)
async def test_garbage_and_old_news_in_the_shared_cache_are_ignored(text: str) -> None:
    """Shared texts that are malformed, stale, from the future or of another zone are ignored."""
    site = score_site(shared=FakeShared({CLIENT: text}))
    site.zone.outcomes[CLIENT] = Scored(20)
    assert await site.source.lookup(CLIENT) == Scored(20)


async def test_a_shared_cache_that_hangs_delays_nobody_beyond_the_deadline() -> None:
    """The zone is asked although the shared cache hangs, and its answer is kept."""
    site = score_site(IMPATIENT, shared=FakeShared(hangs=True))
    site.zone.outcomes[CLIENT] = Scored(75)
    async with asyncio.timeout(30):
        assert isinstance(await site.source.lookup(CLIENT), Unavailable)
        site.source.reconfigure(replace(DEFAULTS, deadline=3600))
        assert await site.source.lookup(CLIENT) == Scored(75)
    await site.source.close()


async def test_while_the_zone_refuses_other_daemons_scores_are_still_found() -> None:
    """Each daemon has a budget of its own, so another one may have the score."""
    site = score_site(shared=FakeShared())
    site.zone.otherwise = REFUSED
    await site.source.lookup(OTHER)
    site.shared.texts[CLIENT] = f"75:{int(START)}:score.senderscore.com"
    refused = site.source.known(CLIENT)
    assert refused is not None
    assert refused.reputation == REFUSED
    assert refused.fresh_until < START, "so that the engine starts a lookup"
    site.source.start(CLIENT)
    await site.settle()
    known = site.source.known(CLIENT)
    assert known is not None
    assert known.reputation == Scored(75)
    assert site.zone.asked == [OTHER]


# When asking is pointless


async def test_a_refusal_holds_for_every_client_and_nobody_waits(caplog: pytest.LogCaptureFixture) -> None:
    """A refusal costs one question and one log line with the remedy; the next question follows after five minutes."""
    site = score_site()
    site.zone.otherwise = REFUSED
    assert await site.source.lookup(CLIENT) == REFUSED
    for number in range(50):
        address = f"192.0.2.{number}"
        known = site.source.known(address)
        assert known is not None
        assert known.reputation == REFUSED
        site.source.start(address)
        assert await site.source.lookup(address) == REFUSED
    assert site.zone.asked == [CLIENT]
    assert site.source.state.startswith("degraded: score.senderscore.com refuses to answer (127.255.255.255)")
    site.clock.pass_time(FIRST_PERIOD)
    for number in range(50):
        site.source.start(f"192.0.2.{number}")
    await site.settle()
    assert len(site.zone.asked) == 2
    assert len(caplog.messages) == 1
    assert "my.validity.com" in caplog.text
    assert "nameservers" in caplog.text


async def test_the_end_of_a_refusal_is_logged_and_all_is_as_before(caplog: pytest.LogCaptureFixture) -> None:
    """The answer to the probe opens the zone for all clients again."""
    caplog.set_level(logging.INFO)
    site = score_site()
    site.zone.otherwise = REFUSED
    await site.source.lookup(CLIENT)
    site.zone.otherwise = Scored(75)
    site.clock.pass_time(FIRST_PERIOD)
    site.source.start(OTHER)
    await site.settle()
    assert site.source.state == "ok"
    assert await site.source.lookup("192.0.2.1") == Scored(75)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_after_ten_failures_nobody_waits_and_one_probe_a_minute_looks_for_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """DNS that is down costs one question a minute and does not delay any message."""
    caplog.set_level(logging.INFO)
    site = score_site(replace(DEFAULTS, deadline=3600))
    site.zone.otherwise = FAILED
    for number in range(FAILURES_IN_A_ROW):
        await site.source.lookup(f"10.0.0.{number}")
    site.zone.hold()
    async with asyncio.timeout(30):
        assert await site.source.lookup(CLIENT) == FAILED
    assert site.source.state.startswith("degraded: score.senderscore.com is failing (SERVFAIL)")
    for _ in range(3):
        site.clock.pass_time(MINUTE)
        for number in range(20):
            site.source.start(f"10.0.1.{number}")
        await site.settle()
    assert len(site.zone.asked) == FAILURES_IN_A_ROW + 3
    site.zone.otherwise = Scored(75)
    site.zone.release()
    await site.settle()
    assert site.source.state == "ok"
    assert await site.source.lookup(CLIENT) == Scored(75)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_a_spent_budget_refuses_until_questions_are_free_again(caplog: pytest.LogCaptureFixture) -> None:
    """No request waits for the zone; a day later it is asked again."""
    caplog.set_level(logging.INFO)
    site = score_site(replace(DEFAULTS, query_budget=20))
    for number in range(3):
        await site.source.lookup(f"10.0.0.{number}")
    assert len(site.zone.asked) == 2
    known = site.source.known(CLIENT)
    assert known is not None
    assert isinstance(known.reputation, Refused)
    assert "2 of 2 questions in 24 hours" in site.source.state
    site.clock.pass_time(DAY + 1)
    assert await site.source.lookup(CLIENT) == UNKNOWN
    assert site.source.state == "ok"
    levels = [record.levelname for record in caplog.records]
    assert levels == ["INFO", "WARNING", "INFO"], "it answers, the budget is spent, and has questions again"


async def test_refreshes_stop_before_the_budget_is_spent() -> None:
    """The rest of the budget is for clients without any score; stale scores are served unchanged."""
    site = score_site(replace(DEFAULTS, query_budget=100))
    site.zone.outcomes[CLIENT] = Scored(75)
    await site.source.lookup(CLIENT)
    site.clock.pass_time(DAY + 1)
    for number in range(8):
        await site.source.lookup(f"10.0.0.{number}")
    assert await site.source.lookup(CLIENT) == Scored(75)
    assert site.zone.asked.count(CLIENT) == 1
    assert await site.source.lookup(OTHER) == UNKNOWN
    assert site.source.state == "ok"


# Reload


async def test_another_zone_starts_with_nothing() -> None:
    """Another zone has other scores; a lookup that was under way for the old zone changes nothing."""
    site = score_site()
    site.zone.outcomes = {CLIENT: Scored(75), OTHER: Scored(10)}
    await site.source.lookup(CLIENT)
    site.zone.hold()
    site.source.start(OTHER)
    await site.settle()
    site.source.reconfigure(replace(DEFAULTS, zone="score.elsewhere.test"))
    site.zone.release()
    await site.settle()
    assert site.zone.zone == "score.elsewhere.test"
    assert site.source.known(CLIENT) is None
    assert site.source.known(OTHER) is None
    assert site.source.budget.used == 2


async def test_other_nameservers_are_asked_at_once() -> None:
    """Other nameservers end a refusal, and the scores stay."""
    site = score_site()
    site.zone.outcomes[CLIENT] = Scored(75)
    await site.source.lookup(CLIENT)
    site.zone.otherwise = REFUSED
    await site.source.lookup(OTHER)
    site.zone.otherwise = UNKNOWN
    site.source.reconfigure(replace(DEFAULTS, nameservers=(Inet("192.0.2.53", 53),)))
    assert site.source.state == "ok"
    assert await site.source.lookup(CLIENT) == Scored(75)
    assert await site.source.lookup("192.0.2.1") == UNKNOWN


async def test_after_a_reload_the_command_score_waits_for_the_answer() -> None:
    """The zone refused and is fixed: `score` shows the score at once, though no message would wait for it."""
    site = score_site()
    site.zone.otherwise = REFUSED
    await site.source.lookup(CLIENT)
    site.zone.otherwise = Scored(75)
    site.source.reconfigure(DEFAULTS)
    assert await site.source.lookup(CLIENT, patient=True) == Scored(75)


async def test_a_reload_probes_a_refusing_zone_once() -> None:
    """An administrator who has just registered the resolver does not have to wait."""
    site = score_site()
    site.zone.otherwise = REFUSED
    await site.source.lookup(CLIENT)
    site.source.reconfigure(DEFAULTS)
    for number in range(5):
        site.source.start(f"10.0.0.{number}")
    await site.settle()
    assert len(site.zone.asked) == 2
    site.zone.otherwise = UNKNOWN
    site.source.reconfigure(DEFAULTS)
    site.source.start(OTHER)
    await site.settle()
    assert site.source.state == "ok"


# What people see


async def test_a_zone_that_never_answered_fails_from_the_first_failure(caplog: pytest.LogCaptureFixture) -> None:
    """The state is "not asked yet" until the first lookup; its failure is logged with the reason and the way out."""
    site = score_site()
    assert (site.source.zone_state, site.source.state) == ("not asked yet", "ok")
    site.zone.otherwise = FAILED
    await site.source.lookup(CLIENT)
    assert site.source.zone_state == "failing"
    assert site.source.state == "degraded: score.senderscore.com is failing (SERVFAIL); a reload asks again at once"
    assert len(caplog.messages) == 1
    assert "score.senderscore.com is failing (SERVFAIL)" in caplog.text
    assert "a reload asks again at once" in caplog.text
    site.zone.otherwise = UNKNOWN
    await site.source.lookup(OTHER)
    assert (site.source.zone_state, site.source.state) == ("answers", "ok")


async def test_a_zone_that_answered_fails_from_the_third_failure_in_a_row() -> None:
    """Two failures may be an accident; an answer in between starts the count again."""
    site = score_site()
    site.zone.outcomes["192.0.2.2"] = site.zone.outcomes["192.0.2.5"] = UNKNOWN
    site.zone.otherwise = FAILED
    states = []
    for number in range(2, 9):
        await site.source.lookup(f"192.0.2.{number}")
        states.append(str(site.source.zone_state))
    assert states == ["answers"] * 6 + ["failing"]
    assert await site.source.lookup(OTHER) == FAILED
    assert OTHER in site.zone.asked, "requests still wait for the zone"


async def test_a_zone_that_answers_some_lookups_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A zone that fails and recovers all the time is logged three times, then once a minute."""
    caplog.set_level(logging.INFO)
    site = score_site(replace(DEFAULTS, query_budget=0))
    for number in range(600):
        site.zone.otherwise = Scored(75) if number % 5 == 0 else FAILED
        await site.source.lookup(f"198.51.{number >> 8}.{number & 255}")
        site.clock.pass_time(1)
    assert 15 <= len(caplog.messages) <= 25, "of ten minutes"


async def test_a_spent_budget_is_a_state_of_its_own() -> None:
    """A zone that was asked once and may not be asked again is not shown as one that answers."""
    site = score_site(replace(DEFAULTS, query_budget=1))
    await site.source.lookup(CLIENT)
    assert site.source.zone_state == "budget spent"
    assert "query budget spent" in site.source.state


# One client's failures


async def test_one_client_whose_lookups_fail_says_nothing_about_the_zone() -> None:
    """However often it fails, other clients are looked up and the zone is not shown as failing."""
    site = score_site()
    site.zone.outcomes[CLIENT] = FAILED
    await site.source.lookup(OTHER)
    for number in range(1, 25):
        assert await site.source.lookup(CLIENT) == FAILED
        assert site.source.zone_state == "answers"
        if not number % 12:
            assert await site.source.lookup(f"198.51.100.{number}") == UNKNOWN
        site.clock.pass_time(10 * MINUTE)
    assert site.zone.asked.count(CLIENT) == 24


async def test_a_client_whose_lookups_always_fail_does_not_spend_the_budget() -> None:
    """It is asked for after one minute, then ever more rarely down to every ten minutes, until a lookup succeeds."""
    site = score_site()
    site.zone.outcomes[CLIENT] = FAILED
    asked_at = []
    for minute in range(60):
        before = len(site.zone.asked)
        await site.source.lookup(CLIENT)
        if len(site.zone.asked) > before:
            asked_at.append(minute)
        site.clock.pass_time(MINUTE)
    assert asked_at == [0, 1, 3, 7, 15, 25, 35, 45, 55]
    site.clock.pass_time(10 * MINUTE)
    site.zone.outcomes[CLIENT] = Scored(75)
    assert await site.source.lookup(CLIENT) == Scored(75)
    site.clock.pass_time(DAY)
    site.zone.outcomes[CLIENT] = FAILED
    await site.source.lookup(CLIENT)
    site.clock.pass_time(MINUTE)
    await site.source.lookup(CLIENT)
    assert site.zone.asked[-2:] == [CLIENT, CLIENT]


@pytest.mark.parametrize("doomed", [2, 5])
async def test_clients_whose_lookups_fail_do_not_take_the_probes_of_others(doomed: int) -> None:
    """After an outage a client that has not failed gets the probe, although the failing ones always ask first."""
    site = score_site()
    failing = [f"198.51.100.{number}" for number in range(doomed)]
    site.zone.outcomes = dict.fromkeys(failing, FAILED)
    for _ in range(FAILURES_IN_A_ROW):
        for address in failing:
            await site.source.lookup(address)
        site.clock.pass_time(10 * MINUTE)
    assert site.source.zone_state == "failing"
    for _ in range(int(LONGEST_PROBE_PERIOD / 10) + 1):
        for address in (*failing, CLIENT):
            site.source.start(address)
            await site.settle()
        if CLIENT in site.zone.asked:
            break
        site.clock.pass_time(10)
    assert await site.source.lookup(CLIENT) == UNKNOWN
    assert site.source.zone_state == "answers"


async def test_a_client_alone_gets_the_probe_in_the_end() -> None:
    """Where no other client asks, the one that failed finds out that the zone answers again."""
    site = score_site()
    site.zone.otherwise = FAILED
    for number in range(FAILURES_IN_A_ROW):
        await site.source.lookup(f"198.51.100.{number}")
    site.zone.otherwise = Scored(75)
    for _ in range(3):
        site.clock.pass_time(MINUTE)
        site.source.start("198.51.100.1")
        await site.settle()
    assert site.source.zone_state == "answers"


# After the cause is fixed


async def test_a_reload_asks_again_at_once_after_failures(caplog: pytest.LogCaptureFixture) -> None:
    """Neither the failures kept for each client nor the pause between probes delay the administrator's fix."""
    caplog.set_level(logging.INFO)
    site = score_site()
    site.zone.otherwise = FAILED
    for number in range(FAILURES_IN_A_ROW):
        await site.source.lookup(f"198.51.100.{number}")
    site.zone.otherwise = Scored(75)
    site.source.reconfigure(DEFAULTS)
    assert site.source.zone_state == "not asked yet"
    assert await site.source.lookup("198.51.100.1") == Scored(75)
    assert caplog.messages[-2:] == [
        "score.senderscore.com is asked again at once",
        "score.senderscore.com answers: scores are looked up",
    ]


async def test_a_reload_of_a_zone_that_answers_changes_nothing() -> None:
    """A single failure before the reload does not matter; the zone is still shown as one that answers."""
    site = score_site()
    await site.source.lookup(OTHER)
    site.zone.outcomes[CLIENT] = FAILED
    await site.source.lookup(CLIENT)
    site.source.reconfigure(DEFAULTS)
    assert site.source.zone_state == "answers"


async def test_a_reload_that_fixed_nothing_is_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    """The first failure after the reload shows its reason, which may be another one."""
    site = score_site()
    site.zone.otherwise = FAILED
    await site.source.lookup(CLIENT)
    site.source.reconfigure(DEFAULTS)
    site.zone.otherwise = Unavailable("timeout")
    await site.source.lookup(CLIENT)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert ["SERVFAIL" in warnings[0], "timeout" in warnings[1]] == [True, True]


async def test_other_nameservers_of_the_system_are_asked_at_once() -> None:
    """After a change of /etc/resolv.conf the failures of the old nameservers are forgotten."""
    site = score_site()
    site.zone.otherwise = FAILED
    for number in range(FAILURES_IN_A_ROW):
        await site.source.lookup(f"198.51.100.{number}")
    site.zone.moved, site.zone.otherwise = True, Scored(75)
    for address in (CLIENT, "198.51.100.1"):
        assert await site.source.lookup(address) == Scored(75)
    assert site.source.zone_state == "answers"
