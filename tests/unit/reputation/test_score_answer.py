"""The meaning of an answer of the zone."""

from ipaddress import IPv4Address

import pytest
from fakes import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from senderscore_policy.config.model import ReputationSettings
from senderscore_policy.policy.reputation import UNKNOWN, Refused, Scored, Unavailable
from senderscore_policy.reputation.budget import QueryBudget
from senderscore_policy.reputation.guard import LookupResult, QueryGuard
from senderscore_policy.reputation.resolver import reputation_of

answers = st.lists(
    st.ip_addresses(v=4).map(str)
    | st.integers(0, 255).map("127.0.4.{}".format)
    | st.integers(0, 255).map("127.255.255.{}".format),
    max_size=5,
)


def is_refusal(address: str) -> bool:
    """Whether the address is in the block that refuses."""
    return address.startswith("127.255.255.")


def is_score(address: str) -> bool:
    """Whether the address is one of the 101 scores."""
    return address.startswith("127.0.4.") and int(IPv4Address(address)) & 0xFF <= 100


@pytest.mark.parametrize("score", [0, 1, 50, 100])
def test_the_last_octet_is_the_score(score: int) -> None:
    """The last octet of the answer is the score; 0 is a real score."""
    assert reputation_of([f"127.0.4.{score}"]) == Scored(score)


@pytest.mark.parametrize(
    "address", ["127.0.4.101", "127.0.4.255", "127.0.3.50", "127.0.5.50", "127.0.0.4", "10.0.4.50"]
)
def test_any_other_address_is_no_score(address: str) -> None:
    """A hijacked or rewritten answer does not give any client a score."""
    assert isinstance(reputation_of([address]), Unavailable)


def test_no_records_mean_that_the_zone_does_not_know_the_client() -> None:
    """A name without an A record means that the zone has no score for the client."""
    assert reputation_of([]) == UNKNOWN


@given(answers)
def test_of_several_records_the_cautious_one_counts(addresses: list[str]) -> None:
    """Any refusal refuses; else the lowest valid score counts; else the lookup failed."""
    outcome = reputation_of(addresses)
    scores = [int(address.rpartition(".")[2]) for address in addresses if is_score(address)]
    if any(map(is_refusal, addresses)):
        assert isinstance(outcome, Refused)
    elif scores:
        assert outcome == Scored(min(scores))
    else:
        assert outcome == UNKNOWN if not addresses else isinstance(outcome, Unavailable)


def test_our_own_spent_budget_is_no_refusal_by_the_zone() -> None:
    """Only an address in the answer proves that the zone refuses."""
    clock = FakeClock()
    guard = QueryGuard(ReputationSettings(), QueryBudget(0, clock), clock)
    guard.record("192.0.2.75", LookupResult(Refused("query budget spent"), (), None, 0.0, None, 0))
    assert guard.zone_state == "not asked yet"
    refusal = LookupResult(Refused("127.255.255.255"), ("127.255.255.255",), "NOERROR", 0.0, "192.0.2.53:53", 1)
    guard.record("192.0.2.75", refusal)
    assert guard.zone_state == "refuses"
