"""The command `top`."""

import json
import socketserver
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from command_fakes import ControlDaemon, Run, closed, running

from senderscore_policy.commands.top import Report, added_up, cells, screen, sparkline, status_listener

CLIENT = {
    "client": "192.0.2.75", "count": 800, "deferred": 3, "score": 75, "reputation": "scored", "tier": "71-80",
    "limit": 800, "left": 0, "place": "limited", "opens_in": 700, "name": "mx.example.net", "seen_at": 100,
}  # fmt: skip


def client(**changes: Any) -> dict[str, Any]:
    """A client as a daemon tells of it."""
    return CLIENT | changes


def overview(*clients: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What /api/status gives."""
    return {
        "time": 1_700_000_040,
        "health": "ready",
        "service": {"mode": "enforce", "version": "1.0"},
        "scores": {"used": 40, "limit": 10000, "used_today": 4, "daily_limit": 1000},
        "minutes": [
            {"start": 1_699_999_980, "passed": {"71-80": 5, "none": 1}, "deferred": {"71-80": 2}},
            {"start": 1_700_000_040, "passed": {"71-80": 1}, "deferred": {}},
        ],
        "clients": list(clients),
    } | changes


def merged(*told: dict[str, Any]) -> dict[str, Any]:
    """One client that each of these daemons tells of."""
    (row,) = added_up([Report(str(number), overview(each)) for number, each in enumerate(told)])["clients"]
    return row


def test_daemons_are_added_up() -> None:
    """Decisions and queries are; a count is not, for the counters are shared; deferrals are each daemon's own."""
    first = overview(client(count=799, left=1, place="near", opens_in=None), client(client="192.0.2.9", place="within"))
    second = overview(client(count=800, deferred=4))
    whole = added_up([Report("mx1", first), Report("mx2", second), Report("mx3", None, "mx3 does not answer")])
    assert whole["requests_last_minute"] == 16
    assert whole["requests_last_hour"] == 18
    assert whole["deferred_last_hour"] == 4
    assert whole["queries"] == {"used": 80, "limit": 20000, "used_today": 8, "daily_limit": 2000}
    assert [daemon["health"] for daemon in whole["daemons"]] == ["ready", "ready", "mx3 does not answer"]
    row = whole["clients"][0]
    assert (row["count"], row["left"], row["deferred"], row["place"], row["opens_in"]) == (800, 0, 7, "limited", 700)


def test_the_daemon_that_knows_the_score_says_the_limit() -> None:
    """Another one, which has not asked yet, goes by the smallest limit."""
    knows = client(count=100, place="within", opens_in=None)
    row = merged(
        knows, client(count=101, score=None, reputation="not-asked", tier="not-asked", limit=100, place="near")
    )
    assert (row["score"], row["limit"], row["count"], row["left"], row["place"]) == (75, 800, 101, 699, "within")


def test_the_longest_wait_stands() -> None:
    """A client is told to be let in again where every daemon will; with a limit of 0 that is never."""
    assert merged(client(opens_in=700), client(opens_in=702), client(place="near", opens_in=None))["opens_in"] == 702
    never = merged(client(limit=0, count=0, opens_in=None))
    assert (never["place"], never["opens_in"]) == ("limited", None)
    assert cells(never)[8] == "never"


def test_no_limit_is_added_up_too() -> None:
    """A client without a limit has none, however much it sends."""
    row = merged(
        client(limit="unlimited", left="unlimited", place="unlimited", opens_in=None), client(limit="unlimited")
    )
    assert (row["left"], row["place"]) == ("unlimited", "unlimited")


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "now"), (59, "59 s"), (61, "2 min"), (3600, "60 min"), (7201, "3 h"), (None, "never")]
)
def test_waits_in_words(seconds: int | None, words: str) -> None:
    """Rounded up, in one unit."""
    assert cells(client(opens_in=seconds))[8] == words


def test_the_order_is_nearest_the_limit_first() -> None:
    """Limited clients, then near ones, then by the share of the limit that is used."""
    clients = [
        client(client="a", place="unlimited", limit="unlimited", deferred=0),
        client(client="b", place="within", count=10, deferred=0),
        client(client="c", place="near", count=700, deferred=0),
        client(client="d", deferred=0),
        client(client="e", deferred=9),
        client(client="f", place="within", count=400, deferred=0),
    ]
    whole = added_up([Report("mx1", overview(*clients))])
    assert [row["client"] for row in whole["clients"]] == ["e", "d", "c", "f", "b", "a"]
    assert (whole["limited"], whole["near"]) == (2, 1)


def test_nothing_controls_the_terminal() -> None:
    """Whatever a daemon or a client sends is shown as text."""
    whole = added_up([Report("mx1", overview(client(name="\x1b[2J\u202e[red]"), health="degraded: \x1b]0;x\x07"))])
    assert cells(whole["clients"][0])[9] == "?[2J?[red]"
    from rich.console import Console

    console = Console(width=150, force_terminal=False)
    with console.capture() as shown:
        console.print(screen(whole, 30, None))
    assert "\x1b" not in shown.get()
    assert "?[2J?[red]" in shown.get()
    assert "degraded: ?]0;x?" in shown.get()


