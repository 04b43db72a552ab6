"""What the status page and `top` show."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from fakes import site

from senderscore_policy.monitoring.clients import AT_ONCE, top_clients
from senderscore_policy.monitoring.statistics import Evictions, Histogram
from senderscore_policy.policy.clients import Client
from senderscore_policy.policy.reputation import UNKNOWN, Refused, Scored
from senderscore_policy.policy.status import ClientStatus, LimitState
from senderscore_policy.policy.tiers import Limit
from senderscore_policy.web.status import LIFE

LIMITED = '[[override]]\nnetworks = ["192.0.2.0/24"]\nscore = 75\n[[tier]]\nscores = "0-100"\nlimit = 10\n'
CLIENT = "192.0.2.75"


async def test_a_limited_client(tmp_path: Path) -> None:
    """A limited client is shown with its deferred messages; it is accepted an hour after its bucket began."""
    async with site(tmp_path, LIMITED) as daemon:
        daemon.pass_time(300 - daemon.clock.time() % 300)
        await daemon.send(CLIENT, 12, client_name="mx.example.net")
        (row,) = (await daemon.status()).rows
        assert row.as_json() == {
            "client": CLIENT, "count": 10, "deferred": 2, "score": 75, "reputation": "override", "tier": "0-100",
            "limit": 10, "left": 0, "state": "limited", "opens_in": 3600, "name": "mx.example.net",
            "seen_at": round(daemon.clock.time()),
        }  # fmt: skip
        daemon.pass_time(3599)
        await daemon.send(CLIENT, 1)
        (row,) = (await daemon.status()).rows
        assert (row.status.state, row.status.count) == (LimitState.LIMITED, 10)
        daemon.pass_time(1)
        await daemon.send(CLIENT, 1)
        (row,) = (await daemon.status()).rows
        assert (row.status.state, row.status.count) == (LimitState.WITHIN, 1)


async def test_every_client_is_listed_once_and_forgotten_after_the_window(tmp_path: Path) -> None:
    """The list has clients without a limit, too; exempt clients are neither counted nor listed."""
    async with site(tmp_path, LIMITED) as daemon:
        for client, messages in ((CLIENT, 12), ("198.51.100.1", 3), ("2001:db8::1", 1), ("127.0.0.1", 5)):
            await daemon.send(client, messages)
        overview = await daemon.status()
        places = {row.status.client.key: row.status.state for row in overview.rows}
        assert places == {CLIENT: "limited", "198.51.100.1": "within", "2001:db8::/64": "unlimited"}
        assert overview.clients == 3
        daemon.pass_time(3700)
        assert (await daemon.status()).rows == ()


async def test_what_an_administrator_counts_is_shown(tmp_path: Path) -> None:
    """A client that `increment` was used for is listed, though it never sent a message."""
    async with site(tmp_path, LIMITED) as daemon:
        await daemon.admin.increment(daemon.client(CLIENT), 9)
        (row,) = (await daemon.status()).rows
        assert (row.status.client.key, row.status.count, row.name) == (CLIENT, 9, "")
        await daemon.admin.reset([row.status.client])
        assert (await daemon.status()).rows == ()


async def test_servers_that_any_part_of_a_reset_missed_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network is reset in parts; a memcached that comes back meanwhile has missed the first of them."""
    missed = [["inet:192.0.2.1:11211"], []]

    async def reset(_: Sequence[str]) -> list[str]:
        return missed.pop(0)

    async with site(tmp_path, LIMITED) as daemon:
        monkeypatch.setattr(daemon.admin.engine.store, "reset", reset)
        clients = [daemon.client(f"198.51.100.{number}") for number in range(AT_ONCE + 1)]
        assert (await daemon.admin.reset(clients)).endswith("not reached: inet:192.0.2.1:11211")
        assert not missed


async def test_it_is_json(tmp_path: Path) -> None:
    """A program can read the status as JSON, before the first request and with a zone that refuses."""
    async with site(tmp_path, LIMITED) as daemon:
        first = json.loads(json.dumps((await daemon.status()).as_json(), allow_nan=False))
        assert first["service"]["last_request_at"] is None
        assert first["clients"] == []
        daemon.zone.outcomes["198.51.100.1"] = Refused("127.255.255.254")
        await daemon.send("198.51.100.1", 12)
        second = json.loads(json.dumps((await daemon.status()).as_json(), allow_nan=False))
        assert second["scores"]["zone_state"] == "refuses"
        assert second["health"].startswith("degraded: score.senderscore.com refuses to answer (127.255.255.254)")
        assert second["clients"][0]["limit"] == "unlimited"
        assert second["service"]["requests"] == 12


