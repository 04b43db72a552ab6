"""Checks of `doctor`: the daemon, by its control socket and its policy sockets."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from senderscore_policy import __version__
from senderscore_policy.commands.ask import ask
from senderscore_policy.commands.control import find_daemon
from senderscore_policy.commands.doctor.finding import FAIL, OK, WARN, Finding
from senderscore_policy.config.endpoints import Endpoint, endpoint, notation
from senderscore_policy.config.model import Config
from senderscore_policy.errors import BackendError
from senderscore_policy.policy.durations import span

_START: Final = "systemctl start senderscore-policy; if it does not stay: journalctl -u senderscore-policy"
_RELOAD: Final = "systemctl reload senderscore-policy"
_RESTART: Final = "systemctl restart senderscore-policy"


@dataclass(frozen=True, slots=True)
class Running:
    """A running daemon: its answers at /api/status and /api/daemon."""

    status: dict[str, Any]
    own: dict[str, Any]

    @property
    def served(self) -> list[Endpoint]:
        return [endpoint(text if text.startswith("unix:") else f"inet:{text}") for text in self.own["policy"]]


def daemon_of(config: Config) -> tuple[Running | None, list[Finding]]:
    try:
        with find_daemon(config) as control:
            return Running(control.call("GET", "/api/status"), control.call("GET", "/api/daemon")), []
    except PermissionError as error:
        return None, [Finding("daemon", WARN, f"not looked at: {error}", "run doctor as root")]
    except BackendError as error:
        return None, [Finding("daemon", FAIL, str(error), _START)]


def daemon_findings(running: Running, file: Path | None) -> Iterator[Finding]:
    """Check what the running daemon reports, and whether it uses the configuration that this command has read."""
    yield _service(running)
    yield _in_force(running, file)
    scores, state = running.status["scores"], running.own["state"]
    if scores["state"] == "ok":
        yield Finding("scores", OK, f"the score zone as the daemon sees it: {scores['zone_state']}")
    else:
        detail = f"{scores['zone_state']}: {scores['state'].removeprefix('degraded: ')}"
        remedy = f"see the check zone; {_RELOAD} makes the daemon ask again at once"
        yield Finding("scores", WARN, detail, "see the check budget" if "budget" in scores["zone_state"] else remedy)
    if state == "ok":
        yield Finding("state", OK, "scores, counters and the query budget are saved for the next start")
    else:
        remedy = "allow the daemon's user to write there, or set [state] directory; check that the disk is not full"
        yield Finding("state", WARN, state.removeprefix("degraded: "), remedy)
    yield _budget(scores)


def _service(running: Running) -> Finding:
    service, health = running.status["service"], running.status["health"]
    version = service["version"]
    if version != __version__:
        detail = f"the daemon still runs version {version}, and {__version__} is installed"
        return Finding("daemon", WARN, detail, _RESTART)
    if health != "ready":
        return Finding("daemon", WARN, health, "see the checks below")
    up = span(time.time() - service["started_at"])
    return Finding("daemon", OK, f"version {version}, up for {up}, mode {service['mode']}, {health}")


def _in_force(running: Running, file: Path | None) -> Finding:
    theirs, ours = running.own["file"], None if file is None else str(file.absolute())
    if theirs != ours:
        detail = f"the daemon reads {theirs or 'no file'}, and this command reads {ours or 'none'}"
        return Finding("configuration", WARN, detail, "leave -c out, and doctor reads the file of the daemon")
    try:
        changed = file is not None and file.stat().st_mtime > running.own["read_at"]
    except OSError as error:
        remedy = "run doctor as root" if isinstance(error, PermissionError) else "restore it before the next start"
        return Finding("configuration", WARN, f"{file}: {error.strerror}", remedy)
    if changed:
        return Finding("configuration", WARN, f"{file} was changed, and the daemon has not read it since", _RELOAD)
    return Finding("configuration", OK, f"the daemon uses {ours or 'the built-in defaults'}")


def _budget(scores: dict[str, Any]) -> Finding:
    day, month = (scores["used_today"], scores["daily_limit"]), (scores["used"], scores["limit"])
    if not scores["limit"]:
        return Finding("budget", OK, f"{day[0]} queries in 24 hours, {month[0]} in 30 days; there is no budget")
    detail = f"{day[0]} of {day[1]} queries in 24 hours, {month[0]} of {month[1]} in 30 days"
    share = max(used / limit for used, limit in (day, month))
    # From this share on the daemon does not refresh stale scores.
    if share < 0.8:
        return Finding("budget", OK, detail)
    remedy = (
        'use lookup = "lazy" and raise the smallest limit, so that fewer clients need a score; raise query_budget if '
        "your resolver is registered with the zone; or ask a local copy of the zone"
    )
    if share < 1:
        return Finding("budget", WARN, f"nearly spent: {detail}", remedy)
    return Finding("budget", FAIL, f"spent, clients without a known score fall under [unavailable]: {detail}", remedy)


def policy_findings(served: Sequence[Endpoint]) -> Iterator[Finding]:
    """Ask on each policy socket as Postfix does; without an address the daemon counts nothing."""
    for where in served:
        started = time.perf_counter()
        try:
            action = ask(where, {"client_address": ""}, timeout=5.0)
        except PermissionError as error:
            yield Finding("policy", WARN, f"not asked: {error}", "run doctor as root")
        except BackendError as error:
            yield Finding("policy", FAIL, str(error), _RESTART)
        else:
            milliseconds = (time.perf_counter() - started) * 1000
            yield Finding("policy", OK, f"{notation(where)} answers action={action} in {milliseconds:.0f} ms")
