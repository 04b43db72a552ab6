"""Scores for the engine: cached, shared, merged, in time, and asked for only where it makes sense."""

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
from senderscore_policy.reputation.guard import FAILURES_IN_A_ROW, FIRST_PERIOD
from senderscore_policy.reputation.source import MAX_LOOKUPS

CLIENT = "192.0.2.75"
OTHER = "192.0.2.76"
DEFAULTS = ReputationSettings()
IMPATIENT = replace(DEFAULTS, deadline=0.01)
REFUSED = Refused("127.255.255.255")
FAILED = Unavailable("SERVFAIL")


# What is kept, and for how long


def test_a_score_is_asked_for_once_a_day() -> None:
    """Within a day it is fresh."""

    async def scenario() -> None:
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

    asyncio.run(scenario())


def test_a_client_without_a_score_is_asked_for_again_after_six_hours() -> None:
    """It may have earned one."""

    async def scenario() -> None:
        site = score_site()
        assert await site.source.lookup(CLIENT) == UNKNOWN
        assert site.source.known(CLIENT) == CachedScore(UNKNOWN, START, START + 6 * HOUR, "dns")
        site.clock.pass_time(6 * HOUR)
        site.zone.outcomes[CLIENT] = Scored(10)
        assert await site.source.lookup(CLIENT) == Scored(10)

    asyncio.run(scenario())


def test_a_failure_is_kept_for_a_minute() -> None:
    """Meanwhile nobody asks for this client again."""

    async def scenario() -> None:
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

    asyncio.run(scenario())


def test_a_stale_score_is_served_while_a_refresh_runs() -> None:
    """Nobody waits for the new one."""

    async def scenario() -> None:
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

    asyncio.run(scenario())


@pytest.mark.parametrize("failure", [FAILED, REFUSED])
def test_a_stale_score_outlives_failures_for_a_week(failure: Reputation) -> None:
    """A lookup that fails takes nothing away; after seven days the score says nothing any more."""

    async def scenario() -> None:
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

    asyncio.run(scenario())


def test_a_clock_set_back_an_hour_keeps_scores_and_drops_failures() -> None:
    """Asking again for every client would cost the budget; a failure must not live an hour longer."""

    async def scenario() -> None:
        site = score_site()
        site.zone.outcomes = {CLIENT: Scored(75), OTHER: FAILED}
        await site.source.lookup(CLIENT)
        await site.source.lookup(OTHER)
        site.clock.now -= HOUR
        assert site.source.known(CLIENT) is not None
        assert site.source.known(OTHER) is None

    asyncio.run(scenario())


def test_a_score_from_a_far_future_is_dropped() -> None:
    """The clock was wrong by years when it was fetched."""

    async def scenario() -> None:
        site = score_site()
        site.zone.outcomes[CLIENT] = Scored(75)
        site.clock.now += 1000 * DAY
        await site.source.lookup(CLIENT)
        site.clock.now -= 1000 * DAY
        assert site.source.known(CLIENT) is None

    asyncio.run(scenario())


# Waiting


def test_identical_lookups_are_one() -> None:
    """A hundred messages of one client cost one question."""

    async def scenario() -> None:
        site = score_site()
        site.zone.outcomes[CLIENT] = Scored(75)
        site.source.start(CLIENT)
        outcomes = await asyncio.gather(*(site.source.lookup(CLIENT) for _ in range(100)))
        assert outcomes == [Scored(75)] * 100
        assert site.zone.asked == [CLIENT]

    asyncio.run(scenario())


def test_after_the_deadline_the_request_goes_on_and_so_does_the_lookup() -> None:
    """The late answer serves the next request."""

    async def scenario() -> None:
        site = score_site(IMPATIENT)
        site.zone.outcomes[CLIENT] = Scored(75)
        site.zone.hold()
        assert isinstance(await site.source.lookup(CLIENT), Unavailable)
        assert site.source.known(CLIENT) is None
        site.zone.release()
        await site.settle()
        assert await site.source.lookup(CLIENT) == Scored(75)
        assert site.zone.asked == [CLIENT]

    asyncio.run(scenario())


def test_after_the_deadline_a_stale_score_is_better_than_none() -> None:
    """It is what the client had yesterday."""

    async def scenario() -> None:
        site = score_site(IMPATIENT)
        site.zone.outcomes[CLIENT] = Scored(75)
        await site.source.lookup(CLIENT)
        site.clock.pass_time(DAY)
        site.zone.hold()
        assert await site.source.lookup(CLIENT) == Scored(75)
        await site.source.close()

    asyncio.run(scenario())


def test_lookups_under_way_are_bounded() -> None:
    """A flood of new clients cannot use up the sockets; one too many is unavailable at once."""

    async def scenario() -> None:
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

    asyncio.run(scenario())


def test_closing_ends_lookups_and_leaves_nobody_waiting() -> None:
    """At a stop nothing is left behind."""

    async def scenario() -> None:
        site = score_site()
        site.zone.hold()
        waiting = asyncio.create_task(site.source.lookup(CLIENT))
        await site.settle()
        await site.source.close()
        assert isinstance(await waiting, Unavailable)

    asyncio.run(scenario())