async def test_a_visitor_does_not_change_the_cache_metrics(tmp_path: Path) -> None:
    """The metrics of the score cache count what mail needs, not what visitors look at."""
    async with site(tmp_path, LIMITED) as daemon:
        daemon.zone.outcomes["198.51.100.1"] = 50
        await daemon.send("198.51.100.1", 12)
        before = dict(daemon.metrics.score_cache)
        await daemon.status()
        assert daemon.metrics.score_cache == before


async def test_many_visitors_cost_as_much_as_one(tmp_path: Path) -> None:
    """Every visitor within a second gets the same status."""
    async with site(tmp_path, LIMITED) as daemon:
        collector = daemon.collector
        first, second = await asyncio.gather(collector.status(), collector.status())
        assert first is second
        daemon.clock.pass_time(LIFE)
        assert await collector.status() is not first


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {"192.0.2.75", "192.0.2.76", "198.51.100.1", "2001:db8::/64", "2001:db8:0:1::5/128"}),
        ("MX", {"192.0.2.75", "2001:db8::/64"}),
        ("2.7", {"192.0.2.75", "192.0.2.76"}),
        ("192.0.2.0/24", {"192.0.2.75", "192.0.2.76"}),
        ("192.0.2.75/24", {"192.0.2.75", "192.0.2.76"}),
        ("192.0.2.7", {"192.0.2.7"}),
        ("192.0.2.75/32", {"192.0.2.75"}),
        ("::ffff:192.0.2.75", {"192.0.2.75"}),
        ("2001:db8::99", {"2001:db8::/64"}),
        ("2001:db8:0:1::5", {"2001:db8:0:1::5/128"}),
        ("2001:db8:0:1::6", {"2001:db8:0:1::/64"}),
        ("2001:db8::/32", {"2001:db8::/64", "2001:db8:0:1::5/128"}),
        ("2001:DB8:0:0:9::/80", {"2001:db8::/64"}),
        ("2001:db8:0:1::4/127", {"2001:db8:0:1::5/128"}),
        ("2001:0DB8:0000:0001", {"2001:db8:0:1::5/128"}),
        ("[192.0.2.75]", {"192.0.2.75"}),
        ("client=mx.example.net[192.0.2.75]:4711,", {"192.0.2.75"}),
        ("unknown[IPv6:2001:0DB8:0000::99]", {"2001:db8::/64"}),
        ("203.0.113.9", {"203.0.113.9"}),
        ("/", {"2001:db8::/64", "2001:db8:0:1::5/128"}),
        ("override", {"192.0.2.75", "192.0.2.76", "2001:db8:0:1::5/128"}),
        ("unscored", {"2001:db8::/64"}),
        ("0-100", {"192.0.2.75", "192.0.2.76"}),
        ("no such client", set()),
        ("fe80::1%eth0", set()),
    ],
)
async def test_the_filter_finds_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: set[str]
) -> None:
    """The filter searches all remembered clients, listed or not; it looks an address or a network up exactly."""
    own = '[[override]]\nnetworks = ["2001:db8:0:1::5"]\nlimit = 7\n'
    limits = [f"senderscore_policy.web.status.{name}" for name in ("MOST_CLIENTS", "MOST_FOUND")]
    for limit in limits:
        monkeypatch.setattr(limit, 1)
    async with site(tmp_path, own + LIMITED) as daemon:
        await daemon.send("192.0.2.75", 2, client_name="mx.example.net")
        await daemon.send("192.0.2.76")
        await daemon.send("198.51.100.1")
        await daemon.send("2001:db8::1", client_name="mx6.example.net")
        await daemon.send("2001:db8:0:1::5")
        rows, number = await daemon.collector.clients(text)
        assert number == len(expected)
        assert {row.status.client.key for row in rows} <= expected
        assert len(rows) == min(number, 2) or len(rows) == min(number, 1)
        for limit in limits:
            monkeypatch.setattr(limit, 200)
        rows, _ = await daemon.collector.clients(text)
        assert {row.status.client.key for row in rows} == expected


