"""What was measured, held against what is wanted: the rows of the table in docs/performance.md."""

from dataclasses import dataclass
from statistics import median
from typing import Final

import decisions
from bench import Sample
from costs import Cold, InterpreterTime, Memory, Together
from decisions import Samples
from peers import PEERS
from smtp import Messages


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        what: is measured.
        target: that it is held against.
        measured: in words.
        met: whether the target is reached; None: not measured.
    """

    what: str
    target: str
    measured: str
    met: bool | None


@dataclass
class Results:
    """Everything that a run measures; a field that is None was not measured. `busy` is the load average before."""

    samples: Samples
    busy: float
    cold: Cold | None = None
    memory: list[Memory] | None = None
    starts: list[float] | None = None
    postfix: Messages | None = None
    together: Together | None = None
    in_process: dict[str, InterpreterTime] | None = None


class Table:
    """The rows, each from the results that it needs.

    Args:
        results: of a run.
    """

    def __init__(self, results: Results) -> None:
        self._results = results
        self._samples = results.samples

    def rows(self) -> list[Row]:
        """All rows."""
        return [
            *self._throughput(),
            *self._workloads(),
            *self._cold(),
            *self._memory(),
            *self._start(),
            *self._postfix(),
            *self._together(),
        ]

    def fastest_peer(self, connections: int, *, shared: bool | None) -> tuple[str, Sample] | None:
        """Return the policy server that decides most, of those with shared counters or without; None: of all."""
        found = [
            (peer.name, self._samples.median(peer.name, connections))
            for peer in PEERS
            if self._samples.has(peer.name, connections) and shared in {None, peer.shared}
        ]
        return max(found, key=lambda entry: entry[1].per_second, default=None)

    def _throughput(self) -> list[Row]:
        main, one = self._samples.median(decisions.MEMCACHED), self._samples.median(decisions.MEMCACHED, 1)
        memory, memory_one = self._samples.median(decisions.MEMORY), self._samples.median(decisions.MEMORY, 1)
        base = self._samples.median(decisions.BASELINE)
        nothing = "against the server that parses nothing"
        return [
            _ratio(f"memcached, 100 connections, {nothing}", main, base, 0.32),
            _ratio(f"embedded store, 100 connections, {nothing}", memory, base, 0.42),
            self._against("embedded store, 1 connection, against counters in memory", memory_one, 1, 7, shared=False),
            self._against("embedded store, 100 connections, against the same", memory, 100, 10, shared=False),
            self._against("memcached, 1 connection, against counters in a shared store", one, 1, 6.5, shared=True),
            self._against("memcached, 100 connections, against the same", main, 100, 15, shared=True),
            self._against("memcached, 100 connections, against the fastest of all", main, 100, 15, shared=None),
            _at_most("p50 with 1 connection, memcached", one.p50, 0.25, "ms"),
            _at_most("p99 at 100 connections, memcached", main.p99, 5, "ms"),
            Row(
                "deferred in these figures, each logged",
                "20-35%",
                f"{main.deferred:.0%}",
                0.2 <= main.deferred <= 0.35,
            ),
        ]

    def _against(self, what: str, ours: Sample, connections: int, times: float, *, shared: bool | None) -> Row:
        peer = self.fastest_peer(connections, shared=shared)
        target = f"≥ {times:g} times"
        if peer is None:
            return Row(what, target, "no such policy server is installed", None)
        name, theirs = peer
        factor = ours.per_second / theirs.per_second
        measured = f"{factor:.1f} times ({ours.per_second:,.0f}/s, {name}: {theirs.per_second:,.0f}/s)"
        return Row(what, target, measured, factor >= times)

    def _workloads(self) -> list[Row]:
        main, new = self._samples.median(decisions.MEMCACHED), self._samples.median(decisions.NEW)
        mix, warm = self._samples.median(decisions.MIX), self._samples.median(decisions.MIX_WARM)
        return [
            _ratio("every client new, memcached, compared with the Zipf figure", new, main, 0.4),
            _ratio("realistic mix, scores asked lazily, compared with all scores at hand", mix, warm, 0.8),
            Row(
                "DNS queries in the realistic mix",
                "≤ 1% of messages",
                f"{mix.lookups:.2%} ({mix.deferred:.0%} deferred)",
                mix.lookups <= 0.01,
            ),
        ]

    def _cold(self) -> list[Row]:
        cold = self._results.cold
        if cold is None:
            return []
        rows = [
            _at_least(
                'cold scores (`lookup = "eager"`, every client new, local DNS): lookups a second', cold.lookups, 1_000
            )
        ]
        for name, value in (("DNS answers", cold.local), ("DNS is silent", cold.silent)):
            what = f"p99 of warm clients while 1,000 new ones a second are looked up, {name}"
            measured = f"{value / cold.quiet:.1f} times ({value:.2f} ms, alone {cold.quiet:.2f} ms)"
            rows.append(Row(what, "≤ 1.7 times", measured, value <= 1.7 * cold.quiet))
        return rows

    def _memory(self) -> list[Row]:
        limits: Final = {"embedded": 300, "memcached": 120}
        return [
            Row(
                f"memory: 1,000,000 distinct clients, {memory.store} store",
                f"≤ {limits[memory.store]} MB",
                f"{memory.full:.0f} MB (2,000,000: {memory.beyond:.0f} MB; at start {memory.at_start:.0f} MB; "
                f"peak {memory.peak:.0f} MB)",
                memory.full <= limits[memory.store],
            )
            for memory in self._results.memory or []
        ]

    def _start(self) -> list[Row]:
        if self._results.starts is None:
            return []
        return [_at_most("start to READY=1", median(self._results.starts), 0.5, "s")]

    def _postfix(self) -> list[Row]:
        messages = self._results.postfix
        if messages is None:
            return []
        ratio = messages.checked / messages.waved_through
        measured = (
            f"{ratio:.2f} ({messages.checked:.0f}/s, {messages.waved_through:.0f}/s; without any check "
            f"{messages.without:.0f}/s)"
        )
        what = "messages a second through Postfix, against Postfix with the server that parses nothing"
        return [Row(what, "≥ 0.95", measured, ratio >= 0.95)]

    def _together(self) -> list[Row]:
        found = self._results.together
        if found is None:
            return []
        apart, both = (f"{rates[0]:,.0f} and {rates[1]:,.0f}/s" for rates in (found.apart, found.together))
        measured = f"apart {apart}; at the same time, on the same cores, {both}"
        return [Row("two daemons on one memcached", "shown", measured, True)]


def _at_least(what: str, value: float, target: float) -> Row:
    return Row(what, f"≥ {target:,.0f}", f"{value:,.0f}", value >= target)


def _at_most(what: str, value: float, target: float, unit: str) -> Row:
    return Row(what, f"≤ {target:g} {unit}", f"{value:.2f} {unit}", value <= target)


def _ratio(what: str, ours: Sample, theirs: Sample, target: float) -> Row:
    ratio = ours.per_second / theirs.per_second
    measured = f"{ratio:.2f} ({ours.per_second:,.0f}/s, {theirs.per_second:,.0f}/s)"
    return Row(what, f"≥ {target:g}", measured, ratio >= target)
