"""The commands `get`, `score`, `increment` and `reset`, with a daemon's control socket."""

import json
import socket
import threading
from pathlib import Path

import pytest
from command_fakes import SCORE, STANDING, ControlDaemon, Run, closed

from senderscore_policy.config import paths

ADDRESS = "192.0.2.75"
UNKNOWN = STANDING | {
    "client": "2001:db8::/64", "count": 5, "deferred": 0, "score": None, "reputation": "unknown", "tier": "unscored",
    "limit": "unlimited", "left": "unlimited",
}  # fmt: skip


def test_get_shows_a_table(run: Run, daemon: ControlDaemon, file: Path) -> None:
    """One line for each client, aligned; an unknown score is a dash."""
    daemon.answers["GET /api/clients/192.0.2.75"] = 200, STANDING
    daemon.answers["GET /api/clients/2001:db8::25"] = 200, UNKNOWN
    status, out, err = run("get", ADDRESS, "2001:db8::25", "-c", str(file))
    assert (status, err) == (0, "")
    assert (
        out
        == """\
client         count  deferred  score  reputation  tier          limit       left
192.0.2.75       801         1     75  scored      71-80           800          0
2001:db8::/64      5         0      -  unknown     unscored  unlimited  unlimited
"""
    )


def test_get_json(run: Run, daemon: ControlDaemon, file: Path) -> None:
    """An array of objects with the documented keys."""
    daemon.answers["GET /api/clients/192.0.2.75"] = 200, STANDING
    status, out, _ = run("get", "--json", "-c", str(file), ADDRESS)
    assert status == 0
    assert json.loads(out) == [STANDING]


@pytest.mark.parametrize("position", range(4))
def test_the_file_may_be_named_anywhere(run: Run, daemon: ControlDaemon, file: Path, position: int) -> None:
    """-c FILE may come before, between or after the addresses."""
    daemon.answers["GET /api/clients/192.0.2.75"] = 200, STANDING
    arguments = ["--json", ADDRESS, ADDRESS]
    status, out, _ = run("get", *arguments[:position], "-c", str(file), *arguments[position:])
    assert status == 0
    assert json.loads(out) == [STANDING, STANDING]


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("::ffff:192.0.2.75", "192.0.2.75"),
        ("2001:DB8:0::25", "2001:db8::25"),
        ("2001:db8::/64", "2001:db8::%2F64"),
        ("mx.example.net[192.0.2.75]", "192.0.2.75"),
        ("[192.0.2.75]", "192.0.2.75"),
        ("[192.0.2.75]:4711", "192.0.2.75"),
        ("client=mx.example.net[192.0.2.75],", "192.0.2.75"),
        ("client=192.0.2.75", "192.0.2.75"),
        ("client_address=192.0.2.75", "192.0.2.75"),
        ("unknown[2001:db8::25]", "2001:db8::25"),
        ("[IPv6:2001:db8::25]", "2001:db8::25"),
        ("IPv6:2001:db8::25", "2001:db8::25"),
        ("2001:db8::25:", "2001:db8::25"),
        ("2001:db8::25/128", "2001:db8::25"),
        ("192.0.2.75:25", "192.0.2.75"),
        ("192.0.2.75/32", "192.0.2.75"),
        ("mx.example.net[192.0.2.75]:", "192.0.2.75"),
        ("connect from mx.example.net[192.0.2.75]", "192.0.2.75"),
        ("mx.example.net (mx.example.net [192.0.2.75])", "192.0.2.75"),
        ("rhost=<192.0.2.75>.", "192.0.2.75"),
    ],
)
def test_addresses_may_be_written_in_any_way(
    run: Run, daemon: ControlDaemon, file: Path, given: str, asked: str
) -> None:
    """Also as `get` itself shows an IPv6 client."""
    daemon.answers[f"GET /api/clients/{asked}"] = 200, UNKNOWN
    assert run("get", given, "-c", str(file))[0] == 0


def test_increment_counts_so_many(run: Run, daemon: ControlDaemon, file: Path) -> None:
    """--by N, else one; the output is the client's status after that."""
    daemon.answers["POST /api/clients/192.0.2.75/increment"] = 200, STANDING
    status, out, _ = run("increment", ADDRESS, "--by", "800", "-c", str(file))
    assert status == 0
    assert "801" in out
    run("increment", "-c", str(file), ADDRESS, "--json")
    assert [json.loads(body) for _, body in daemon.requests] == [{"by": 800}, {"by": 1}]


def test_reset_says_who_follows_later(run: Run, daemon: ControlDaemon, file: Path) -> None:
    """With memcached other daemons keep what they know for up to a minute."""
    note = "other daemons follow within 60 s"
    daemon.answers["POST /api/clients/192.0.2.75/reset"] = 200, STANDING | {"count": 0, "note": note}
    status, out, _ = run("reset", ADDRESS, "-c", str(file))
    assert status == 0
    assert out.endswith(f"\n\n{note}\n")
    status, out, _ = run("reset", "--json", ADDRESS, "-c", str(file))
    assert json.loads(out) == [STANDING | {"count": 0}]


