"""The command `doctor` with a daemon's control socket; the integration tests have the real servers."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from command_fakes import ControlDaemon, Run, closed

from senderscore_policy import __version__

SERVICE = {"version": __version__, "mode": "enforce", "started_at": 0.0}
SCORES = {"zone_state": "answers", "state": "ok", "used": 0, "limit": 10000, "used_today": 0, "daily_limit": 1000}
STATUS: dict[str, Any] = {"service": SERVICE, "health": "ready", "scores": SCORES}


@pytest.fixture
def file(place: Path) -> Path:
    """A configuration file whose policy socket and nameserver are closed."""
    path = place / "policy.toml"
    path.write_text(f"""
[listen]
control = "{place}/control.sock"
policy = ["unix:{place}/policy.sock"]
[reputation]
zone = "score.test"
nameservers = ["127.0.0.1:9"]
""")
    return path


def own(file: Path) -> dict[str, Any]:
    """What a healthy daemon says at /api/daemon."""
    return {"file": str(file), "read_at": 2e9, "policy": [], "state": "ok", "last_request_at": None}


def report(run: Run, file: Path, *arguments: str) -> tuple[int, dict[str, list[str]]]:
    """Exit status, and by check the statuses with details and remedies, of `doctor --json`."""
    arguments = ("doctor", "--json", "-c", str(file), "--postfix-config", f"{file.parent}/no-postfix", *arguments)
    status, out, err = run(*arguments)
    assert err == ""
    found: dict[str, list[str]] = {}
    for finding in json.loads(out):
        assert list(finding) == ["check", "status", "detail", "remedy"]
        text = f"{finding['status']} {finding['detail']}; {finding['remedy']}"
        found.setdefault(finding["check"], []).append(text)
    return status, found


def test_each_check_is_one_line(run: Run, file: Path) -> None:
    """Status, check, what was found, and for what is not fine the remedy; 69, as something failed."""
    status, out, err = run("doctor", "-c", str(file), "--postfix-config", f"{file.parent}/no-postfix")
    assert (status, err) == (69, "")
    lines = out.splitlines()
    assert all(re.match(r"(OK   |WARN |FAIL ) \w+ +\S", line) for line in lines)
    daemon = lines[0]
    assert daemon.startswith("FAIL  daemon         no daemon is running: no answer on ")
    assert ". Remedy: systemctl start senderscore-policy" in daemon


@pytest.mark.parametrize("obstacle", ["run", "run/control.sock"])
def test_an_ordinary_user_gets_the_checks_that_need_no_privilege(
    run: Run, place: Path, file: Path, obstacle: str
) -> None:
    """The daemon could not be seen, which is a warning that says who may; all other checks run."""
    (place / "run").mkdir()
    file.write_text(file.read_text().replace("/control.sock", "/run/control.sock"))
    with ControlDaemon(place / "run" / "control.sock"), closed(place / obstacle):
        _, found = report(run, file)
    assert "run/control.sock: permission denied; run this as root or as a member of the " in found["daemon"][0]
    assert found["daemon"][0].startswith("WARN not looked at: ")
    assert {"policy", "postfix", "counters", "zone", "resolver", "clock"} <= found.keys()


@pytest.mark.parametrize("command", [["explain", "192.0.2.75"], ["explain", "4ABC"]])
@pytest.mark.parametrize("obstacle", ["run", "run/control.sock"])
def test_a_control_socket_that_denies_access_is_77(
    run: Run, place: Path, file: Path, command: list[str], obstacle: str
) -> None:
    """Never a silent detour: one line that says who may, and no report."""
    (place / "run").mkdir()
    file.write_text(f'listen.control = "{place}/run/control.sock"\n')
    with ControlDaemon(place / "run" / "control.sock"), closed(place / obstacle):
        status, out, err = run(*command, "-c", str(file))
    assert (status, out) == (77, "")
    assert "run/control.sock: permission denied; run this as root or as a member of the " in err
    assert len(err.splitlines()) == 1


def test_a_file_with_mistakes_is_a_failure_and_every_other_check_runs(
    run: Run, daemon: ControlDaemon, file: Path
) -> None:
    """Each mistake is a line, and what is valid in the file still leads to the daemon."""
    daemon.answers["GET /api/status"] = 200, STATUS
    daemon.answers["GET /api/daemon"] = 200, own(file)
    file.write_text(f"mod = 1\n{file.read_text()}lookup = 7\n")
    status, found = report(run, file)
    assert status == 69
    mistakes = [text for text in found["configuration"] if text.startswith("FAIL")]
    assert [part for part in ("mod: ", "reputation.lookup: ") if not any(part in text for text in mistakes)] == []
    assert all(f"check-config -c {file}" in text for text in mistakes)
    assert found["daemon"][0].startswith("OK ")
    assert "zone" in found


def test_the_file_of_the_running_daemon_is_read(
    run: Run, daemon: ControlDaemon, file: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without -c, doctor asks the zone that the daemon asks."""
    other = place / "other.toml"
    other.write_text(f'listen.control = "{place}/control.sock"\n')
    monkeypatch.setattr("senderscore_policy.config.paths.CONFIG_FILE", other)
    daemon.answers["GET /api/status"] = 200, STATUS
    daemon.answers["GET /api/daemon"] = 200, own(file)
    _, out, _ = run("doctor", "--postfix-config", f"{place}/no-postfix")
    assert f"OK    configuration  the daemon uses {file}" in out
    assert "score.test about 127.0.0.1" in out


