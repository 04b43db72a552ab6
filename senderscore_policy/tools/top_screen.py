"""How `top` looks: lines of text and a table, for a terminal that is kept up to date or for one look."""

import math
from datetime import datetime
from typing import Any, Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from senderscore_policy.policy.standing import Place

COLUMNS: Final = ("status", "client", "score", "tier", "count", "limit", "left", "deferred", "let in", "name")
NUMBERS: Final = frozenset({"score", "count", "limit", "left", "deferred", "let in"})
_STYLES: Final = {Place.LIMITED: "bold red", Place.NEAR: "yellow", Place.WITHIN: "", Place.UNLIMITED: "dim"}
_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_AROUND: Final = 4
"""Lines of the table beside its rows, and the one that the terminal keeps for itself."""


def plain(value: object) -> str:
    """A value as text for a terminal: nothing in it, whoever sent it, controls the terminal."""
    if value is None:
        return "-"
    text = str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def wait(client: dict[str, Any]) -> str:
    """When a client is let in again: "now", "in 12 min", "never"; empty for one that is not limited."""
    if client["place"] != Place.LIMITED:
        return ""
    seconds = client["opens_in"]
    if seconds is None:
        return "never"
    if seconds < 60:
        return f"{seconds} s" if seconds > 0 else "now"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{math.ceil(minutes / 60)} h"


def cells(client: dict[str, Any]) -> list[str]:
    """A client's row."""
    values = (client["place"], client["client"], client["score"], client["tier"], client["count"], client["limit"],
              client["left"], client["deferred"], wait(client), client["name"])  # fmt: skip
    return [plain(value) for value in values]


def summary(overview: dict[str, Any]) -> list[str]:
    """What goes above the table: a line for each daemon, then the numbers of all."""
    lines = []
    for daemon in overview["daemons"]:
        mode = " (observe: nobody is deferred)" if daemon["mode"] == "observe" else ""
        lines.append(plain(f"{daemon['endpoint']}: {daemon['health']}{mode}"))
    queries, hour, deferred = overview["queries"], overview["requests_last_hour"], overview["deferred_last_hour"]
    minute = overview["requests_last_minute"]
    budget = f" of {queries['daily_limit']:,} today, {queries['used']:,} of {queries['limit']:,} in 30 days"
    lines += [
        f"requests: {minute:,} in the last minute, {hour:,} in the last hour, {deferred:,} deferred",
        f"clients: {overview['limited']:,} limited now, {overview['near']:,} near the limit",
        f"score queries: {queries['used_today']:,}" + (budget if queries["limit"] else " today, no budget"),
    ]
    return lines


def sparkline(numbers: list[int]) -> str:
    """Numbers as a row of bars."""
    highest = max(numbers, default=0) or 1
    return "".join(_BLOCKS[math.ceil(number / highest * (len(_BLOCKS) - 1))] for number in numbers)


def screen(overview: dict[str, Any], height: int, most: int | None) -> Group:
    """All of it for a terminal.

    Args:
        overview: of all daemons.
        height: lines of the terminal.
        most: clients to be shown; None: as many as there is room for.
    """
    head = Text("senderscore-policy", style="bold", no_wrap=True)
    head.append(f"  {datetime.now().astimezone():%H:%M:%S}", style="dim")
    lines = [head]
    for daemon, line in zip(overview["daemons"], summary(overview), strict=False):
        lines.append(
            Text(line, style="" if daemon["health"] == "ready" else "bold red", no_wrap=True, overflow="ellipsis")
        )
    numbers = summary(overview)[len(overview["daemons"]) :]
    lines += [Text(line, no_wrap=True, overflow="ellipsis") for line in numbers]
    bars = sparkline([minute["passed"] + minute["deferred"] for minute in overview["minutes"]])
    lines.append(Text(bars, style="cyan", no_wrap=True, overflow="crop"))
    room = max(1, height - len(lines) - _AROUND)
    shown = overview["clients"][: room if most is None else min(most, room)]
    return Group(*lines, _table(shown), Text(_rest(overview, len(shown)), style="dim"))


def _table(clients: list[dict[str, Any]]) -> Table:
    table = Table(box=None, expand=True, pad_edge=False, header_style="dim")
    for name in COLUMNS:
        flexible = name == "name"
        table.add_column(
            name,
            justify="right" if name in NUMBERS else "left",
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if flexible else None,
        )
    for client in clients:
        table.add_row(*(Text(cell) for cell in cells(client)), style=_STYLES[Place(client["place"])])
    return table


def _rest(overview: dict[str, Any], shown: int) -> str:
    more = len(overview["clients"]) - shown
    return f"{more} more; Ctrl-C ends" if more else "Ctrl-C ends"
