"""Let every fault strike the installed daemon: `make chaos`, or run.py --short for CI."""

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

import page
from faults import FAULTS
from trial import BOUND, Outcome, Plan, run

PAGE: Final = Path(__file__).parents[2] / "docs" / "reliability.md"
FULL: Final = Plan(around=1.5, fault=7)
SHORT: Final = Plan(around=0.7, fault=2.4, rate=200)
SHORT_AT_ONCE: Final = 4
"""Trials of the short form at the same time, as its times do not count."""


def main() -> int:
    """Run them and write the table; 1 if a promise was broken. In the short form lateness is only reported."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a minute or two; writes nothing, and time is no failure")
    parser.add_argument("--only", default="", metavar="TEXT", help="faults with this in their names; writes nothing")
    options = parser.parse_args()
    started, busy = time.monotonic(), os.getloadavg()[0]
    chosen = [number for number, fault in enumerate(FAULTS) if options.only in fault.name]
    at_once, plan = (SHORT_AT_ONCE, SHORT) if options.short else (1, FULL)
    with ProcessPoolExecutor(at_once) as trials:
        outcomes = [_told(outcome) for outcome in trials.map(partial(_trial, plan), chosen)]
    failed = [outcome for outcome in outcomes if outcome.problems]
    late = [outcome for outcome in outcomes if outcome.late]
    if not options.short and not options.only:
        page.write(PAGE, outcomes, FULL, time.monotonic() - started, busy)
    print(f"{len(outcomes)} faults in {time.monotonic() - started:.0f} s: {len(failed)} failed, {len(late)} late")
    return bool(failed or (late and not options.short))


def _trial(plan: Plan, number: int) -> Outcome:
    return run(FAULTS[number], plan)


def _told(outcome: Outcome) -> Outcome:
    print(
        f"{outcome.fault}: {outcome.sent} sent, {outcome.answered} answered, {outcome.wrong} wrongly deferred, "
        f"{outcome.unanswered} unanswered, worst {outcome.worst:.2f} s; "
        f"{'; '.join(outcome.states)}"
    )
    for problem in outcome.problems:
        print(f"  FAILED: {problem}")
    if outcome.late:
        print(f"  LATE: an answer took {outcome.worst:.2f} s, the bound is {BOUND} s")
    if outcome.disturbed:
        print("  DISTURBED: memcached was late when nothing was wrong with it; counts may be too small")
    sys.stdout.flush()
    return outcome


if __name__ == "__main__":
    sys.exit(main())
