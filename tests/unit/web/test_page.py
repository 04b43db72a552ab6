"""The status page as HTML."""

import asyncio
import math
import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from fakes import START, site
from hypothesis import given
from hypothesis import strategies as st

from senderscore_policy.monitoring.statistics import MINUTES, Minute
from senderscore_policy.policy.durations import span
from senderscore_policy.policy.reputation import Reputation, Unavailable
from senderscore_policy.web import html, page
from senderscore_policy.web.chart import Chart, chart, shade, tier_order
from senderscore_policy.web.page import View, ordered, render, render_client, view
from senderscore_policy.web.status import Status

LIMITED = '[[override]]\nnetworks = ["192.0.2.0/24"]\nscore = 75\n[[tier]]\nscores = "0-100"\nlimit = 10\n'
VOID = {"meta", "link", "input"}


@pytest.fixture(scope="module")
def status(tmp_path_factory: pytest.TempPathFactory) -> Status:
    """A limited client, one that is near, one within its limit, one without."""

    async def collect() -> Status:
        async with site(tmp_path_factory.mktemp("state"), LIMITED) as daemon:
            await daemon.send("192.0.2.75", 12, client_name="mx.example.net")
            await daemon.send("192.0.2.8", 9, client_name="<b>'\"&")
            await daemon.send("198.51.100.1", 1)
            daemon.pass_time(5)
            await daemon.send("2001:db8::1", 30, client_name="mx6.example.net")
            return await daemon.status()

    return asyncio.run(collect())


def rendered(status: Status, wanted: View | None = None) -> str:
    """The page with all listed clients."""
    return render(status, wanted or View(), status.rows, status.clients)


