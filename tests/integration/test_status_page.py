"""The status page of the installed daemon, in a real browser (Debian's Chromium, without a window)."""

import http.client
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from daemon_process import Daemon
from memcached_server import MemcachedServer
from nameserver import Nameserver, addresses
from waiting import free_port, wait_for_listener

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; make test has it")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed; make test has it")

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed; make test has it"),
]

LIMITED = {"override": [{"networks": ["192.0.2.0/24"], "score": 75}], "tier": [{"scores": "0-100", "limit": 4}]}
CLIENT = "192.0.2.75"
HOSTILE = "<img src=x onerror=document.title='broken'>\"'><script>document.title='broken'</script>"

StartDaemon = Callable[..., Daemon]


class Site:
    """A daemon and the address of its status page."""

    def __init__(self, start_daemon: StartDaemon, **tables: Any) -> None:
        port = free_port()
        self.metrics = free_port()
        listen = {"status": f"127.0.0.1:{port}", "metrics": f"0.0.0.0:{self.metrics}"}
        self.daemon = start_daemon(**(LIMITED | tables), listen=listen)
        wait_for_listener(port)
        self.port = port
        self.url = f"http://127.0.0.1:{port}/"

    def send(self, times: int, client: str = CLIENT, **attributes: str) -> list[str]:
        """The answers to this number of messages."""
        with self.daemon.client() as postfix:
            return [postfix.ask(client, **attributes) for _ in range(times)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, started once for all tests."""
    with playwright.sync_playwright() as driver:
        # Its sandbox wants a user other than root; the page it is shown is the daemon's own.
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Visit:
    """A page in the browser, with all that it asked for and complained of.

    Attributes:
        page: to look at.
        requests: the addresses it fetched.
        complaints: what its console says: errors, and what the Content-Security-Policy forbade.
    """

    def __init__(self, browser: Any, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    """Opens pages, each as a new visitor."""
    visits: list[Visit] = []

    def open_page(url: str, **options: Any) -> Visit:
        visits.append(Visit(browser, **options))
        visits[-1].page.goto(url)
        return visits[-1]

    yield open_page
    for each in visits:
        each.context.close()


def answer(port: int, path: str, host: str = "localhost") -> tuple[int, str]:
    """The status and the body of the answer to a GET."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers={"Host": host})
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, body


def client_row(page: Any, client: str = CLIENT) -> Any:
    """The client's row of the list."""
    return page.locator("tbody tr").filter(has_text=client)


def test_a_client_over_its_limit_appears_while_the_page_is_open(
    start_daemon: StartDaemon, visit: Callable[..., Visit]
) -> None:
    """The open page shows the client, its limit, its deferred messages and when it is accepted again."""
    site = Site(start_daemon)
    seen = visit(site.url)
    expect = playwright.expect
    expect(seen.page.get_by_text("No client was counted in the last hour.")).to_be_visible()
    expect(seen.page.get_by_text("No request since the start")).to_be_visible()
    assert (
        site.send(6)[4:]
        == ["421 sender score = 75, you're limited to 4 messages/hour in our policy, try again later"] * 2
    )
    row = client_row(seen.page)
    expect(row).to_be_visible(timeout=30_000)
    expect(row.locator(".status")).to_have_text("limited")
    expect(row.locator(".score")).to_have_text("75")
    expect(row.locator(".count")).to_contain_text("4 of 4")
    expect(row.locator(".left")).to_have_text("0")
    expect(row.locator(".deferred")).to_have_text("2")
    expect(row.locator(".opens")).to_have_text(re.compile(r"in (1 h|5\d min|1 h \d min) \d\d:\d\d"))
    expect(seen.page.locator("#tabs")).to_contain_text("Limited now 1")
    expect(seen.page.locator("#chart .legend")).to_contain_text("0-100 4 +2")
    expect(seen.page.get_by_text("No request since the start")).to_have_count(0)
    site.daemon.run("reset", CLIENT)
    expect(row).to_have_count(0, timeout=30_000)
    assert seen.complaints == []


def test_trouble_behind_the_daemon_is_named(
    start_daemon: StartDaemon, visit: Callable[..., Visit], memcached: MemcachedServer
) -> None:
    """A zone that refuses and a memcached that is down appear with the reason, and go when they are well again."""
    with Nameserver() as nameserver:
        nameserver.otherwise = addresses("127.255.255.254")
        site = Site(
            start_daemon,
            counters={"store": "memcached", "servers": [memcached.address]},
            reputation={"nameservers": [f"127.0.0.1:{nameserver.port}"]},
        )
        seen = visit(site.url)
        cards = seen.page.locator("#cards")
        playwright.expect(cards).to_contain_text(f"{memcached.address} up")
        memcached.kill()
        site.send(5, "198.51.100.9")
        banner = seen.page.get_by_role("alert")
        playwright.expect(banner).to_contain_text("score.test refuses to answer (127.255.255.254)", timeout=30_000)
        playwright.expect(banner).to_contain_text(f"memcached {memcached.address}")
        playwright.expect(cards).to_contain_text(f"{memcached.address} down")
        playwright.expect(cards).to_contain_text("refuses")
        playwright.expect(cards).to_contain_text("refused 1")
        playwright.expect(cards).to_contain_text("999 today")
        assert seen.page.title().startswith("⚠")
        playwright.expect(client_row(seen.page, "198.51.100.9")).to_contain_text("refused")
        memcached.start()
        playwright.expect(cards).to_contain_text(f"{memcached.address} up", timeout=30_000)
        assert seen.complaints == []


def test_hostile_attributes_show_as_text(start_daemon: StartDaemon, visit: Callable[..., Visit]) -> None:
    """A hostile host name is shown as text and never becomes markup; neither does a hostile link."""
    site = Site(start_daemon)
    site.send(1, client_name=HOSTILE)
    site.send(1, "192.0.2.76", client_name="\u202e\x1b[31m")
    site.send(1, "192.0.2.77", client_name="a" * 5_000)
    seen = visit(site.url)
    row = client_row(seen.page)
    playwright.expect(row.locator(".client small")).to_have_text(HOSTILE[:100])
    playwright.expect(client_row(seen.page, "192.0.2.76").locator("small").first).to_have_text(r"\u202e\x1b[31m")
    assert seen.page.locator("img, main script").count() == 0
    assert "broken" not in seen.page.title()
    assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    seen.page.goto(f"{site.url}?filter={HOSTILE}&sort={HOSTILE}&show={HOSTILE}&rows={HOSTILE}")
    playwright.expect(seen.page.get_by_role("searchbox")).to_have_value(HOSTILE[:100])
    playwright.expect(client_row(seen.page)).to_have_count(1)
    assert seen.page.locator("img, main script").count() == 0
    assert "broken" not in seen.page.title()
    assert seen.complaints == []


def test_it_reads_filters_and_sorts_without_javascript(start_daemon: StartDaemon, visit: Callable[..., Visit]) -> None:
    """Without scripts, links and a form lead to every list."""
    site = Site(start_daemon)
    site.send(5)
    site.send(2, "192.0.2.76")
    site.send(3, "2001:db8::1", client_name="mx6.example.net")
    page = visit(site.url, java_script_enabled=False).page
    clients = page.locator("tbody .client b")
    playwright.expect(clients).to_have_text([CLIENT, "192.0.2.76", "2001:db8::/64"])
    page.get_by_role("columnheader", name="Count of limit").get_by_role("link").click()
    playwright.expect(clients).to_have_text([CLIENT, "2001:db8::/64", "192.0.2.76"])
    page.get_by_role("columnheader", name="Count of limit").get_by_role("link").click()
    playwright.expect(clients).to_have_text(["192.0.2.76", "2001:db8::/64", CLIENT])
    page.get_by_role("searchbox").fill("mx6")
    page.get_by_role("button", name="Apply").click()
    playwright.expect(clients).to_have_text(["2001:db8::/64"])
    page.get_by_role("searchbox").fill("192.0.2.0/24")
    page.get_by_role("button", name="Apply").click()
    playwright.expect(clients).to_have_text(["192.0.2.76", CLIENT])
    page.get_by_role("link", name="Limited now").click()
    playwright.expect(clients).to_have_text([CLIENT])
    page.get_by_role("searchbox").fill("nobody")
    page.get_by_role("button", name="Apply").click()
    playwright.expect(page.get_by_text("No client matches.")).to_be_visible()


def test_the_filter_works_as_one_types(start_daemon: StartDaemon, visit: Callable[..., Visit]) -> None:
    """With scripts, the list and the page's address follow the filter, and the typed text stays."""
    site = Site(start_daemon)
    site.send(1)
    site.send(1, "192.0.2.76")
    page = visit(site.url).page
    page.get_by_role("searchbox").press_sequentially("2.76")
    playwright.expect(page.locator("tbody .client b")).to_have_text(["192.0.2.76"])
    playwright.expect(page).to_have_url(f"{site.url}?filter=2.76")
    playwright.expect(page.get_by_role("searchbox")).to_be_focused()
    playwright.expect(page.get_by_role("searchbox")).to_have_value("2.76")


def test_it_asks_no_other_host(start_daemon: StartDaemon, visit: Callable[..., Visit]) -> None:
    """The page is one file from the daemon, and its Content-Security-Policy forbids everything else."""
    site = Site(start_daemon)
    site.send(1)
    seen = visit(site.url)
    headers = seen.page.reload().headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert all(re.fullmatch(r"'sha256-[\w+/=]{44}'", policy[kind]) for kind in ("script-src", "style-src"))
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert set(seen.requests) == {site.url}
    assert not re.search(
        r"""(?:src|href|action)=["'](?!\?|data:,|metrics|healthz|api/|clients/)""", seen.page.content()
    )
    assert seen.complaints == []


def test_it_says_when_the_daemon_is_gone(start_daemon: StartDaemon, visit: Callable[..., Visit]) -> None:
    """An open page says since when the daemon has not answered."""
    site = Site(start_daemon)
    page = visit(site.url).page
    playwright.expect(page.locator(".lost")).to_be_hidden()
    site.daemon.stop()
    playwright.expect(page.locator(".lost")).to_be_visible(timeout=30_000)
    playwright.expect(page.locator(".lost")).to_contain_text("no answer since")


def test_it_follows_the_visitors_colours_and_fits_a_phone(
    start_daemon: StartDaemon, visit: Callable[..., Visit]
) -> None:
    """Dark where the visitor prefers it; 360 pixels are wide enough for everything."""
    site = Site(start_daemon)
    site.send(6, client_name="a-very-long-host-name." * 4 + "example.net")

    def brightness(page: Any) -> int:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3]))

    assert brightness(visit(site.url, color_scheme="light").page) > 600
    assert brightness(visit(site.url, color_scheme="dark").page) < 150
    phone = visit(site.url, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True).page
    assert phone.evaluate("document.documentElement.scrollWidth") == 360
    playwright.expect(client_row(phone)).to_be_visible()
    playwright.expect(phone.get_by_label("Sort by")).to_be_visible()