def test_reset_of_a_network_shows_each_client(run: Run, daemon: ControlDaemon, file: Path) -> None:
    """The daemon knows which clients of the network have a count."""
    clients = [STANDING | {"client": f"192.0.2.{number}", "count": 0, "note": ""} for number in (7, 8)]
    daemon.answers["POST /api/clients/192.0.2.0%2F24/reset"] = 200, {"clients": clients}
    status, out, _ = run("reset", "192.0.2.0/24", "-c", str(file))
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == ["client", "192.0.2.7", "192.0.2.8"]


def test_reset_of_a_single_daemon_has_no_note(run: Run, daemon: ControlDaemon, file: Path) -> None:
    """No other daemon shares these counters."""
    daemon.answers["POST /api/clients/192.0.2.75/reset"] = 200, STANDING | {"note": ""}
    assert len(run("reset", ADDRESS, "-c", str(file))[1].splitlines()) == 2


@pytest.mark.parametrize(
    ("age", "shown"), [(0, "0 s"), (59, "59 s"), (330, "6 min"), (7200, "2 h"), (90000, "1 d 1 h")]
)
def test_score_shows_source_and_age(run: Run, daemon: ControlDaemon, file: Path, age: int, shown: str) -> None:
    """The age in words for people, in seconds for programs."""
    daemon.answers["GET /api/scores/192.0.2.75"] = 200, SCORE | {"age": age}
    status, out, _ = run("score", ADDRESS, "-c", str(file))
    assert status == 0
    assert out.splitlines()[1].split() == ["192.0.2.75", "75", "scored", "71-80", "800", "cache", *shown.split()]
    assert json.loads(run("score", ADDRESS, "--json", "-c", str(file))[1]) == [SCORE | {"age": age}]


def test_an_error_of_the_daemon_is_passed_on(run: Run, daemon: ControlDaemon, file: Path) -> None:
    """Status 69 and the daemon's own words."""
    daemon.answers["GET /api/clients/192.0.2.75"] = 500, {"error": "out of counters"}
    status, out, err = run("get", ADDRESS, "-c", str(file))
    assert (status, out) == (69, "")
    assert err == "senderscore-policy: the daemon reports: out of counters\n"


@pytest.mark.parametrize("answer", [b"hello", b"[]", b"\xff"])
def test_a_stranger_on_the_socket_is_recognized(run: Run, daemon: ControlDaemon, file: Path, answer: bytes) -> None:
    """Another program on the socket does not cause a traceback."""
    daemon.answers["GET /api/clients/192.0.2.75"] = 200, answer
    status, _, err = run("get", ADDRESS, "-c", str(file))
    assert status == 69
    assert "another program than senderscore-policy listens" in err


def test_a_daemon_that_breaks_off_is_reported(run: Run, file: Path, place: Path) -> None:
    """One line that names the socket."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "control.sock"))
        listener.listen()
        hang_up = threading.Thread(target=lambda: listener.accept()[0].close())  # noqa: PLW0108 - accept() waits
        hang_up.start()
        status, _, err = run("get", ADDRESS, "-c", str(file))
        hang_up.join()
    assert status == 69
    assert f"the daemon on {place}/control.sock broke off" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("command", ["get", "increment", "reset"])
def test_without_a_daemon_the_place_is_named(run: Run, file: Path, place: Path, command: str) -> None:
    """Status 69; counters in memory are with the daemon alone."""
    status, out, err = run(command, ADDRESS, "-c", str(file))
    assert (status, out) == (69, "")
    assert err == f"senderscore-policy: no daemon is running: no answer on {place}/control.sock\n"


def test_every_place_that_was_tried_is_named(
    run: Run, place: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `listen.control` there are several; one that a killed daemon left behind is passed over."""
    file.write_text("")
    monkeypatch.setattr(paths, "SYSTEM_CONTROL", place / "system.sock")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place / "run"))
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(place / "system.sock"))
    status, _, err = run("get", ADDRESS, "-c", str(file))
    assert status == 69
    own = [f"{place}/run/senderscore-policy", f"{place}/.local/state/senderscore-policy"]
    assert err.endswith(f"on {place}/system.sock or {own[0]}/control.sock or {own[1]}/control.sock\n")


def test_a_socket_behind_a_missing_one_is_found(
    run: Run, daemon: ControlDaemon, place: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon in the foreground is reached without naming its socket."""
    file.write_text("")
    daemon.answers["GET /api/clients/192.0.2.75"] = 200, STANDING
    monkeypatch.setattr(paths, "SYSTEM_CONTROL", place / "system.sock")
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(place))
    assert run("get", ADDRESS, "-c", str(file))[0] == 0


@pytest.mark.parametrize("command", ["get", "increment", "reset", "score"])
@pytest.mark.parametrize("obstacle", ["run", "run/control.sock"])
def test_a_socket_that_denies_access_is_77(run: Run, place: Path, file: Path, command: str, obstacle: str) -> None:
    """Never a silent detour past the daemon; the line says what to do."""
    (place / "run").mkdir()
    file.write_text(f'listen.control = "{place}/run/control.sock"\ncounters.store = "memcached"\n')
    with ControlDaemon(place / "run" / "control.sock") as daemon, closed(place / obstacle):
        status, out, err = run(command, ADDRESS, "-c", str(file))
    assert (status, out) == (77, "")
    assert "run/control.sock: permission denied; run this as root or as a member of the " in err
    assert len(err.splitlines()) == 1
    assert daemon.requests == []