@pytest.mark.parametrize("width", [60, 200])
def test_the_screen_fits_the_terminal(width: int) -> None:
    """It shows as many clients as there is room for, and says how many there are besides."""
    from rich.console import Console

    whole = added_up([Report("mx1", overview(*(client(client=f"192.0.2.{number}") for number in range(50))))])
    console = Console(width=width, force_terminal=False)
    with console.capture() as shown:
        console.print(screen(whole, 24, None))
    lines = shown.get().splitlines()
    assert len(lines) <= 23
    assert max(map(len, lines)) <= width
    assert sum("192.0.2." in line for line in lines) == 14
    assert "36 more" in lines[-1]


def test_sparkline() -> None:
    """Minutes as bars, the busiest one highest; one request is seen beside a thousand."""
    assert sparkline([0, 1, 500, 1000]) == " ▁▄█"
    assert sparkline([]) == ""


@pytest.mark.parametrize(
    "text", ["mx1:10046", "ftp://mx1", "http://", "http://mx1/path", "http://mx1:port", "http://m?x"]
)
def test_an_endpoint_is_an_address(run: Run, text: str) -> None:
    """Anything else is wrong usage."""
    status, _, errors = run("top", "--endpoint", text)
    assert status == 64
    assert len(errors.splitlines()) == 1
    with pytest.raises(ValueError, match=r"form|[Pp]ort"):
        status_listener(text)


class Listener(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A status listener that gives one answer."""

    daemon_threads = True

    def __init__(self, answer: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Listener

    def do_GET(self) -> None:
        assert self.path == "/api/status"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.answer)

    def log_message(self, *_: Any) -> None:
        """Tests have no access log."""


@pytest.fixture
def listener() -> Iterator[Listener]:
    """A daemon's status listener."""
    with running(Listener(json.dumps(overview(client())).encode())) as server:
        yield server


def test_the_daemon_of_this_host(run: Run, daemon: ControlDaemon, file: Path) -> None:
    """By its control socket; for scripts a table without colours."""
    daemon.answers["GET /api/status"] = (200, overview(client(), client(client="192.0.2.9", place="near")))
    status, printed, errors = run("top", "--once", "-c", str(file))
    assert (status, errors) == (0, "")
    head, _, table = printed.partition("\n\n")
    assert head.splitlines()[0] == "this host: ready"
    assert "score queries: 4 of 1,000 today, 40 of 10,000 in 30 days" in head
    assert table.splitlines()[1].split() == [
        "limited", "192.0.2.75", "75", "71-80", "800", "800", "0", "3", "12", "min", "mx.example.net",
    ]  # fmt: skip
    status, printed, _ = run("top", "--once", "--clients", "1", "-c", str(file))
    assert "192.0.2.9" not in printed


def test_json(run: Run, listener: Listener) -> None:
    """Programs get all of it, also of daemons that do not answer."""
    status, printed, _ = run("top", "--json", "--endpoint", listener.endpoint, "--endpoint", "http://127.0.0.1:9")
    assert status == 0
    whole = json.loads(printed)
    assert [daemon["answers"] for daemon in whole["daemons"]] == [True, False]
    assert whole["clients"][0] == client()


@pytest.mark.parametrize("answer", [b"nonsense", b"[]", b"{}", b'{"clients": [7]}'])
def test_what_is_no_daemon_is_exit_69(run: Run, answer: bytes) -> None:
    """One line says so."""
    with running(Listener(answer)) as server:
        status, printed, errors = run("top", "--once", "--endpoint", server.endpoint)
    assert (status, printed) == (69, "")
    assert len(errors.splitlines()) == 1
    assert server.endpoint in errors


def test_without_a_daemon_it_is_exit_69(run: Run, file: Path) -> None:
    """One line says that none is running."""
    status, _, errors = run("top", "--once", "-c", str(file))
    assert status == 69
    assert "no daemon is running" in errors


def test_a_socket_that_denies_access_is_exit_77(run: Run, daemon: ControlDaemon, file: Path, place: Path) -> None:
    """Never a silent detour."""
    assert daemon.answers == {}
    with closed(place / "control.sock"):
        status, _, errors = run("top", "--once", "-c", str(file))
    assert status == 77
    assert "permission denied" in errors


@pytest.mark.parametrize("arguments", [["--clients", "0"], ["--interval", "0.1"], ["--interval", "x"], ["192.0.2.1"]])
def test_wrong_usage(run: Run, arguments: list[str]) -> None:
    """Exit status 64 and one line."""
    status, _, errors = run("top", *arguments)
    assert status == 64
    assert len(errors.splitlines()) == 1
