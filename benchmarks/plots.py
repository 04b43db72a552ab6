"""The pictures of docs/performance.md."""

from pathlib import Path
from typing import Any, Final

import decisions
from decisions import Samples
from matplotlib import rcParams
from matplotlib.figure import Figure
from peers import PEERS

OURS: Final = "#1f6f8b"
OTHERS: Final = "#b0b7bd"
# The same figures give the same file.
rcParams.update({"svg.hashsalt": "senderscore-policy", "font.size": 9, "svg.fonttype": "none"})


def draw(samples: Samples, directory: Path) -> list[tuple[str, str]]:
    """Draw all pictures; the file and a description of each."""
    directory.mkdir(parents=True, exist_ok=True)
    names = [decisions.BASELINE, decisions.MEMORY, decisions.MEMCACHED, decisions.NEW, decisions.MIX]
    names += [peer.name for peer in PEERS]
    return [
        (
            _rates(samples, names, directory / "decisions.svg"),
            "Decisions a second at 100 connections, each round a dot",
        ),
        (_latencies(samples, names, directory / "latency.svg"), "p50 and p99 at 100 connections, in milliseconds"),
        (_processor(samples, names[:5], directory / "processor.svg"), "Processor time of a decision, in microseconds"),
    ]


def _rates(samples: Samples, names: list[str], path: Path) -> str:
    shown = [name for name in reversed(names) if samples.has(name)]
    figure, axes = _new(len(shown))
    for at, name in enumerate(shown):
        rates = [sample.per_second for sample in samples.taken[name, 100]]
        middle = samples.median(name).per_second
        axes.barh(at, middle, color=_colour(name), height=0.6)
        axes.plot(rates, [at] * len(rates), ".", color="black", markersize=3)
        axes.text(max(rates) * 1.15, at, f"{middle:,.0f}", va="center")
    axes.set_xscale("log")
    axes.set_xlim(right=axes.get_xlim()[1] * 3)
    return _finish(figure, axes, shown, "decisions a second (logarithmic)", path)


def _latencies(samples: Samples, names: list[str], path: Path) -> str:
    shown = [name for name in reversed(names) if samples.has(name)]
    figure, axes = _new(len(shown))
    for at, name in enumerate(shown):
        sample = samples.median(name)
        axes.plot([sample.p50, sample.p99], [at, at], "-", color=_colour(name), linewidth=3)
        axes.plot([sample.p50], [at], "o", color=_colour(name))
        axes.plot([sample.p99], [at], "|", color=_colour(name), markersize=12)
        axes.text(sample.p99 * 1.2, at, f"{sample.p50:.1f} – {sample.p99:.1f}", va="center")
    axes.set_xscale("log")
    axes.set_xlim(right=axes.get_xlim()[1] * 5)
    return _finish(figure, axes, shown, "milliseconds: p50 (dot) to p99 (bar), logarithmic", path)


def _processor(samples: Samples, names: list[str], path: Path) -> str:
    shown = [name for name in reversed(names) if samples.has(name)]
    figure, axes = _new(len(shown))
    for at, name in enumerate(shown):
        sample, left = samples.median(name), 0.0
        parts = ((sample.server_cpu, OURS), (sample.store_cpu, "#7fb3c8"), (sample.generator_cpu, OTHERS))
        for value, colour in parts:
            axes.barh(at, value, left=left, color=colour, height=0.6)
            left += value
        axes.text(
            left + 1, at, f"{sample.server_cpu:.0f} + {sample.store_cpu:.0f} + {sample.generator_cpu:.0f}", va="center"
        )
    axes.set_xlim(right=axes.get_xlim()[1] * 1.25)
    return _finish(figure, axes, shown, "µs of processor time a decision: server + memcached + load generator", path)


def _colour(name: str) -> str:
    return OTHERS if name == decisions.BASELINE or name in {peer.name for peer in PEERS} else OURS


def _new(bars: int) -> tuple[Figure, Any]:
    figure = Figure(figsize=(7.5, 0.6 + 0.35 * bars))
    return figure, figure.subplots()


def _finish(figure: Figure, axes: Any, shown: list[str], label: str, path: Path) -> str:
    axes.set_yticks(range(len(shown)), shown)
    axes.set_xlabel(label)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    return path.name