def test_a_fault_in_a_lookup_is_logged_and_fails_open(caplog: pytest.LogCaptureFixture) -> None:
    """What nobody foresaw makes one client unavailable, with a traceback."""

    async def scenario() -> None:
        site = score_site()

        async def broken(address: str) -> None:
            raise ZeroDivisionError(address)

        site.zone.query_raw = broken
        assert isinstance(await site.source.lookup(CLIENT), Unavailable)

    asyncio.run(scenario())
    assert "ZeroDivisionError" in caplog.text


def test_the_source_itself_does_not_load_dnspython() -> None:
    """The daemon is ready without it; the first lookup loads it."""
    program = "import sys, senderscore_policy.reputation.source; sys.exit('dns' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# Other daemons


def test_a_score_that_another_daemon_looked_up_costs_no_question() -> None:
    """It keeps its age."""

    async def scenario() -> None:
        shared = FakeShared({CLIENT: f"75:{int(START - HOUR)}:score.senderscore.com"})
        site = score_site(shared=shared)
        assert await site.source.lookup(CLIENT) == Scored(75)
        assert site.source.known(CLIENT) == CachedScore(Scored(75), START - HOUR, START - HOUR + DAY, "cache")
        assert site.zone.asked == []
        assert site.record.results == ["shared", "hit"]

    asyncio.run(scenario())


def test_what_the_zone_said_is_shared() -> None:
    """Scores and their absence; no failures."""

    async def scenario() -> None:
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

    asyncio.run(scenario())


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
def test_garbage_and_old_news_in_the_shared_cache_are_ignored(text: str) -> None:
    """Also scores of another zone, and of the future."""

    async def scenario() -> None:
        site = score_site(shared=FakeShared({CLIENT: text}))
        site.zone.outcomes[CLIENT] = Scored(20)
        assert await site.source.lookup(CLIENT) == Scored(20)

    asyncio.run(scenario())


def test_a_shared_cache_that_hangs_delays_nobody_beyond_the_deadline() -> None:
    """The zone is asked all the same, and its answer kept."""

    async def scenario() -> None:
        site = score_site(IMPATIENT, shared=FakeShared(hangs=True))
        site.zone.outcomes[CLIENT] = Scored(75)
        async with asyncio.timeout(30):
            assert isinstance(await site.source.lookup(CLIENT), Unavailable)
            site.source.reconfigure(replace(DEFAULTS, deadline=3600))
            assert await site.source.lookup(CLIENT) == Scored(75)
        await site.source.close()

    asyncio.run(scenario())


def test_while_the_zone_refuses_other_daemons_scores_are_still_found() -> None:
    """Each daemon has a budget of its own: a neighbour may have asked."""

    async def scenario() -> None:
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

    asyncio.run(scenario())


# When asking is pointless


def test_a_refusal_holds_for_every_client_and_nobody_waits(caplog: pytest.LogCaptureFixture) -> None:
    """One question, one line in the log with the way out; after five minutes one more question."""

    async def scenario() -> None:
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

    asyncio.run(scenario())
    assert len(caplog.messages) == 1
    assert "my.validity.com" in caplog.text
    assert "nameservers" in caplog.text


def test_the_end_of_a_refusal_is_logged_and_all_is_as_before(caplog: pytest.LogCaptureFixture) -> None:
    """The probe that is answered opens the zone again for all."""
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        site = score_site()
        site.zone.otherwise = REFUSED
        await site.source.lookup(CLIENT)
        site.zone.otherwise = Scored(75)
        site.clock.pass_time(FIRST_PERIOD)
        site.source.start(OTHER)
        await site.settle()
        assert site.source.state == "ok"
        assert await site.source.lookup("192.0.2.1") == Scored(75)

    asyncio.run(scenario())
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_after_ten_failures_nobody_waits_and_one_probe_a_minute_looks_for_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """DNS that is down costs one question a minute and no message any time."""
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        site = score_site(replace(DEFAULTS, deadline=3600))
        site.zone.otherwise = FAILED
        for number in range(FAILURES_IN_A_ROW):
            await site.source.lookup(f"10.0.0.{number}")
        site.zone.hold()
        async with asyncio.timeout(30):
            assert await site.source.lookup(CLIENT) == FAILED
        assert site.source.state.startswith("degraded: score.senderscore.com cannot be read (SERVFAIL)")
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

    asyncio.run(scenario())
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_spent_budget_refuses_until_questions_are_free_again(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody waits; a day later the zone is asked again."""
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
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

    asyncio.run(scenario())
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_refreshes_stop_before_the_budget_is_spent() -> None:
    """What is left is for clients without any score; the stale ones are served as they are."""

    async def scenario() -> None:
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

    asyncio.run(scenario())


# Reload


def test_another_zone_starts_with_nothing() -> None:
    """Its scores are others; also a lookup that was under way for the old one leaves no trace."""

    async def scenario() -> None:
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

    asyncio.run(scenario())


def test_other_nameservers_are_asked_at_once() -> None:
    """That is the way out of a refusal; the scores stay."""

    async def scenario() -> None:
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

    asyncio.run(scenario())


def test_a_reload_probes_a_refusing_zone_once() -> None:
    """The administrator has registered the resolver and wants to see it work."""

    async def scenario() -> None:
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

    asyncio.run(scenario())