def test_each_client_has_a_page(start_daemon: StartDaemon, visit: Callable[..., Visit]) -> None:
    """An address leads to its count, its limit with the reason, its last decisions and commands, without senders."""
    site = Site(start_daemon)
    site.send(6, client_name="mx.example.net", sender="private@example.org", queue_id="4TQueueId")
    seen = visit(site.url)
    page, expect = seen.page, playwright.expect
    page.get_by_role("link", name=CLIENT).click()
    expect(page).to_have_url(f"{site.url}clients/{CLIENT}")
    client = page.locator("#client")
    expect(client.get_by_role("heading", level=2)).to_have_text(f"{CLIENT} limited")
    expect(client).to_contain_text("mx.example.net")
    expect(client).to_contain_text("4 of 4")
    expect(client).to_contain_text("from an override")
    expect(client).to_contain_text(
        "Limit: 4 messages/hour (0-100). The [[override]] for 192.0.2.0/24 gives this client the score 75"
    )
    expect(client).to_contain_text(
        re.compile(r"in (1 h|5\d min)\s*one message, at .*\d\d:\d\d( \S+)?, if the client sends nothing before")
    )
    expect(page.locator("#decisions tbody tr")).to_have_count(6)
    expect(page.locator("#decisions tbody tr").first).to_contain_text(
        re.compile(r"over-limit\s*421\s*5\s*4\s*0-100\s*4TQ")
    )
    expect(page.get_by_text(f"senderscore-policy explain {CLIENT}")).to_be_visible()
    assert "private@example.org" not in page.content()
    site.daemon.run("reset", CLIENT)
    expect(client).to_contain_text("0 of 4", timeout=30_000)
    page.get_by_role("link", name="All clients").click()
    expect(page).to_have_url(site.url)
    assert seen.complaints == []


