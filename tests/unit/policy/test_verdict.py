"""The decision about one message, as a function of values."""

import pytest

from senderscore_policy.config.load import parse
from senderscore_policy.config.model import policy_of
from senderscore_policy.policy.clients import Client
from senderscore_policy.policy.reputation import UNKNOWN, CachedScore, Reputation, Scored, Unavailable
from senderscore_policy.policy.tiers import Limit
from senderscore_policy.policy.verdict import verdict

POLICY = policy_of(parse("", "test.toml"))
CLIENT = Client("192.0.2.75", "192.0.2.75")
NOW = 1000.0


def known(reputation: Reputation, *, stale: bool = False) -> CachedScore:
    """A cached score."""
    return CachedScore(reputation, 0, NOW - 1 if stale else NOW + 1, "dns")


@pytest.mark.parametrize(("count", "refresh", "wait"), [(1, False, False), (50, True, False), (101, True, True)])
def test_an_unknown_score_is_looked_up_when_it_may_matter(count: int, refresh: bool, wait: bool) -> None:
    """From half of the smallest limit on a lookup starts; above that limit the message waits."""
    found = verdict(POLICY, CLIENT, None, count, 1, now=NOW)
    assert (found.limit.name, found.refresh, found.wait) == ("not-asked", refresh, wait)


@pytest.mark.parametrize("reputation", [Scored(75), UNKNOWN, Unavailable("timeout")])
def test_a_cached_score_decides(reputation: Reputation) -> None:
    """A fresh one needs nothing else; with a stale one the message does not wait for the refresh."""
    fresh = verdict(POLICY, CLIENT, known(reputation), 500, 1, now=NOW)
    stale = verdict(POLICY, CLIENT, known(reputation, stale=True), 500, 1, now=NOW)
    assert fresh.limit == stale.limit == POLICY.tiers.limit_for(reputation)
    assert (fresh.refresh, stale.refresh) == (False, True)
    assert not fresh.wait
    assert not stale.wait


def test_a_limit_of_its_own_needs_no_score() -> None:
    """An override's limit, an override's score and an exemption ask the zone nothing, whatever the count."""
    for client in (
        Client("192.0.2.75", "192.0.2.75", limit=Limit("override", 5)),
        Client("192.0.2.75", "192.0.2.75", reputation=Scored(3)),
        Client("192.0.2.75", "192.0.2.75", exempt=True),
    ):
        found = verdict(POLICY, client, None, 10**6, 1, now=NOW)
        assert not found.wait
    assert verdict(POLICY, CLIENT, None, 500, 500, now=NOW).wait is False
