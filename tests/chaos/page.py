"""The table in docs/reliability.md."""

import datetime as dt
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from trial import BOUND, Outcome, Plan

BEGIN: Final = "<!-- Written by `make chaos`: do not edit below. -->"
END: Final = "<!-- End of what `make chaos` writes. -->"


def write(path: Path, outcomes: Sequence[Outcome], plan: Plan, seconds: float, busy: float) -> None:
    """Replace the table in the page by one of these outcomes."""
    text = path.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    path.write_text(f"{before}{BEGIN}\n\n{_generated(outcomes, plan, seconds, busy)}\n{END}{after}")


def _generated(outcomes: Sequence[Outcome], plan: Plan, seconds: float, busy: float) -> str:
    lines = [
        f"Measured on {dt.datetime.now(tz=dt.UTC):%Y-%m-%d} by `make chaos`, {seconds:.0f} s for all: {_machine()}.",
        f"Each fault lasted about {plan.fault:g} s, under {plan.rate:g} requests a second over",
        f"{plan.connections} connections; behind Postfix ten clients sent at most ten messages a second each.",
        f"Load average before: {busy:.1f}; what else the machine does is in the times.",
        "",
        "| fault | sent | answered | wrongly deferred | unanswered | worst | meanwhile | afterwards |",
        "|---|---:|---:|---:|---:|---:|---|---|",
        *map(_row, outcomes),
        "",
    ]
    return "\n".join(lines)


def _row(outcome: Outcome) -> str:
    worst = f"{outcome.worst:.2f} s"
    if outcome.late:
        worst = f"**{worst}, above {BOUND} s**"
    meanwhile = "degraded" if any(state.startswith("degraded") for state in outcome.states) else "ready"
    counts = "counts not complete: the machine was too busy" if outcome.disturbed else "counts right"
    afterwards = "; ".join(f"**{problem}**" for problem in outcome.problems) or f"ready, {counts}"
    cells = (
        outcome.fault,
        f"{outcome.sent:,}",
        f"{outcome.answered:,}",
        _nought(outcome.wrong),
        _nought(outcome.unanswered),
        worst,
        meanwhile,
        afterwards.replace("|", "\\|").replace("\n", " "),
    )
    return f"| {' | '.join(cells)} |"


def _nought(number: int) -> str:
    return f"**{number}**" if number else "0"


def _machine() -> str:
    cpuinfo = Path("/proc/cpuinfo").read_text()
    processor = next((line.split(":")[1].strip() for line in cpuinfo.splitlines() if "model name" in line), "unknown")
    programs = [_version("memcached", "--version"), _version("postconf", "-dh", "mail_version", name="Postfix ")]
    return (
        f"{os.cpu_count()} cores ({processor}), {platform.freedesktop_os_release()['PRETTY_NAME']}, "
        f"Python {platform.python_version()}, {', '.join(programs)}"
    )


def _version(program: str, *arguments: str, name: str = "") -> str:
    path = shutil.which(program, path="/usr/local/bin:/usr/bin:/usr/sbin") or program
    return name + subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout.strip()