def test_an_ipv6_network_has_a_page(start_daemon: StartDaemon, visit: Callable[..., Visit]) -> None:
    """The link of a network leads to it; a host with a limit of its own has a page of its own."""
    own = [{"networks": ["2001:db8::25"], "limit": 7}, *LIMITED["override"]]
    site = Site(start_daemon, override=own)
    site.send(1, "2001:db8::1")
    site.send(2, "2001:db8::25")
    page = visit(site.url).page
    page.get_by_role("link", name="2001:db8::/64").click()
    playwright.expect(page.locator("#client")).to_contain_text(
        "The zone has no IPv6 and no private addresses, so [unscored] applies."
    )
    page.get_by_role("link", name="All clients").click()
    page.get_by_role("link", name="2001:db8::25/128").click()
    playwright.expect(page.locator("#client")).to_contain_text(
        "Limit: 7 messages/hour (override). The [[override]] for 2001:db8::25/128 gives this client a limit of its own."
    )
    assert [(each["client"], each["count"]) for each in site.daemon.json("get", "2001:db8::1", "2001:db8::25")] == [
        ("2001:db8::/64", 1),
        ("2001:db8::25/128", 2),
    ]


def test_the_filter_searches_all_clients(start_daemon: StartDaemon, visit: Callable[..., Visit]) -> None:
    """The filter finds a client that is too quiet for the list; the tabs count what it shows."""
    site = Site(start_daemon)
    with site.daemon.client() as postfix:
        for number in range(450):
            postfix.ask(f"198.51.{number // 250}.{number % 250}", client_name=f"host{number}.example.net")
    page = visit(site.url, java_script_enabled=False).page
    playwright.expect(page.locator("#list .note")).to_contain_text("busiest of 450 clients")
    for text in ("198.51.0.6", "198.51.0.6/32", "host449.", "198.51.1.199"):
        page.get_by_role("searchbox").fill(text)
        page.get_by_role("button", name="Apply").click()
        playwright.expect(page.locator("tbody tr")).to_have_count(1)
        playwright.expect(page.locator("#tabs")).to_contain_text(re.compile(r"All 1\s+Limited now 0"))
    page.get_by_role("searchbox").fill("203.0.113.9")
    page.get_by_role("button", name="Apply").click()
    playwright.expect(client_row(page, "203.0.113.9")).to_contain_text("0 of 4")