class Checker(HTMLParser):
    """Collects a page's elements; each that is opened must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.attributes += attrs
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def clients(status: Status, **query: str) -> list[str]:
    """The clients that the page lists for a query, in its order."""
    return [row.status.client.key for row in ordered(status.rows, view(query))]


ALL = ["192.0.2.75", "192.0.2.8", "198.51.100.1", "2001:db8::/64"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ALL),
        ({"sort": "-status"}, ALL[::-1]),
        ({"show": "limited"}, ALL[:1]),
        ({"show": "near"}, ALL[1:2]),
        ({"show": "deferred"}, ALL[:1]),
        ({"sort": "count"}, [ALL[3], ALL[0], ALL[1], ALL[2]]),
        ({"sort": "client"}, [ALL[1], ALL[0], ALL[2], ALL[3]]),
        ({"sort": "-client"}, [ALL[3], ALL[2], ALL[0], ALL[1]]),
        ({"sort": "score"}, [ALL[2], ALL[3], ALL[0], ALL[1]]),
        ({"sort": "left"}, [ALL[0], ALL[1], ALL[2], ALL[3]]),
        ({"sort": "seen"}, [ALL[3], ALL[0], ALL[1], ALL[2]]),
        ({"sort": "opens"}, ALL),
        ({"sort": "deferred"}, ALL),
        ({"sort": "tier"}, [ALL[0], ALL[1], ALL[2], ALL[3]]),
        ({"show": "nonsense", "sort": "nonsense"}, ALL),
    ],
)
def test_lists(status: Status, query: dict[str, str], expected: list[str]) -> None:
    """The list begins with limited clients; a visitor can sort it by each column, either way."""
    assert clients(status, **query) == expected


def test_a_visitor_can_sort_by_each_column(status: Status) -> None:
    """The page offers the orders that the address of the page can name, and no others."""
    text = rendered(status)
    assert re.findall(r'<option value="(\w+)"', text) == ["status", *page.ORDERS]
    assert re.findall(r'<th scope="col" class="(\w+)"', text) == ["status", *page.ORDERS]


@given(
    st.builds(
        View,
        st.sampled_from(list(page.SHOWN)),
        st.sampled_from(["status", *page.ORDERS]),
        st.booleans(),
        st.text(max_size=50).map(str.strip),
        st.booleans(),
    )
)
def test_a_link_leads_to_its_view(wanted: View) -> None:
    """A link of the page leads to the view that it asks for."""
    link = View().link(**{name: getattr(wanted, name) for name in View.__slots__})
    query = dict(parse_qsl(link.removeprefix("?")))
    assert view(query) == wanted


@pytest.mark.parametrize("query", [{}, {"show": "near", "sort": "-count", "filter": "<b>'\"&"}, {"filter": "nobody"}])
def test_the_page_is_sound(status: Status, query: dict[str, str]) -> None:
    """The page closes every element, uses each id once, and nothing that its Content-Security-Policy forbids."""
    checker = Checker(rendered(status, view(query)))
    assert len(set(checker.ids)) == len(checker.ids)
    for name, _ in checker.attributes:
        assert not name.startswith("on")
        assert name != "style"


def test_text_is_text(status: Status) -> None:
    """Text from a client, from the zone or from a visitor never becomes markup."""
    hostile = "</style><script>alert(1)</script>"
    changed = replace(
        status,
        scores=status.scores | {"zone": hostile, "state": f"degraded: {hostile}"},
        counters=status.counters | {"store": "memcached", "state": hostile, "servers": {hostile: False}},
        service=replace(status.service, health=f"degraded: {hostile}", state=f"degraded: {hostile}", window=hostile),
    )
    text = rendered(changed, View(filter=hostile))
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;alert") >= 6
    assert "&lt;b&gt;" in rendered(status)


def test_trouble_is_shown(status: Status) -> None:
    """The page shows reasons, servers that are down, and state that is not saved."""
    changed = replace(
        status,
        scores=status.scores | {"zone_state": "refuses", "state": "degraded: it refuses", "limit": 0, "used": 5},
        counters={
            "store": "memcached",
            "state": "degraded: it is down",
            "servers": {"192.0.2.1:11211": False, "192.0.2.2:11211": True},
            "round_trips": {"ok": 8, "failed": 2},
            "round_trip": 0.005,
            "evictions": 7,
        },
        service=replace(
            status.service,
            health="degraded: memcached 192.0.2.1:11211 is down",
            mode="observe",
            state="degraded: disk full",
            malformed=3,
        ),
        last_request_at=None,
        rows=(),
        minutes=(Minute(int(START), {}, {}),),
    )
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", rendered(changed).partition("</style>")[2]))
    for shown in (
        "Degraded. memcached 192.0.2.1:11211 is down", "observe: nothing is deferred", "No request since the start",
        "refuses", "5 in 30 days, no budget", "2 failed; 99% within 5 ms", "7: memcached needs more memory",
        "disk full", "3 malformed requests", "No client was counted in the last hour", "No decision in the last hour",
    ):  # fmt: skip
        assert shown in words


def test_a_long_list_is_cut(status: Status) -> None:
    """The page begins with the first fifty clients, and a link shows all."""
    many = replace(status, rows=status.rows * 20, clients=5000)
    text = rendered(many)
    assert text.count("<tr class=") == page.ROWS
    assert "50 of 80 shown" in text
    assert "busiest of 5,000 clients" in text
    assert 'href="?rows=all"' in text
    assert "All <b>5,000</b>" in text
    assert "Limited now <b>20</b>" in text
    assert rendered(many, view({"rows": "all"})).count("<tr class=") == 80
    more = replace(status, rows=status.rows * 100, clients=5000)
    assert "Limited now <b>100+</b>" in rendered(more)
    assert "100+ near the limit" in rendered(more)
    assert "Limited now <b>100</b>" in rendered(replace(more, clients=400))


TIERS = st.sampled_from(["0-10", "11-20", "71-80", "91-100", "100", "not-asked", "unscored", "override", "none"])
COUNTS = st.dictionaries(TIERS, st.integers(1, 10**6), max_size=4)


@given(st.lists(st.tuples(COUNTS, COUNTS), min_size=1, max_size=MINUTES))
def test_the_chart_is_true(decided: list[tuple[dict[str, int], dict[str, int]]]) -> None:
    """Bars stay within the drawing, do not overlap, and are as high as their numbers, in one scale."""
    minutes = [Minute(60 * number, *counts) for number, counts in enumerate(decided)]
    drawn = chart(minutes, 60, MINUTES, 4)
    assert drawn.passed == sum(sum(minute.passed.values()) for minute in minutes)
    assert drawn.deferred == sum(sum(minute.deferred.values()) for minute in minutes)
    for bar in drawn.bars:
        assert -0.01 <= bar.y <= bar.y + bar.height <= 100.01
        assert 0 <= bar.x <= bar.x + bar.width <= 100
    assert sum(bar.height for bar in drawn.bars if bar.y < drawn.base) == pytest.approx(
        drawn.passed * scale(drawn), rel=0.01, abs=0.1
    )
    assert 2 <= len(drawn.ticks) <= 8
    assert len(drawn.slots) == len(minutes)


def scale(drawn: Chart) -> float:
    """Percent of the drawing for each decision, by its ticks."""
    zero = next(y for y, label in drawn.ticks if label == "0")
    other, label = next(tick for tick in drawn.ticks if tick[0] < zero)
    return (zero - other) / int(label.replace(",", ""))


def test_the_tiers_have_an_order_and_colours() -> None:
    """Tiers are sorted from the worst scores up, then the rest; a tier keeps its colour in every chart."""
    tiers = ["none", "91-100", "unscored", "0-10", "not-asked", "71-80", "override", "unavailable"]
    assert sorted(tiers, key=tier_order) == [
        "0-10", "71-80", "91-100", "not-asked", "unscored", "unavailable", "override", "none",
    ]  # fmt: skip
    assert [shade(tier) for tier in ("0-10", "71-80", "91-100", "0-100", "100", "unscored")] == [
        "s0", "s7", "s9", "s5", "s9", "t-unscored",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1, "0 s"), (0, "0 s"), (0.00025, "0.25 ms"), (0.2, "200 ms"), (1.5, "2 s"),
     (59, "59 s"), (60, "1 min"), (61, "2 min"), (3600, "1 h"),
     (3660, "1 h 1 min"), (86400, "1 d"), (90000, "1 d 1 h"), (90060, "1 d 1 h")],
)  # fmt: skip
def test_times_in_words(seconds: float, words: str) -> None:
    """Durations are rounded up, so that no retry is too early."""
    assert span(seconds) == words


def test_the_policy_allows_this_style_and_script_alone(status: Status) -> None:
    """The Content-Security-Policy has the hashes of the style and the script in the page."""
    text = rendered(status)
    hashed: Callable[[str], str] = html.source_of
    for kind in ("style", "script"):
        (inline,) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        assert f"{kind}-src {hashed(inline)};" in page.CONTENT_SECURITY_POLICY


def test_no_limit_is_a_sign(status: Status) -> None:
    """The page shows the missing limit of a client as ∞."""
    assert "30 <small>of ∞</small>" in rendered(status)
    assert html._ENVIRONMENT.filters["limit"](math.inf) == "∞"


@pytest.mark.parametrize(
    ("address", "texts"),
    [
        ("192.0.2.75", ["Limit: 10 messages/hour ( 0-100)", "The [[override]] for 192.0.2.0/24 gives",
                        "10 of 10", "from an override", "accepted again", "senderscore-policy explain 192.0.2.75",
                        "in policy.toml [[override]]"]),
        ("203.0.113.9", ["in policy.toml, in the place of the one there [[override]]"]),
        ("127.0.0.1", ["No limit", "127.0.0.0/8 is in [exempt]", "not needed", ", and no network in [exempt]"]),
        ("10.0.0.5", ["No limit", "The zone has no IPv6 and no private addresses, so [unscored] applies"]),
        ("2001:db8::1", ["No limit", "The zone has no IPv6", "left ∞"]),
        ("198.51.100.1", ["The score is not needed yet: this is the smallest limit of all", "not asked yet"]),
        ("198.51.100.9", ["The score 42 belongs to tier 0-100", "looked up over DNS 1 min ago"]),
        ("198.51.100.8", ["The zone has no score for this client, so [unscored] applies"]),
        ("198.51.100.7", ["The score could not be read (<timeout>), so [unavailable] applies"]),
    ],
)  # fmt: skip
async def test_a_client_and_the_reason_for_its_limit(tmp_path: Path, address: str, texts: list[str]) -> None:
    """The page of a client says in a sentence why this limit holds, and where the score comes from."""
    scores: dict[str, int | Reputation] = {"198.51.100.9": 42, "198.51.100.7": Unavailable("<timeout>")}
    own = '[[override]]\nnetworks = ["203.0.113.9"]\nlimit = 7\n'
    async with site(tmp_path, own + LIMITED, scores) as daemon:
        await daemon.send("192.0.2.75", 12)
        for asked in ("198.51.100.9", "198.51.100.8", "198.51.100.7"):
            await daemon.admin.score(daemon.client(asked))
        daemon.pass_time(60 if address == "198.51.100.9" else 1)
        text = render_client(await daemon.status(), await daemon.collector.details(daemon.client(address)))
    Checker(text)
    words = re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", text.partition("</style>")[2]))).casefold()
    for expected in texts:
        assert expected.casefold() in words
