"""A long time of realistic traffic at a fixed rate: memory, descriptors and latency over time; `make soak`."""

import argparse
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final

import workloads
from loadgen import Load, LoadGenerator
from matplotlib import rcParams
from matplotlib.figure import Figure
from prometheus_client.parser import text_string_to_metric_families
from servers import PolicyDaemon, Server, memcached, policy_daemon, score_zones

ROOT: Final = Path(__file__).parent.parent
BUILD: Final = ROOT / "build" / "soak"
STEP: Final = 10
"""Seconds between two looks."""
CONNECTIONS: Final = 100
FILL: Final = 120_000
"""Clients that send one message each before it begins: more than any table of clients holds."""
FILL_FROM: Final = 10 << 20
"""No other clients have these addresses."""
ZONE: Final = "score.test"
# The same figures give the same file.
rcParams.update({"svg.hashsalt": "senderscore-policy", "font.size": 9, "svg.fonttype": "none"})


@dataclass(frozen=True)
class Sample:
    """The daemon at one moment.

    Args:
        seconds: since the beginning.
        megabytes: resident, of a million bytes.
        descriptors: open.
        cpu: seconds of processor time so far.
        decisions: so far.
        lookups: over DNS so far.
    """

    seconds: float
    megabytes: float
    descriptors: int
    cpu: float
    decisions: float
    lookups: float