PEOPLE = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "forced colours": {"forced_colors": "active"},
    "dark forced colours": {"forced_colors": "active", "color_scheme": "dark"},
    "phone": {"viewport": {"width": 320, "height": 640}, "is_mobile": True, "has_touch": True},
}


@pytest.mark.parametrize("options", PEOPLE.values(), ids=PEOPLE)
def test_the_pages_are_accessible(
    start_daemon: StartDaemon, visit: Callable[..., Visit], options: dict[str, Any], tmp_path: Path
) -> None:
    """Axe finds nothing on the pages, those of errors included, and in a forecast; 320 pixels are wide enough."""
    own = "2001:db8:1111:2222:3333:4444:5555:6666"
    site = Site(start_daemon, override=[{"networks": [own], "limit": 1}, *LIMITED["override"]])
    site.send(6, client_name="a-very-long-host-name." * 4 + "example.net")
    site.send(2, own, client_name="a" * 250)
    log = tmp_path / "mail.log"
    log.write_text(
        "".join(
            f"Nov 26 10:{number // 60:02}:{number % 60:02} mx postfix/{line}\n"
            for number in range(900)
            for line in (
                f"smtpd[7]: 4T{number:06}: client=mx.example.net[{CLIENT}]",
                f"cleanup[8]: 4T{number:06}: message-id=<{number}@example.net>",
                f"qmgr[9]: 4T{number:06}: from=<a@example.net>, size=5, nrcpt=1 (queue active)",
            )
        )
    )
    done = site.daemon.run("forecast", "--html", str(tmp_path / "forecast.html"), str(log))
    assert done.returncode == 0, done.stderr
    paths = ("", "?show=deferred&rows=all", f"clients/{CLIENT}", f"clients/{own}", "clients/" + "x" * 300, "none/such")
    for url in (*(site.url + path for path in paths), f"file://{tmp_path}/forecast.html"):
        page = visit(url, bypass_csp=True, **options).page
        result = axe.Axe().run(page)
        assert result.violations_count == 0, result.generate_report()
        # On a phone innerWidth grows with what is too wide.
        width = page.viewport_size["width"]
        assert page.evaluate("document.documentElement.scrollWidth") <= width, url
        tables = page.locator("table")
        for index in range(tables.count()):
            assert tables.nth(index).locator("caption").count() == 1, url


