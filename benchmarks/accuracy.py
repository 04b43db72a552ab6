"""How near the windows come to an exact log of times: `make accuracy`, a few minutes, always the same figures."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from matplotlib import rcParams
from matplotlib.figure import Figure
from simulation import Outcome, simulate
from traffic import HOUR, START, TRAFFIC, Traffic, bursts, two_bursts

ROOT: Final = Path(__file__).parent.parent
PAGE: Final = ROOT / "docs" / "accuracy.md"
PICTURE: Final = ROOT / "docs" / "images" / "accuracy.svg"
LIMIT: Final = 400
SLIDING: Final = "sliding, 12 buckets (the default)"
FIXED: Final = "fixed"
WINDOWS: Final = {
    "sliding, 4 buckets": ("sliding", 4),
    SLIDING: ("sliding", 12),
    "sliding, 30 buckets": ("sliding", 30),
    "sliding, 60 buckets": ("sliding", 60),
    FIXED: ("fixed", 12),
}
"""By the name that the report gives it: algorithm and buckets."""
WORST: Final = "the worst case, see below"
STEADY: Final = "steady, 1.1 N an hour"
RANDOM: Final = "at random, 1.2 N an hour"
# The same figures give the same file.
rcParams.update({"svg.hashsalt": "senderscore-policy", "font.size": 9, "svg.fonttype": "none"})


@dataclass(frozen=True)
class Measured:
    """One kind of window under all traffic.

    Args:
        outcomes: by the traffic's name.
    """

    outcomes: dict[str, Outcome]

    @property
    def most_in_an_hour(self) -> float:
        """Messages accepted within any 60 minutes, in limits."""
        return max(outcome.most_within(HOUR) for outcome in self.outcomes.values()) / LIMIT


def main() -> int:
    """Simulate, hold the results against what is promised, and write the page."""
    measured = {name: measure(*window) for name, window in WINDOWS.items()}
    broken = [problem for name, each in measured.items() for problem in broken_promises(name, each)]
    for problem in broken:
        print(problem, file=sys.stderr)
    if broken:
        return 1
    draw(PICTURE)
    PAGE.write_text(page(measured), encoding="utf-8")
    print(f"written: {PAGE}")
    return 0


def measure(algorithm: str, buckets: int) -> Measured:
    """One window under all traffic."""
    bucket = HOUR / buckets if algorithm == "sliding" else HOUR / 12
    traffic = [*TRAFFIC, Traffic(WORST, two_bursts(bucket))]
    outcomes = {each.name: simulate(algorithm, buckets, LIMIT, each.times(LIMIT)) for each in traffic}
    return Measured(outcomes)


def broken_promises(name: str, measured: Measured) -> list[str]:
    """The promises of docs/accuracy.md that do not hold."""
    problems = []
    for traffic, outcome in measured.outcomes.items():
        if outcome.window.buckets > 1:
            most, where = outcome.most_within(outcome.span), f"{outcome.span:g} s"
        else:
            most, where = outcome.most_in_a_clock_hour(), "a clock hour"
        if most > outcome.limit:
            problems.append(f"{name}, {traffic}: {most} messages within {where}, the limit is {outcome.limit}")
        if outcome.exact == outcome.sent > len(outcome.accepted):
            problems.append(f"{name}, {traffic}: a client within its limit was deferred")
        if outcome.window.buckets > 1 and max(outcome.errors) > 0:
            problems.append(f"{name}, {traffic}: a count was {max(outcome.errors)} too large")
        # The limit each hour, and once more for the beginning and for the end of the traffic.
        hours = (outcome.accepted[-1] - outcome.accepted[0]) / HOUR
        if len(outcome.accepted) > (hours + 2) * outcome.limit:
            problems.append(f"{name}, {traffic}: {len(outcome.accepted)} messages in {hours:.1f} hours")
    return problems


def page(measured: dict[str, Measured]) -> str:
    """The text of docs/accuracy.md."""
    template = (Path(__file__).parent / "accuracy.md.in").read_text(encoding="utf-8")
    return (
        template.replace("@TRAFFIC@", _traffic_table(measured[SLIDING], measured[FIXED]))
        .replace("@WINDOWS@", _window_table(measured))
        .replace("@LIMIT@", str(LIMIT))
    )


def _traffic_table(sliding: Measured, fixed: Measured) -> str:
    rows = [
        [
            "what a client sends in a day",
            "an exact log passes",
            "sliding passes",
            "error of its count: mean, worst",
            "most in 60 minutes",
            "fixed passes",
            "most in 60 minutes",
        ]
    ]
    for name, ours in sliding.outcomes.items():
        other = fixed.outcomes[name]
        worst = max(ours.errors, key=abs) / LIMIT
        rows.append(
            [
                name,
                f"{ours.exact / ours.sent:.1%}",
                f"{len(ours.accepted) / ours.sent:.1%}",
                f"{ours.mean_error:.1%}, {worst:+.1%}",
                f"{ours.most_within(HOUR) / LIMIT:.2f} N",
                f"{len(other.accepted) / other.sent:.1%}",
                f"{other.most_within(HOUR) / LIMIT:.2f} N",
            ]
        )
    return _table(rows)


def _window_table(measured: dict[str, Measured]) -> str:
    rows = [
        [
            "window",
            "never more than N within",
            "most in 60 minutes",
            f"{STEADY}: passes",
            f"{RANDOM}: passes",
            "wait of a deferred client after its messages have left, at most",
            "closed buckets read, a client and minute",
        ]
    ]
    for name, each in measured.items():
        outcomes = list(each.outcomes.values())
        window = outcomes[0].window
        span = f"any {outcomes[0].span / 60:g} minutes" if window.buckets > 1 else "a clock hour"
        rows.append(
            [
                name,
                span,
                f"{each.most_in_an_hour:.2f} N",
                *(f"{len(each.outcomes[one].accepted) / each.outcomes[one].sent:.1%}" for one in (STEADY, RANDOM)),
                f"{window.bucket_seconds / 60:g} min",
                str(window.buckets - 1),
            ]
        )
    return _table(rows)


def _table(rows: list[list[str]]) -> str:
    """A Markdown table; the first row is its head, the first column text and the others numbers."""
    rows.insert(1, ["---", *["--:"] * (len(rows[0]) - 1)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def draw(path: Path) -> None:
    """What got through in the hour before, under two kinds of traffic."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw(left, "On from hh:45 to hh:15, else off", bursts(2.0, HOUR, HOUR / 2, first=0.75 * HOUR)(LIMIT), HOUR)
    _draw(right, "The worst case: N at once, N when that leaves", two_bursts(HOUR / 12)(LIMIT), 0)
    left.set_ylabel("passed in the last 60 minutes, in limits")
    left.legend(loc="upper left", frameon=False)
    figure.savefig(path, metadata={"Date": None})


def _draw(axes: Any, title: str, times: Iterable[float], begin: float) -> None:
    sent = [time for time in times if time < START + begin + 4 * HOUR]
    for name, colour, style in ((SLIDING, "#1f6f8b", "-"), (FIXED, "#c0763a", "--")):
        outcome = simulate(*WINDOWS[name], LIMIT, sent)
        minutes = [minute / 4 for minute in range(4 * 4 * 60)]
        shares = [outcome.recent(START + begin + 60 * minute) / LIMIT for minute in minutes]
        axes.plot([minute / 60 for minute in minutes], shares, style, color=colour, label=name.partition(",")[0])
    axes.axhline(1, color="#b0b7bd", linewidth=0.8)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("hours")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


if __name__ == "__main__":
    sys.exit(main())
