"""Decisions a second: the daemon, the server that parses nothing, and other policy servers, in turns."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench import MIX_ZONE, Bench, Sample
from peers import PEERS, Peer
from servers import Server, always_dunno, memcached

BASELINE: Final = "always DUNNO"
MEMCACHED: Final = "memcached"
MEMORY: Final = "embedded store"
NEW: Final = "memcached, every client new"
MIX: Final = "memcached, realistic mix, scores asked"
MIX_WARM: Final = "memcached, realistic mix, scores at hand"
PEER_SECONDS: Final = 5.0
PEER_WARM_UP: Final = 200


@dataclass(frozen=True)
class Scenario:
    """Something to be measured again and again.

    Args:
        name: of the server and what it does.
        connections: persistent ones.
        measure: starts what it needs, and ends it.
    """

    name: str
    connections: int
    measure: Callable[[Bench, int], Sample]


@dataclass
class Samples:
    """All samples of the run, by name and connections."""

    taken: dict[tuple[str, int], list[Sample]] = field(default_factory=dict)

    def add(self, scenario: Scenario, sample: Sample) -> None:
        """Keep one."""
        self.taken.setdefault((scenario.name, scenario.connections), []).append(sample)

    def median(self, name: str, connections: int = 100) -> Sample:
        """The middle of the samples of one scenario."""
        return Sample.middle(self.taken[name, connections])

    def has(self, name: str, connections: int = 100) -> bool:
        """Whether it has samples."""
        return (name, connections) in self.taken


def scenarios() -> list[Scenario]:
    """All of the daemon, one after the other."""
    found = [
        Scenario(name, connections, measure)
        for connections in (100, 1)
        for name, measure in ((BASELINE, _baseline), (MEMCACHED, _memcached), (MEMORY, _memory))
    ]
    return [*found, Scenario(NEW, 100, _new), Scenario(MIX, 100, _mix), Scenario(MIX_WARM, 100, _mix_warm)]


def peer_scenarios(peers: Sequence[Peer] = PEERS) -> list[Scenario]:
    """All of those peers that are installed."""
    return [
        Scenario(peer.name, connections, _Peer(peer)) for connections in (100, 1) for peer in peers if not peer.missing
    ]


@contextlib.contextmanager
def both(bench: Bench, tables: Mapping[str, object] | None = None) -> Iterator[tuple[Server, Server]]:
    """A daemon and its memcached."""
    with (
        bench.directory() as directory,
        memcached(directory) as store,
        bench.daemon(directory, store, **(tables or {})) as daemon,
    ):
        yield daemon, store


def _baseline(bench: Bench, connections: int) -> Sample:
    with bench.directory() as directory, always_dunno(directory) as server:
        return bench.measure(server, workload=bench.zipf, connections=connections)


def _memcached(bench: Bench, connections: int) -> Sample:
    with both(bench) as (daemon, store):
        return bench.measure(daemon, store, workload=bench.zipf, connections=connections)


def _memory(bench: Bench, connections: int) -> Sample:
    with bench.directory() as directory, bench.daemon(directory) as daemon:
        return bench.measure(daemon, workload=bench.zipf, connections=connections)


def _new(bench: Bench, connections: int) -> Sample:
    with both(bench) as (daemon, store):
        return bench.measure(daemon, store, connections=connections)


def _mix(bench: Bench, connections: int) -> Sample:
    """The whole mix, once, from the first message on."""
    with bench.directory() as directory:
        return _whole_mix(bench, directory, connections)


def _mix_warm(bench: Bench, connections: int) -> Sample:
    """The whole mix with all the scores that a first time has left in the state directory, and fresh counters."""
    with bench.directory() as directory:
        _whole_mix(bench, directory, connections)
        (directory / "state" / "counters").unlink(missing_ok=True)
        return _whole_mix(bench, directory, connections)


def _whole_mix(bench: Bench, directory: Path, connections: int) -> Sample:
    tables = {"reputation": bench.reputation(MIX_ZONE)}
    with memcached(directory) as store, bench.daemon(directory, store, **tables) as daemon:
        load = {"workload": bench.mix, "count": bench.plan.mix, "connections": connections}
        return bench.measure(daemon, store, warm_up=0, **load)


@dataclass(frozen=True)
class _Peer:
    peer: Peer

    def __call__(self, bench: Bench, connections: int) -> Sample:
        with bench.directory() as directory, self._started(directory, connections) as server:
            load = {"workload": bench.zipf, "connections": connections, "state": self.peer.state}
            return bench.measure(server, warm_up=PEER_WARM_UP, seconds=PEER_SECONDS, **load)

    def _started(self, directory: Path, connections: int) -> AbstractContextManager[Server]:
        return self.peer.start(directory, connections)