def test_the_chosen_tab_is_visible_in_forced_colours(start_daemon: StartDaemon, visit: Callable[..., Visit]) -> None:
    """The chosen tab has a border of its own, because the system replaces its background."""
    page = visit(Site(start_daemon).url, forced_colors="active").page
    widths = page.locator("#tabs a").evaluate_all("tabs => tabs.map(tab => getComputedStyle(tab).borderTopWidth)")
    assert widths[0] != widths[1]


def test_times_have_their_zone(start_daemon: StartDaemon, visit: Callable[..., Visit]) -> None:
    """A visitor from another zone reads the host's times without doubt."""
    site = Site(start_daemon)
    site.send(1)
    page = visit(site.url, timezone_id="Pacific/Auckland").page
    zone = datetime.now().astimezone().tzname() or ""
    playwright.expect(page.locator(".updated")).to_have_text(re.compile(rf"updated \d\d:\d\d:\d\d {re.escape(zone)}"))
    playwright.expect(page.locator(".times")).to_contain_text(zone)


def test_a_foreign_page_reads_nothing(start_daemon: StartDaemon) -> None:
    """A name that an attacker lets resolve to 127.0.0.1 is refused (DNS rebinding); the host's own names are served."""
    site = Site(start_daemon)
    site.send(1)
    for path in ("/", "/api/clients", f"/clients/{CLIENT}", "/metrics"):
        status, body = answer(site.port, path, "evil.example")
        # The error names the path of the request.
        assert (status, CLIENT in body.replace(path, "")) == (421, False)
    for host in ("localhost", f"127.0.0.1:{site.port}", socket.gethostname()):
        assert answer(site.port, "/api/clients", host)[0] == 200


def test_the_metrics_listener_shows_no_client(start_daemon: StartDaemon) -> None:
    """Prometheus on another host gets numbers and the health by any name, and nothing else."""
    site = Site(start_daemon)
    site.send(1)
    wait_for_listener(site.metrics)
    assert answer(site.metrics, "/healthz", "mx1.internal")[1].startswith(("ready", "degraded"))
    status, body = answer(site.metrics, "/metrics", "mx1.internal")
    assert (status, "senderscore_policy_requests_total" in body) == (200, True)
    for path in ("/", "/api/status", "/api/clients", f"/clients/{CLIENT}", f"/api/clients/{CLIENT}"):
        assert answer(site.metrics, path)[0] == 404
