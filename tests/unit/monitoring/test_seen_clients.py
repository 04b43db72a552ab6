"""The clients seen last, and what is asked about one."""

from pathlib import Path

from fakes import site

from senderscore_policy.monitoring.clients import SeenClients
from senderscore_policy.policy.clients import Client
from senderscore_policy.policy.decision import Decision, Reason
from senderscore_policy.policy.protocol import Request
from senderscore_policy.policy.window import Window


def test_deferrals_go_by_the_buckets_of_the_counters() -> None:
    """In a fixed window, deferrals are forgotten when the next window begins, like the messages."""
    now = 60.0
    seen = SeenClients(Window(60, 1), lambda: now)
    client = Client("192.0.2.75", "192.0.2.75")
    seen.decided([Decision(Request(b"\n\n"), client, Reason.OVER_LIMIT, "421 no", 3, "0-10", 2.0, None, 1000.0)])
    found = seen.find(client.key)
    assert found is not None
    now = 119.0
    assert seen.deferred(found) == (1, True)
    now = 120.0
    assert seen.deferred(found) == (0, False)


async def test_no_score_is_asked_for_an_exempt_client(tmp_path: Path) -> None:
    """The score of an exempt client could not matter, and would cost a query."""
    async with site(tmp_path) as daemon:
        answer = await daemon.admin.score(daemon.client("127.0.0.1"))
        assert answer["source"] == "none"
        assert daemon.zone.budget.used == 0