def test_a_daemon_that_is_no_daemon(run: Run, daemon: ControlDaemon, file: Path) -> None:
    """Something else answers on the control socket."""
    daemon.answers["GET /api/status"] = 200, b"<html>"
    status, found = report(run, file)
    assert status == 69
    assert found["daemon"][0].startswith(
        f"FAIL another program than senderscore-policy listens on {file.parent}/control.sock"
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (({}, {}), {"daemon": "OK version ", "configuration": "OK ", "state": "OK ", "budget": "OK 0 of 1000 "}),
        (({"service": SERVICE | {"version": "0.0.1"}}, {}), {"daemon": "WARN the daemon still runs version 0.0.1"}),
        (({"health": "degraded: x"}, {}), {"daemon": "WARN degraded: x; see "}),
        (({}, {}), {"scores": "OK the score zone as the daemon sees it: answers"}),
        (
            ({"scores": SCORES | {"zone_state": "not asked yet"}}, {}),
            {"scores": "OK the score zone as the daemon sees it: "},
        ),
        (
            ({"scores": SCORES | {"zone_state": "failing", "state": "degraded: scores cannot be read"}}, {}),
            {"scores": "WARN failing: scores cannot be read; see the check zone"},
        ),
        (({}, {"state": "degraded: state not saved: full"}), {"state": "WARN state not saved: full; allow the "}),
        (({}, {"file": "/etc/other.toml"}), {"configuration": "WARN the daemon reads /etc/other.toml, and this "}),
        (({}, {"file": None}), {"configuration": "WARN the daemon reads no file, and this command "}),
        (({}, {"read_at": 1.0}), {"configuration": "WARN "}),
        (({"scores": SCORES | {"limit": 0, "daily_limit": 0}}, {}), {"budget": "OK 0 queries in 24"}),
        (({"scores": SCORES | {"used": 8000}}, {}), {"budget": "WARN nearly spent: 0 of 1000 queries in 24 "}),
        (({"scores": SCORES | {"used_today": 1000}}, {}), {"budget": "FAIL spent, "}),
    ],
)
def test_what_a_daemon_says_of_itself(
    run: Run,
    daemon: ControlDaemon,
    file: Path,
    change: tuple[dict[str, Any], dict[str, Any]],
    expected: dict[str, str],
) -> None:
    """Each thing that an administrator can put right has a line of its own."""
    daemon.answers["GET /api/status"] = 200, STATUS | change[0]
    daemon.answers["GET /api/daemon"] = 200, own(file) | change[1]
    _, found = report(run, file)
    for check, beginning in expected.items():
        assert [text for text in found[check] if text.startswith(beginning)], found[check]


def test_warnings_of_the_configuration_are_repeated(run: Run, file: Path) -> None:
    """Those of check-config, as they may explain what is seen."""
    file.write_text(f'mode = "observe"\n{file.read_text()}')
    _, found = report(run, file)
    warning = 'mode: with "observe" everything is decided and logged, and every message passes'
    assert found["configuration"] == [f"WARN {warning}; see senderscore-policy.toml(5)"]


def test_a_host_without_postfix(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning: the daemon may serve the Postfix of another host."""
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("senderscore_policy.commands.doctor.postconf._SYSTEM_PATH", "/nonexistent")
    _, found = report(run, file)
    assert found["postfix"][0].startswith("WARN not looked at: no Postfix on this host")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_policy_socket_that_denies_access_is_a_warning(
    run: Run, daemon: ControlDaemon, file: Path, place: Path
) -> None:
    """It may be closed to the administrator and open to Postfix."""
    (place / "closed").mkdir()
    daemon.answers["GET /api/status"] = 200, STATUS
    daemon.answers["GET /api/daemon"] = 200, own(file) | {"policy": [f"unix:{place}/closed/policy.sock"]}
    (place / "control.sock").chmod(0o777)
    with closed(place / "closed"):
        _, found = report(run, file)
    assert found["policy"][0].startswith("WARN not asked: ")