def main() -> int:
    """Run it and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", type=int, nargs="?", default=3600)
    parser.add_argument("--rate", type=int, default=300, help="messages a second")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "soak.md", help="the page to write")
    options = parser.parse_args()
    if options.seconds < 4 * STEP:
        parser.error(f"{4 * STEP} seconds at least")
    BUILD.mkdir(parents=True, exist_ok=True)
    mix = workloads.mix(options.rate * options.seconds)
    mix.write(BUILD / "mix.txt")
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        work = Path(name)
        zones = work / "zones"
        for each in (work, zones):
            each.mkdir(exist_ok=True)
            # Servers that give up root's rights work in it.
            each.chmod(0o755)
        with score_zones(zones, {ZONE: mix.scores}) as dns, memcached(work, 256) as store:
            samples, load = soak(work, dns, store, options.seconds, options.rate)
    picture = options.output.parent / "images" / f"{options.output.stem}.svg"
    draw(samples, load, picture)
    options.output.write_text(page(samples, load, options.rate, picture), encoding="utf-8")
    print(f"written: {options.output}")
    return 0


def soak(work: Path, dns: Server, store: Server, seconds: int, rate: int) -> tuple[list[Sample], Load]:
    """What was seen of the daemon, and of its answers."""
    reputation = {"zone": ZONE, "nameservers": [f"127.0.0.1:{dns.port}"], "query_budget": 0}
    counters = {"store": "memcached", "servers": [f"127.0.0.1:{store.port}"]}
    generator = LoadGenerator(BUILD)
    with policy_daemon(work, reputation=reputation, counters=counters) as daemon:
        generator.run(daemon, count=FILL, connections=CONNECTIONS, offset=FILL_FROM)
        running = generator.begin(
            daemon, seconds=seconds, rate=rate, step=STEP, connections=CONNECTIONS, workload=BUILD / "mix.txt"
        )
        try:
            return watch(daemon, running)
        finally:
            running.kill()


def watch(daemon: PolicyDaemon, running: "subprocess.Popen[str]") -> tuple[list[Sample], Load]:
    """Look at the daemon while the load runs, until it has ended."""
    begin = time.monotonic()
    samples = [look(daemon, 0.0)]
    while True:
        try:
            output, errors = running.communicate(timeout=max(0.0, begin + STEP * len(samples) - time.monotonic()))
        except subprocess.TimeoutExpired:
            samples.append(look(daemon, time.monotonic() - begin))
            continue
        if running.returncode:
            raise RuntimeError(f"load generator: {errors.strip()}")
        return samples, Load.from_json(output)


def look(daemon: PolicyDaemon, seconds: float) -> Sample:
    """The daemon now."""
    with urllib.request.urlopen(f"http://127.0.0.1:{daemon.status_port}/metrics", timeout=30) as answer:
        families = {each.name: each for each in text_string_to_metric_families(answer.read().decode())}
    decisions, lookups = (
        sum(sample.value for sample in families[name].samples if sample.name.endswith("_total"))
        if name in families
        else 0.0
        for name in ("senderscore_policy_requests", "senderscore_policy_lookups")
    )
    descriptors = len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))
    return Sample(seconds, daemon.megabytes(), descriptors, daemon.cpu_seconds, decisions, lookups)


def page(samples: list[Sample], load: Load, rate: int, picture: Path) -> str:
    """The text of docs/soak.md."""
    steps = load.series
    quarter, part = max(2, len(samples) // 4), max(1, len(steps) // 4)
    first, last = samples[:quarter], samples[-quarter:]

    def per_second(which: list[Sample], name: str) -> float:
        return (getattr(which[-1], name) - getattr(which[0], name)) / max(1e-9, which[-1].seconds - which[0].seconds)

    rows = [
        ("resident memory, MB (median)", *(f"{median(s.megabytes for s in q):.1f}" for q in (first, last))),
        ("resident memory, MB (largest)", *(f"{max(s.megabytes for s in q):.1f}" for q in (first, last))),
        ("open descriptors (largest)", *(str(max(s.descriptors for s in q)) for q in (first, last))),
        (
            "p50, ms (median of 10 s)",
            *(f"{median(s['p50_us'] for s in q) / 1000:.2f}" for q in (steps[:part], steps[-part:])),
        ),
        (
            "p99, ms (median of 10 s)",
            *(f"{median(s['p99_us'] for s in q) / 1000:.2f}" for q in (steps[:part], steps[-part:])),
        ),
        ("slowest answer, ms", *(f"{max(s['max_us'] for s in q) / 1000:.1f}" for q in (steps[:part], steps[-part:]))),
        ("decisions a second", *(f"{per_second(q, 'decisions'):.1f}" for q in (first, last))),
        ("lookups over DNS a second", *(f"{per_second(q, 'lookups'):.2f}" for q in (first, last))),
        ("processor time of the daemon, % of one core", *(f"{per_second(q, 'cpu'):.1%}" for q in (first, last))),
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    minutes = samples[-1].seconds / 60
    template = (Path(__file__).parent / "soak.md.in").read_text(encoding="utf-8")
    values = {
        "MINUTES": f"{minutes:.0f}",
        "RATE": str(rate),
        "CONNECTIONS": str(CONNECTIONS),
        "FILL": f"{FILL:,}",
        "REQUESTS": f"{load.requests:,}",
        "DEFERRED": f"{load.deferred_share:.1%}",
        "LOST": str(load.lost),
        "TABLE": table,
        "PICTURE": f"images/{picture.name}",
    }
    for name, value in values.items():
        template = template.replace(f"@{name}@", value)
    return template


def draw(samples: list[Sample], load: Load, path: Path) -> None:
    """Memory, descriptors, latency and work over time."""
    path.parent.mkdir(exist_ok=True)
    figure = Figure(figsize=(8, 6.5), layout="constrained")
    memory, descriptors, latency, work = figure.subplots(4, 1, sharex=True)
    minutes = [sample.seconds / 60 for sample in samples]
    memory.plot(minutes, [sample.megabytes for sample in samples], color="#1f6f8b")
    memory.set_ylabel("memory, MB")
    descriptors.plot(minutes, [sample.descriptors for sample in samples], color="#1f6f8b")
    descriptors.set_ylabel("descriptors")
    times = [step["t"] / 60 for step in load.series]
    for name, colour in (("p50_us", "#1f6f8b"), ("p99_us", "#c0763a")):
        latency.plot(times, [step[name] / 1000 for step in load.series], color=colour, label=name.partition("_")[0])
    latency.set_ylabel("latency, ms")
    latency.legend(loc="upper right", frameon=False)
    rates = [
        (after.decisions - before.decisions) / (after.seconds - before.seconds) for before, after in pairwise(samples)
    ]
    work.plot(minutes[1:], rates, color="#1f6f8b")
    work.set_ylabel("decisions / s")
    work.set_xlabel("minutes")
    for axes in (memory, descriptors, latency, work):
        axes.set_ylim(bottom=0)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
