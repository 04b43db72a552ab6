"""Measure everything that docs/performance.md shows, and write it: `make bench`, or run.py --quick to try it."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Final

import costs
import decisions
import plots
import report
import smtp
from bench import Bench, Plan, save
from decisions import Samples, Scenario
from rows import Results, Table

ROOT: Final = Path(__file__).parent.parent
BUILD: Final = ROOT / "build" / "bench"
PEER_ROUNDS: Final = 3


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round of everything; figures mean nothing")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "performance.md", help="the page to write")
    parser.add_argument("--command", default="make bench", help="what the page says that it was made with")
    options = parser.parse_args()
    plan = Plan.quick() if options.quick else Plan()
    busy = os.getloadavg()[0]
    _say(f"load average {busy:.2f}; anything above 0.2 disturbs the figures")
    with Bench.open(BUILD, plan) as bench:
        results = _measure(bench, busy)
    save(BUILD / "results.json", results)
    pictures = plots.draw(results.samples, options.output.with_suffix(""))
    report.write(results, plan, options.output, pictures, options.command)
    for row in Table(results).rows():
        _say(f"{row.what}: {row.measured} (target {row.target}{', not met' if row.met is False else ''})")
    _say(f"written: {options.output}")
    return 0


def _measure(bench: Bench, busy: float) -> Results:
    samples = _decisions(bench)
    _say("cold scores, start, memory, two daemons, Postfix: some ten minutes")
    return Results(
        samples,
        busy,
        cold=costs.cold(bench),
        memory=list(costs.memory(bench)),
        starts=costs.start(bench),
        together=costs.together(bench),
        in_process={store: costs.in_process(store) for store in ("memory", "memcached")},
        postfix=None if smtp.missing() else smtp.postfix(bench),
    )


def _decisions(bench: Bench) -> Samples:
    samples = Samples()
    peers = decisions.peer_scenarios()
    for number in range(bench.plan.rounds):
        for scenario in decisions.scenarios() + (peers if number < PEER_ROUNDS else []):
            _take(bench, number, scenario, samples)
    return samples


def _take(bench: Bench, number: int, scenario: Scenario, samples: Samples) -> None:
    sample = scenario.measure(bench, scenario.connections)
    samples.add(scenario, sample)
    _say(
        f"round {number + 1}: {scenario.name}, {scenario.connections} connections: {sample.per_second:,.0f}/s, "
        f"p50 {sample.p50:.2f} ms, p99 {sample.p99:.2f} ms, {sample.deferred:.0%} deferred, "
        f"{sample.server_cpu:.1f} µs"
    )


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
