"""What commands print: aligned tables for people, JSON for programs."""

import json
import sys
from collections.abc import Iterable, Sequence


def say(text: str) -> None:
    """Print a line, or several."""
    sys.stdout.write(f"{text}\n")


def say_json(value: object) -> None:
    """Print a value as JSON."""
    say(json.dumps(value, indent=2))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """An aligned table; numbers, and their column's head, go to the right. None is shown as "-".

    Args:
        head: the columns' names.
        rows: their values.
    """
    rows = list(rows)
    cells = [list(head), *(["-" if value is None else str(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [any(isinstance(value, int) for value in column) for column in zip(*rows, strict=True)] or [False] * len(
        head
    )
    lines = (
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
    )
    return "\n".join(lines)