async def test_a_client_in_detail(tmp_path: Path) -> None:
    """The details have the count and the limit, the score with its age, the override, and the last decisions."""
    async with site(tmp_path, LIMITED, {"198.51.100.9": 42}) as daemon:
        await daemon.send(CLIENT, 10)
        daemon.clock.pass_time(1)
        await daemon.send(CLIENT, 2)
        details = await daemon.collector.details(daemon.client(CLIENT))
        assert (details.row.status.count, str(details.network)) == (10, "192.0.2.0/24")
        assert [str(each.reason) for each in details.decisions] == ["over-limit"] * 2 + ["within-limit"] * 8
        assert details.row.opens_in == pytest.approx(3599)
        await daemon.admin.score(daemon.client("198.51.100.9"))
        daemon.clock.pass_time(60)
        details = await daemon.collector.details(daemon.client("198.51.100.9"))
        assert details.score is not None
        assert (details.score.reputation, details.time - details.score.fetched_at) == (Scored(42), 60)
        assert (details.row.seen_at, details.decisions, details.network) == (0, (), None)


async def test_the_busiest_and_the_nearest_are_chosen(tmp_path: Path) -> None:
    """The list has the clients with the highest counts, and those next to a small limit."""
    async with site(tmp_path, LIMITED + "[unscored]\nlimit = 1000\n") as daemon:
        await daemon.send("192.0.2.1", 10)
        for number in range(5):
            await daemon.send(f"198.51.100.{number}", 20 + number)
        clients = daemon.seen.recent(0)
        chosen = top_clients(clients, 2)
        assert {seen.client.key for seen in chosen} == {"192.0.2.1", "198.51.100.3", "198.51.100.4"}
        assert len(top_clients(clients, 100)) == len(clients) == 6


@pytest.mark.parametrize(
    ("limit", "messages", "asked", "deferring", "expected"),
    [
        (10, 10, True, False, LimitState.LIMITED),
        (10, 9, True, True, LimitState.LIMITED),
        (10, 9, True, False, LimitState.NEAR),
        (10, 5, True, True, LimitState.WITHIN),
        (10, 10, False, False, LimitState.NEAR),
        (0, 0, True, False, LimitState.LIMITED),
        (float("inf"), 10**9, True, True, LimitState.UNLIMITED),
    ],
)
def test_places(limit: float, messages: int, asked: bool, deferring: bool, expected: LimitState) -> None:
    """A client is limited if its next message would be deferred, or if it is near its limit and was deferred lately."""
    reputation = UNKNOWN if asked else None
    status = ClientStatus(Client(CLIENT), reputation, Limit("", limit), messages, deferring=deferring)
    assert status.state is expected


def test_quantiles() -> None:
    """A quantile is the bound that holds this share of the observations, at most the largest bound."""
    histogram = Histogram((0.1, 0.5, 1.0))
    assert histogram.quantile(0.5) is None
    for seconds in (0.05, 0.2, 0.3, 7.0):
        histogram.observe(seconds)
    assert [histogram.quantile(share) for share in (0.25, 0.5, 0.75, 0.99)] == [0.1, 0.5, 0.5, 1.0]


class FakeCluster:
    """A memcached whose evictions a test sets."""

    def __init__(self) -> None:
        self.evicted: int | None = 40
        self.servers = {"127.0.0.1:11211": True}
        self.memcached = self.cluster = self

    async def evictions(self) -> int | None:
        return self.evicted


async def test_evictions_add_up_while_the_servers_are_the_same() -> None:
    """Evictions before the start do not count, and those of a server that returns count from its return."""
    cluster = FakeCluster()
    evictions = Evictions(cluster)  # type: ignore[arg-type]
    seen = []
    for evicted, up in ((40, True), (43, True), (None, False), (900, True), (901, True), (2, True), (5, True)):
        cluster.evicted, cluster.servers = evicted, {"127.0.0.1:11211": up}
        await evictions.poll()
        seen.append(evictions.seen)
    assert seen == [0, 3, 3, 3, 4, 4, 7]
