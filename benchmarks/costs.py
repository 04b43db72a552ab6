"""What else a daemon costs: memory, time to start, time spent on cold scores; and what several daemons do together."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import workloads
from bench import Bench, lookups
from servers import HERE, PolicyDaemon, Server, memcached

sys.path.append(str(HERE / "micro"))

from in_process import InProcess, encode

STARTS: Final = 9
BATCH: Final = 100
"""Requests decided together without sockets, one from each connection."""
BATCHES: Final = 400
WARM_CLIENTS: Final = 1_000
WARM_RATE: Final = 2_000
"""Messages a second of clients whose score is known."""
COLD_RATE: Final = 1_000
"""Messages a second of new clients."""
FIRST_COLD: Final = 1 << 20
"""Their addresses begin where the warm clients' end."""


@dataclass(frozen=True)
class Memory:
    """Resident megabytes of the daemon.

    Args:
        store: of the counters.
        at_start: before the first message.
        full: after the plan's number of distinct clients.
        beyond: after twice as many.
        peak: at any time so far.
    """

    store: str
    at_start: float
    full: float
    beyond: float
    peak: float


def memory(bench: Bench) -> Iterator[Memory]:
    """Memory for a million distinct clients, with either store."""
    with bench.directory() as directory, bench.daemon(directory) as daemon:
        yield _memory(bench, "embedded", daemon)
    with (
        bench.directory() as directory,
        memcached(directory) as store,
        bench.daemon(directory, store) as daemon,
    ):
        yield _memory(bench, "memcached", daemon)


def _memory(bench: Bench, name: str, daemon: PolicyDaemon) -> Memory:
    clients = bench.plan.clients
    at_start = daemon.megabytes()
    bench.load.run(daemon, count=clients)
    full = daemon.megabytes()
    bench.load.run(daemon, count=clients, offset=clients)
    return Memory(name, at_start, full, daemon.megabytes(), daemon.megabytes("VmHWM"))


def start(bench: Bench) -> list[float]:
    """Seconds from the start of the process to READY=1, several times."""
    seconds = []
    for _ in range(STARTS):
        with bench.directory() as directory, bench.daemon(directory) as daemon:
            seconds.append(daemon.seconds_to_ready)
    return seconds


@dataclass(frozen=True)
class InterpreterTime:
    """Microseconds of a decision without sockets and without memcached's own work: what Python itself takes.

    Args:
        read: from received bytes to a parsed request in the engine's queue.
        rest: counting, comparing, answering, and remembering and logging the decision.
    """

    read: float
    rest: float


def in_process(store: str) -> InterpreterTime:
    """Measure one store, "memory" or "memcached", with limits that are never reached; the medians."""
    reading, deciding = [], []
    with InProcess(store, BATCH) as parts:
        for batch in range(BATCHES):
            requests = [encode((batch * BATCH + each) * 31 % 4000, batch * BATCH + each) for each in range(BATCH)]
            started = time.perf_counter()
            parts.receive(requests)
            received = time.perf_counter()
            parts.run(parts.engine.run())
            reading.append(received - started)
            deciding.append(time.perf_counter() - received)
    return InterpreterTime(*(1e6 * median(seconds) / BATCH for seconds in (reading, deciding)))


@dataclass(frozen=True)
class Cold:
    """Scores asked at the first message (`lookup = "eager"`), every client new.

    Args:
        lookups: questions a second, answered by a DNS server on this machine.
        quiet: the warm clients' p99 in milliseconds while only they send.
        local: while `COLD_RATE` new clients a second are looked up.
        silent: while `COLD_RATE` new clients a second are looked up and DNS does not answer.
    """

    lookups: float
    quiet: float
    local: float
    silent: float


def cold(bench: Bench) -> Cold:
    """Lookups a second, and what they do to clients whose score is known."""
    with bench.directory() as directory, bench.daemon(directory, reputation=bench.reputation(lookup="eager")) as daemon:
        before = lookups(daemon)
        result = bench.load.run(daemon, seconds=bench.plan.seconds)
        rate = (lookups(daemon) - before) / result.requests * result.per_second
    quiet, local, silent = [], [], []
    for _ in range(bench.plan.rounds):
        with bench.directory() as directory:
            warm = directory / "warm.txt"
            warm.write_text("".join(f"{workloads.address(8, n)}\n" for n in range(WARM_CLIENTS)), encoding="ascii")
            with bench.daemon(directory, reputation=bench.reputation(lookup="eager")) as daemon:
                bench.load.run(daemon, workload=warm, count=WARM_CLIENTS, connections=20)
                quiet.append(_warm_p99(bench, daemon, warm))
                local.append(_warm_p99(bench, daemon, warm, offset=FIRST_COLD))
                os.kill(bench.dns.pid, signal.SIGSTOP)
                try:
                    silent.append(_warm_p99(bench, daemon, warm, offset=FIRST_COLD // 2))
                finally:
                    os.kill(bench.dns.pid, signal.SIGCONT)
    return Cold(rate, median(quiet), median(local), median(silent))


def _warm_p99(bench: Bench, daemon: Server, warm: Path, offset: int | None = None) -> float:
    """Milliseconds for warm clients, while new clients ask, from address number `offset` on."""
    seconds = bench.plan.seconds
    others = None
    if offset is not None:
        others = bench.load.begin(daemon, rate=COLD_RATE, seconds=seconds + 1, connections=500, offset=offset)
    result = bench.load.run(daemon, workload=warm, rate=WARM_RATE, warm_up=1, seconds=seconds, connections=50)
    if others is not None:
        bench.load.wait(others)
    return result.p99 / 1000


@dataclass(frozen=True)
class Together:
    """Two daemons on one memcached; rates in decisions a second, times in microseconds a decision.

    Args:
        apart: the rates of each while the other one rests.
        together: the rates of both at the same time.
        daemon: processor time in the daemons.
        store: in memcached.
        generator: in the load generators, which are Postfix's side of the connection.
    """

    apart: tuple[float, float]
    together: tuple[float, float]
    daemon: float
    store: float
    generator: float


def together(bench: Bench) -> Together:
    """Two daemons that count on one memcached."""
    load = {"workload": bench.zipf, "seconds": bench.plan.seconds, "warm_up": 2, "connections": 50}
    with (
        bench.directory() as directory,
        bench.directory() as other,
        memcached(directory) as store,
        bench.daemon(directory, store) as first,
        bench.daemon(other, store) as second,
    ):
        apart = bench.load.run(first, **load).per_second, bench.load.run(second, **load).per_second
        before = [server.cpu_seconds for server in (first, second, store)]
        runs = [bench.load.begin(server, **(load | {"warm_up": 0})) for server in (first, second)]
        results = [bench.load.wait(run) for run in runs]
        spent = [server.cpu_seconds - begin for server, begin in zip((first, second, store), before, strict=True)]
    decisions = sum(result.requests for result in results)
    generator = sum(result.cpu_seconds for result in results)
    return Together(
        apart,
        (results[0].per_second, results[1].per_second),
        1e6 * (spent[0] + spent[1]) / decisions,
        1e6 * spent[2] / decisions,
        1e6 * generator / decisions,
    )
