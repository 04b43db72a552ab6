"""The command `top`."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_fakes import ControlDaemon, Run, closed

from senderscore_policy.commands.top import COLUMNS, cells, rows, screen, sparkline, summary

CLIENT = {
    "client": "192.0.2.75", "count": 800, "deferred": 3, "score": 75, "reputation": "scored", "tier": "71-80",
    "limit": 800, "left": 0, "state": "limited", "opens_in": 700, "name": "mx.example.net", "seen_at": 100,
}  # fmt: skip


def client(**changes: Any) -> dict[str, Any]:
    """A client in the daemon's answer."""
    return CLIENT | changes


def status(*clients: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The answer of /api/status."""
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


def test_the_numbers_above_the_table() -> None:
    """Requests of the last full minute and of the hour, the clients, and the queries."""
    shown = status(client(), client(client="192.0.2.9", state="near"))
    assert summary(shown) == [
        "daemon: ready",
        "requests: 8 in the last minute, 9 in the last hour, 2 deferred",
        "clients: 1 limited now, 1 near the limit",
        "score queries: 4 of 1,000 today, 40 of 10,000 in 30 days",
    ]
    shown["service"]["mode"] = "observe"
    assert summary(shown | {"minutes": []})[:2] == [
        "daemon: ready (observe: no message is deferred)",
        "requests: 0 in the last minute, 0 in the last hour, 0 deferred",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "now"), (59, "59 s"), (61, "2 min"), (3600, "1 h"), (7201, "2 h 1 min"), (None, "never")]
)
def test_waits_in_words(seconds: int | None, words: str) -> None:
    """Rounded up, in one unit."""
    assert cells(client(opens_in=seconds))[8] == words


def test_the_order_is_nearest_the_limit_first(run: Run, daemon: ControlDaemon, file: Path) -> None:
    """Limited clients, then near ones, then by the share of the limit that is used."""
    clients = [
        client(client="a", state="unlimited", limit="unlimited", deferred=0),
        client(client="b", state="within", count=10, deferred=0),
        client(client="c", state="near", count=700, deferred=0),
        client(client="d", deferred=0),
        client(client="e", deferred=9),
        client(client="f", state="within", count=400, deferred=0),
    ]
    daemon.answers["GET /api/status"] = (200, status(*clients))
    shown = json.loads(run("top", "--json", "-c", str(file))[1])
    assert [row["client"] for row in shown["clients"]] == ["e", "d", "c", "f", "b", "a"]
    shown = json.loads(run("top", "--json", "--clients", "2", "-c", str(file))[1])
    assert [row["client"] for row in shown["clients"]] == ["e", "d"]


def test_nothing_controls_the_terminal() -> None:
    """Whatever a daemon or a client sends is shown as text."""
    whole = status(client(name="\x1b[2J\u202e[red]"), health="degraded: \x1b]0;x\x07")
    assert cells(whole["clients"][0])[9] == "?[2J?[red]"
    from rich.console import Console, Group

    console = Console(width=150, force_terminal=False)
    with console.capture() as shown:
        console.print(Group(*screen(whole, 150, 30, None)))
    assert "\x1b" not in shown.get()
    assert "?[2J?[red]" in shown.get()
    assert "degraded: ?]0;x?" in shown.get()


@pytest.mark.parametrize("width", [60, 200])
def test_the_screen_fits_the_terminal(width: int) -> None:
    """It shows as many clients as there is room for, and the number of the others."""
    from rich.console import Console, Group

    whole = status(*(client(client=f"192.0.2.{number}") for number in range(50)))
    console = Console(width=width, force_terminal=False)
    with console.capture() as shown:
        console.print(Group(*screen(whole, width, 24, None)))
    lines = shown.get().splitlines()
    assert len(lines) <= 23
    assert max(map(len, lines)) <= width
    assert sum("192.0.2." in line for line in lines) == (15 if width == 200 else 14)
    assert f"{35 if width == 200 else 36} more" in lines[-1]


def test_sparkline() -> None:
    """Minutes as bars, the busiest one highest; one request is visible next to a thousand."""
    assert sparkline([0, 1, 500, 1000]) == " ▁▄█"
    assert sparkline([]) == ""


def test_the_daemon_of_this_host(run: Run, daemon: ControlDaemon, file: Path) -> None:
    """By its control socket; for scripts a table without colours."""
    daemon.answers["GET /api/status"] = (200, status(client(), client(client="192.0.2.9", state="near")))
    code, printed, errors = run("top", "--once", "-c", str(file))
    assert (code, errors) == (0, "")
    head, _, table = printed.partition("\n\n")
    assert head.splitlines()[0] == "daemon: ready"
    assert "score queries: 4 of 1,000 today, 40 of 10,000 in 30 days" in head
    assert table.splitlines()[1].split() == [
        "limited", "192.0.2.75", "75", "71-80", "800", "800", "0", "3", "12", "min", "mx.example.net",
    ]  # fmt: skip
    _, printed, _ = run("top", "--once", "--clients", "1", "-c", str(file))
    assert "192.0.2.9" not in printed


def test_json(run: Run, daemon: ControlDaemon, file: Path) -> None:
    """Programs get the whole status of the daemon."""
    daemon.answers["GET /api/status"] = (200, status(client()))
    code, printed, _ = run("top", "--json", "-c", str(file))
    assert code == 0
    whole = json.loads(printed)
    assert whole == status(client())


@pytest.mark.parametrize("answer", [b"nonsense", b"[]", b"{}", b'{"clients": [7]}'])
def test_another_program_on_the_socket_is_exit_69(run: Run, daemon: ControlDaemon, file: Path, answer: bytes) -> None:
    """One line says so."""
    daemon.answers["GET /api/status"] = (200, answer)
    code, printed, errors = run("top", "--once", "-c", str(file))
    assert (code, printed) == (69, "")
    assert len(errors.splitlines()) == 1


IPV6 = client(client="2001:db8:25:abcd::/64", limit="unlimited", left="unlimited", state="unlimited", tier="unscored")


@pytest.mark.parametrize(
    ("width", "dropped"),
    [
        (None, set()),
        (140, set()),
        (110, set()),
        (80, {"tier", "left", "name"}),
        (60, {"tier", "left", "name", "deferred", "score"}),
        (40, {"tier", "left", "name", "deferred", "score", "again in", "limit"}),
        (21, {*COLUMNS} - {"client"}),
    ],
)
def test_a_narrow_terminal_has_fewer_columns(width: int | None, dropped: set[str]) -> None:
    """An address is never cut, so that it can be pasted; the name takes what is left."""
    head, *lines = rows([client(name="a" * 200), IPV6], width)
    shown = [name for name in COLUMNS if f" {name} " in f" {head} "]
    assert set(COLUMNS) - set(shown) == dropped
    assert all("192.0.2.75" in line or "2001:db8:25:abcd::/64" in line for line in lines)
    assert width is None or max(map(len, [head, *lines])) <= width


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
