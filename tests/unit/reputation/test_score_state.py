"""What a restart keeps: scores, the use of the query budget, a refusal."""

import contextlib
import json
from dataclasses import replace

import pytest
from fakes import DAY, HOUR, START, FakeClock, ScoreSite, score_site
from hypothesis import given
from hypothesis import strategies as st

from senderscore_policy.config.endpoints import Inet
from senderscore_policy.config.model import ReputationSettings
from senderscore_policy.policy.reputation import UNKNOWN, CachedScore, Refused, Scored, Unavailable

DEFAULTS = ReputationSettings()
CLIENT = "192.0.2.75"
REFUSED = Refused("127.255.255.255")
HEADER = {
    "format": 1,
    "zone": DEFAULTS.zone,
    "nameservers": [],
    "saved_at": START,
    "budget": [[10.0, 5.0, 3]],
    "refusal": None,
}


async def used_site() -> ScoreSite:
    """Make a source that has a score, an absence and a failure, and has asked three questions."""
    site = score_site()
    site.zone.outcomes = {CLIENT: Scored(0), "192.0.2.2": Unavailable("SERVFAIL")}
    for address in (CLIENT, "192.0.2.1", "192.0.2.2"):
        await site.source.lookup(address)
    return site


def restarted(lines: list[str], settings: ReputationSettings = DEFAULTS, after: float = HOUR) -> ScoreSite:
    """Make the next source, `after` seconds later, on a machine that was rebooted."""
    clock = FakeClock()
    clock.now += after
    clock.uptime = 20.0
    site = score_site(settings, clock)
    site.source.restore(lines)
    return site


async def test_scores_and_the_budget_outlive_a_restart() -> None:
    """Scores and the use of the budget are restored, failures are not."""
    lines = list((await used_site()).source.snapshot())
    source = restarted(lines).source
    assert source.known(CLIENT) == CachedScore(Scored(0), START, START + DAY, "cache")
    assert source.known("192.0.2.1") == CachedScore(UNKNOWN, START, START + 6 * HOUR, "cache")
    assert source.known("192.0.2.2") is None
    assert source.budget.used == source.budget.used_today == 3


async def test_scores_older_than_a_week_are_left_behind() -> None:
    """Scores that would not be served any more are not restored."""
    source = restarted(list((await used_site()).source.snapshot()), after=7 * DAY).source
    assert source.known(CLIENT) is None
    assert len(list(source.snapshot())) == 1


async def test_thousands_of_scores_come_back() -> None:
    """Many scores share a line, and all of them are restored."""
    site = score_site(replace(DEFAULTS, query_budget=0))
    for number in range(1234):
        await site.source.lookup(f"10.0.{number >> 8}.{number & 255}")
    lines = list(site.source.snapshot())
    assert len(lines) == 1 + 3
    source = restarted(lines).source
    assert all(source.known(f"10.0.{number >> 8}.{number & 255}") for number in range(1234))


async def test_a_refusal_outlives_a_restart() -> None:
    """A restart costs no quota while the zone refuses; after the pause the zone is probed."""
    site = score_site()
    site.zone.otherwise = REFUSED
    await site.source.lookup(CLIENT)
    lines = list(site.source.snapshot())
    known = restarted(lines, after=100).source.known(CLIENT)
    assert known is not None
    assert known.reputation == REFUSED
    later = restarted(lines, after=300)
    later.source.start(CLIENT)
    await later.settle()
    assert later.zone.asked == [CLIENT]
    assert later.source.state == "ok"


async def test_a_restart_with_other_nameservers_asks_them() -> None:
    """A refusal of other nameservers is not restored."""
    site = score_site()
    site.zone.outcomes = {CLIENT: Scored(75)}
    await site.source.lookup(CLIENT)
    site.zone.otherwise = REFUSED
    await site.source.lookup("192.0.2.1")
    lines = list(site.source.snapshot())
    source = restarted(lines, replace(DEFAULTS, nameservers=(Inet("192.0.2.53", 53),))).source
    assert source.state == "ok"
    assert source.known(CLIENT) is not None


async def test_a_restart_with_another_zone_keeps_the_budget_alone() -> None:
    """Scores of one zone say nothing about another."""
    lines = list((await used_site()).source.snapshot())
    source = restarted(lines, replace(DEFAULTS, zone="score.elsewhere.test")).source
    assert source.known(CLIENT) is None
    assert source.budget.used == 3


def test_a_spent_budget_is_spent_after_a_restart() -> None:
    """No request waits for a zone that must not be asked."""
    header = HEADER | {"budget": [[10.0, 5.0, 1000]]}
    source = restarted([json.dumps(header)]).source
    known = source.known(CLIENT)
    assert known is not None
    assert isinstance(known.reputation, Refused)


def test_a_clock_that_was_ahead_when_it_was_saved_does_no_harm() -> None:
    """The questions count in full, and scores of a far future are dropped."""
    header = HEADER | {"saved_at": START + 1000 * DAY}
    future = [["192.0.2.1", 75, int(START + 1000 * DAY)]]
    source = restarted([json.dumps(header), json.dumps(future)]).source
    assert source.budget.used_today == 3
    assert source.known("192.0.2.1") is None


DAMAGED_HEADERS = [
    "",
    "garbage",
    "[]",
    "{}",
    "[" * 100_000,
    json.dumps(HEADER | {"format": 2}),
    json.dumps({name: value for name, value in HEADER.items() if name != "zone"}),
    json.dumps(HEADER | {"more": 1}),
    json.dumps(HEADER | {"zone": 5}),
    json.dumps(HEADER | {"nameservers": None}),
    json.dumps(HEADER | {"saved_at": "now"}),
    json.dumps(HEADER | {"saved_at": float("nan")}),
    json.dumps(HEADER | {"saved_at": 10**400}),
    json.dumps(HEADER | {"budget": {}}),
    json.dumps(HEADER | {"budget": [[5.0, 10.0, 3]]}),
    json.dumps(HEADER | {"refusal": {"detail": "x"}}),
]

DAMAGED_SCORES = [
    "garbage",
    "5",
    '{"192.0.2.1": 75}',
    '["192.0.2.1", 75, 1700000000]',
    '[["192.0.2.1", 75]]',
    '[["192.0.2.1", 101, 1700000000]]',
    '[["192.0.2.1", true, 1700000000]]',
    '[["192.0.2.1", "75", 1700000000]]',
    "[[1, 75, 1700000000]]",
    '[["192.0.2.1", 75, "1700000000"]]',
    '[["192.0.2.1", 75, NaN]]',
    '[["192.0.2.1", 75, 1' + "0" * 400 + "]]",
]


@pytest.mark.parametrize(
    "lines",
    [[header] for header in DAMAGED_HEADERS]
    + [[json.dumps(HEADER), '[["192.0.2.9", 75, 1700000000]]', line] for line in DAMAGED_SCORES],
)
def test_of_damaged_state_nothing_is_taken_up(lines: list[str]) -> None:
    """Damaged state is an error, and no part of it is restored."""
    site = score_site()
    with pytest.raises(ValueError):  # noqa: PT011 - its text is for people
        site.source.restore(lines)
    assert site.source.budget.used == 0
    assert site.source.known("192.0.2.9") is None
    assert site.source.state == "ok"


@given(st.lists(st.text(max_size=40) | st.sampled_from([json.dumps(HEADER), "[]", "[[]]"]), max_size=4))
def test_no_text_is_worse_than_malformed(lines: list[str]) -> None:
    """Whatever text the file contains, the worst outcome is a ValueError."""
    with contextlib.suppress(ValueError):
        score_site().source.restore(lines)
