"""What all measurements share: where things are, how long to measure, and the policy daemon's settings."""

import contextlib
import json
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final, Self

import workloads
from loadgen import Load, LoadGenerator
from servers import PolicyDaemon, Server, policy_daemon, score_zones

WARM_ZONE: Final = "warm.test"
"""Every client has `workloads.WARM_SCORE` here: a limit of 800."""
MIX_ZONE: Final = "mix.test"


@dataclass(frozen=True)
class Plan:
    """How much to measure.

    Args:
        rounds: how often everything is measured, in turns; the median counts.
        warm_up: requests before each measurement; a fifth to a third of the Zipf workload is deferred then.
        seconds: of each measurement.
        clients: for the memory row.
        messages: through Postfix, in each turn.
        mix: requests of the realistic mix.
    """

    rounds: int = 3
    warm_up: int = 60_000
    seconds: float = 6.0
    clients: int = 1_000_000
    messages: int = 2_000
    mix: int = 400_000

    @classmethod
    def quick(cls) -> Self:
        """To see that everything works; no figures worth keeping."""
        return cls(rounds=1, warm_up=5_000, seconds=1.0, clients=20_000, messages=100, mix=20_000)


@dataclass(frozen=True)
class Sample:
    """One measurement of decisions.

    Args:
        per_second: decisions.
        p50: milliseconds.
        p99: milliseconds.
        deferred: their share.
        server_cpu: microseconds of the server's processor time for each decision.
        store_cpu: of memcached's.
        generator_cpu: of the load generator's.
        lookups: questions over DNS for each decision.
    """

    per_second: float
    p50: float
    p99: float
    deferred: float
    server_cpu: float
    store_cpu: float
    generator_cpu: float
    lookups: float = 0.0

    @classmethod
    def middle(cls, samples: Sequence[Self]) -> Self:
        """The median of each value."""
        names = cls.__dataclass_fields__
        return cls(**{name: median(getattr(sample, name) for sample in samples) for name in names})


class Bench:
    """A place to work in, a zone to ask and a load generator.

    Args:
        build: a directory that is kept: the load generator and the workloads.
        work: an empty directory with a short name.
        plan: how much to measure.
        dns: serves `WARM_ZONE` and `MIX_ZONE`.
    """

    def __init__(self, build: Path, work: Path, plan: Plan, dns: Server) -> None:
        self.plan = plan
        self.dns = dns
        self.load = LoadGenerator(build)
        self.zipf = build / "zipf.txt"
        self.mix = build / "mix.txt"
        self._work = work

    @classmethod
    @contextlib.contextmanager
    def open(cls, build: Path, plan: Plan) -> Iterator[Self]:
        """Prepare the workloads and the zones."""
        build.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            work = Path(name)
            # Servers that give up root's rights work in it.
            work.chmod(0o755)
            workloads.zipf(1_000_000).write(build / "zipf.txt")
            mix = workloads.mix(plan.mix)
            mix.write(build / "mix.txt")
            zones = work / "zones"
            zones.mkdir()
            with score_zones(zones, {WARM_ZONE: {"11.0.0.0/8": workloads.WARM_SCORE}, MIX_ZONE: mix.scores}) as dns:
                yield cls(build, work, plan, dns)

    @contextlib.contextmanager
    def directory(self) -> Iterator[Path]:
        """An empty directory."""
        path = Path(tempfile.mkdtemp(dir=self._work, prefix=""))
        path.chmod(0o755)
        yield path
        shutil.rmtree(path, ignore_errors=True)

    def reputation(self, zone: str = WARM_ZONE, **settings: Any) -> dict[str, Any]:
        """The table [reputation]."""
        return {"zone": zone, "nameservers": [f"127.0.0.1:{self.dns.port}"], "query_budget": 0} | settings

    @contextlib.contextmanager
    def daemon(self, directory: Path, store: Server | None = None, **tables: Any) -> Iterator[PolicyDaemon]:
        """The daemon with its defaults, but for a zone of ours and the store: its own memory, or a memcached."""
        counters = tables.pop("counters", {})
        if store is not None:
            counters = {"store": "memcached", "servers": [f"127.0.0.1:{store.port}"]} | counters
        with policy_daemon(
            directory, **({"reputation": self.reputation()} | tables | {"counters": counters})
        ) as daemon:
            yield daemon

    def measure(self, server: Server, store: Server | None = None, **load: object) -> Sample:
        """Decisions of a server under load; options of the load generator as for `Plan` unless given."""
        warm_up = load.pop("warm_up", self.plan.warm_up)
        if warm_up:
            begin = {name: value for name, value in load.items() if name not in {"connections", "seconds"}}
            load["offset"] = self.load.run(server, **(begin | {"count": warm_up})).next
        load = {"seconds": self.plan.seconds} | load
        before = server.cpu_seconds, store.cpu_seconds if store else 0.0, lookups(server)
        result = self.load.run(server, **load)
        after = server.cpu_seconds, store.cpu_seconds if store else 0.0, lookups(server)
        spent = [1e6 * (b - a) / max(1, result.requests) for a, b in zip(before, after, strict=True)]
        return _sample(result, spent)


def lookups(server: Server) -> int:
    """Questions that a policy daemon asked over DNS so far; 0 for another server."""
    if not isinstance(server, PolicyDaemon):
        return 0
    with urllib.request.urlopen(f"http://127.0.0.1:{server.status_port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith("senderscore_policy_lookups_total{"))


def _sample(result: Load, spent: Sequence[float]) -> Sample:
    server, store, asked = spent
    return Sample(
        per_second=result.per_second,
        p50=result.p50 / 1000,
        p99=result.p99 / 1000,
        deferred=result.deferred_share,
        server_cpu=server,
        store_cpu=store,
        generator_cpu=1e6 * result.cpu_seconds / max(1, result.requests),
        lookups=asked / 1e6,
    )


def save(path: Path, results: object) -> None:
    """Keep results as JSON."""
    path.write_text(json.dumps(results, indent=1, default=_as_json), encoding="utf-8")


def _as_json(value: object) -> object:
    """A dataclass as a dictionary; one that has tuples for keys gets text for them."""
    return {
        name: {str(key): item for key, item in entry.items()} if isinstance(entry, dict) else entry
        for name, entry in vars(value).items()
    }
