"""The memory of recent decisions."""

from senderscore_policy.monitoring.decisions import LARGEST_REQUEST, TRIAL, DecisionHistory
from senderscore_policy.policy.clients import Client
from senderscore_policy.policy.decision import Decision, Reason
from senderscore_policy.policy.protocol import Request


def decision(time: float, reason: Reason = Reason.WITHIN_LIMIT, key: str = "192.0.2.75", **attributes: str) -> Decision:
    """A decision about a client; the attributes are those of the request."""
    lines = "".join(f"{name}={value}\n" for name, value in attributes.items())
    request = Request(f"\nrequest=smtpd_access_policy\n{lines}".encode())
    return Decision(request, Client(key, key), reason, "DUNNO", 1, "71-80", 800.0, None, time)


def test_decisions_are_found_by_client_and_by_message() -> None:
    """Decisions are found in the order in which they were made, with any reason."""
    recent = DecisionHistory()
    recent.decided([decision(1, queue_id="A1"), decision(2, Reason.OVER_LIMIT, queue_id="A11")])
    recent.decided([decision(3, key="192.0.2.7", queue_id="A1"), decision(4, Reason.REPEAT, queue_id="B")])
    assert [found.time for found in recent.of_client("192.0.2.75")] == [1, 2, 4]
    assert [found.time for found in recent.of_message("A1")] == [1, 3]
    assert recent.of_message("A") == recent.of_client("192.0.2.1") == []


def test_a_flood_of_messages_does_not_push_deferrals_out() -> None:
    """Each kind has room of its own; `since` is the time from which it is complete."""
    recent = DecisionHistory(most=3)
    recent.decided([decision(1, Reason.OVER_LIMIT, queue_id="A1")])
    assert recent.since(over_limit=True) is None
    recent.decided([decision(time) for time in range(2, 10)])
    assert [found.time for found in recent.of_client("192.0.2.75")] == [1, 7, 8, 9]
    assert recent.since(over_limit=True) is None
    assert recent.since(over_limit=False) == 7


def test_a_huge_request_is_not_remembered() -> None:
    """Postfix never sends one, and without it the memory is bounded in bytes, too."""
    recent = DecisionHistory()
    recent.decided([decision(1, helo_name="x" * LARGEST_REQUEST)])
    assert recent.of_client("192.0.2.75") == []


def test_the_last_request_is_one_of_postfix() -> None:
    """The instance of a request shows whether `ask` or `doctor` sent it."""
    recent = DecisionHistory()
    assert recent.last_request is None
    recent.decided([decision(1, instance=f"{TRIAL}1")])
    assert recent.last_request is None
    recent.decided([decision(2, instance="12.34.0"), decision(3, Reason.OVER_LIMIT, instance="12.35.0")])
    recent.decided([decision(4, instance=f"{TRIAL}2")])
    assert recent.last_request == 3
