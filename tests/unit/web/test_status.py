"""What the status page and `top` are shown."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
from fakes import DaemonSite, site

from senderscore_policy.monitoring.clients import top_clients
from senderscore_policy.monitoring.statistics import Evictions, Histogram
from senderscore_policy.policy.reputation import Refused
from senderscore_policy.policy.status import LimitState, limit_state
from senderscore_policy.web.status import LIFE, StatusCollector

LIMITED = '[[override]]\nnetworks = ["192.0.2.0/24"]\nscore = 75\n[[tier]]\nscores = "0-100"\nlimit = 10\n'
CLIENT = "192.0.2.75"


def run(directory: Path, scenario: Callable[[DaemonSite], Coroutine[None, None, None]], toml: str = LIMITED) -> None:
    """Run a scenario with a daemon of its own."""

    async def whole() -> None:
        async with site(directory, toml) as daemon:
            await scenario(daemon)

    asyncio.run(whole())


def test_a_limited_client(tmp_path: Path) -> None:
    """Its row shows what was deferred and when it may send again: an hour after the bucket it filled began."""

    async def scenario(daemon: DaemonSite) -> None:
        daemon.pass_time(300 - daemon.clock.time() % 300)
        await daemon.send(CLIENT, 12, client_name="mx.example.net")
        (row,) = (await daemon.overview()).rows
        assert row.as_json() == {
            "client": CLIENT, "count": 10, "deferred": 2, "score": 75, "reputation": "override", "tier": "0-100",
            "limit": 10, "left": 0, "place": "limited", "opens_in": 3600, "name": "mx.example.net",
            "seen_at": round(daemon.clock.time()),
        }  # fmt: skip
        daemon.pass_time(3599)
        await daemon.send(CLIENT, 1)
        (row,) = (await daemon.overview()).rows
        assert (row.standing.state, row.standing.count) == (LimitState.LIMITED, 10)
        daemon.pass_time(1)
        await daemon.send(CLIENT, 1)
        (row,) = (await daemon.overview()).rows
        assert (row.standing.state, row.standing.count) == (LimitState.WITHIN, 1)

    run(tmp_path, scenario)


def test_every_client_is_listed_once_and_forgotten_after_the_window(tmp_path: Path) -> None:
    """Also those without a limit; exempt ones are not counted and not listed."""

    async def scenario(daemon: DaemonSite) -> None:
        for client, messages in ((CLIENT, 12), ("198.51.100.1", 3), ("2001:db8::1", 1), ("127.0.0.1", 5)):
            await daemon.send(client, messages)
        overview = await daemon.overview()
        places = {row.standing.client.key: row.standing.state for row in overview.rows}
        assert places == {CLIENT: "limited", "198.51.100.1": "within", "2001:db8::/64": "unlimited"}
        assert overview.clients == 3
        daemon.pass_time(3700)
        assert (await daemon.overview()).rows == ()

    run(tmp_path, scenario)


def test_what_an_administrator_counts_is_shown(tmp_path: Path) -> None:
    """A client that `increment` was used for is listed, though it never sent a message."""

    async def scenario(daemon: DaemonSite) -> None:
        await daemon.desk.increment(daemon.client(CLIENT), 9)
        (row,) = (await daemon.overview()).rows
        assert (row.standing.client.key, row.standing.count, row.name) == (CLIENT, 9, "")
        await daemon.desk.reset(row.standing.client)
        assert (await daemon.overview()).rows == ()

    run(tmp_path, scenario)


def test_it_is_json(tmp_path: Path) -> None:
    """Programs can read all of it, before the first request and with a zone that refuses."""

    async def scenario(daemon: DaemonSite) -> None:
        first = json.loads(json.dumps((await daemon.overview()).as_json(), allow_nan=False))
        assert first["service"]["last_request_at"] is None
        assert first["clients"] == []
        daemon.zone.outcomes["198.51.100.1"] = Refused("127.255.255.254")
        await daemon.send("198.51.100.1", 12)
        second = json.loads(json.dumps((await daemon.overview()).as_json(), allow_nan=False))
        assert second["scores"]["zone_state"] == "refuses"
        assert second["health"].startswith("degraded: score.senderscore.com refuses to answer (127.255.255.254)")
        assert second["clients"][0]["limit"] == "unlimited"
        assert second["service"]["requests"] == 12

    run(tmp_path, scenario)


def test_looking_is_no_use_of_the_score_cache(tmp_path: Path) -> None:
    """The metrics of the cache tell what mail needs, whoever watches."""

    async def scenario(daemon: DaemonSite) -> None:
        daemon.zone.outcomes["198.51.100.1"] = 50
        await daemon.send("198.51.100.1", 12)
        before = dict(daemon.parts.metrics.score_cache)
        await daemon.overview()
        assert daemon.parts.metrics.score_cache == before

    run(tmp_path, scenario)


def test_many_who_watch_cost_as_much_as_one(tmp_path: Path) -> None:
    """An overview is shown to all who ask within a second."""

    async def scenario(daemon: DaemonSite) -> None:
        lookout = StatusCollector(daemon.parts, daemon.desk)
        first, second = await asyncio.gather(lookout.overview(), lookout.overview())
        assert first is second
        daemon.clock.pass_time(LIFE)
        assert await lookout.overview() is not first

    run(tmp_path, scenario)


def test_the_busiest_and_the_nearest_are_chosen(tmp_path: Path) -> None:
    """Of many clients those with the highest counts are listed, and those next to a small limit."""

    async def scenario(daemon: DaemonSite) -> None:
        await daemon.send("192.0.2.1", 10)
        for number in range(5):
            await daemon.send(f"198.51.100.{number}", 20 + number)
        clients = daemon.parts.seen.recent(0)
        chosen = top_clients(clients, 2)
        assert {seen.client.key for seen in chosen} == {"192.0.2.1", "198.51.100.3", "198.51.100.4"}
        assert len(top_clients(clients, 100)) == len(clients) == 6

    run(tmp_path, scenario, LIMITED + "[unscored]\nlimit = 1000\n")


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
    """A client is limited while its next message would be deferred, or while it is near and some were lately."""
    assert limit_state(limit, messages, asked=asked, deferring=deferring) is expected


def test_quantiles() -> None:
    """The bound within which so many observations were; beyond the largest bound that is all there is to say."""
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
        self.memcached = self

    async def evictions(self) -> int | None:
        return self.evicted


def test_evictions_add_up_while_the_servers_are_the_same() -> None:
    """Those of before the start do not count, nor the past of a server that comes back."""

    async def scenario() -> None:
        cluster = FakeCluster()
        evictions = Evictions(cluster)  # type: ignore[arg-type]
        seen = []
        for evicted, up in ((40, True), (43, True), (None, False), (900, True), (901, True), (2, True), (5, True)):
            cluster.evicted, cluster.servers = evicted, {"127.0.0.1:11211": up}
            await evictions.poll()
            seen.append(evictions.seen)
        assert seen == [0, 3, 3, 3, 4, 4, 7]

    asyncio.run(scenario())
