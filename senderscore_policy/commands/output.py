"""What commands print: aligned tables for people, JSON for programs."""

import json
import sys
from collections.abc import Container, Iterable, Sequence
from typing import Any, Final


def say(text: str) -> None:
    """Print a line, or several."""
    sys.stdout.write(f"{text}\n")


def say_json(value: object) -> None:
    """Print a value as JSON."""
    say(json.dumps(value, indent=2))


def table(head: Sequence[str], rows: Iterable[Sequence[object]], numbers: Container[str] = ()) -> str:
    """An aligned table. None is shown as "-".

    Args:
        head: the columns' names.
        rows: their values.
        numbers: names of the columns that go to the right.
    """
    lines = [list(head), *(["-" if value is None else str(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if name in numbers else cell.ljust(width)
            for cell, width, name in zip(line, widths, head, strict=True)
        ).rstrip()
        for line in lines
    )


COLUMNS: Final = ("client", "count", "deferred", "score", "reputation", "tier", "limit", "left")
NUMBERS: Final = frozenset({"count", "deferred", "score", "limit", "left"})


def show(clients: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    """Print the clients.

    Args:
        clients: objects as the daemon gives them; what an object has beyond the columns is not shown.
        as_json: for programs.
    """
    if as_json:
        say_json([{name: client[name] for name in COLUMNS} for client in clients])
    else:
        say(table(COLUMNS, [[client[name] for name in COLUMNS] for client in clients], NUMBERS))
