"""What commands print: JSON for programs, tables and paragraphs for people; in a terminal wrapped and coloured."""

import json
import sys
from collections.abc import Container, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

Part = str | tuple[str, str]
"""Text, or text with a style of rich, such as "bold red"."""


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def say_json(value: object) -> None:
    say(json.dumps(value, indent=2))


def plain(value: object) -> str:
    """A value as text without control characters, by which its sender could control the terminal."""
    return "-" if value is None else "".join(sign if sign.isprintable() else "?" for sign in str(value))


def in_terminal() -> bool:
    return sys.stdout.isatty()


@cache
def console() -> "Console":
    """The terminal; rich honours NO_COLOR, TERM and COLUMNS."""
    # Only here: rich takes longer to import than most commands to run.
    from rich.console import Console  # noqa: PLC0415

    return Console(highlight=False, markup=False, emoji=False)


def say_paragraph(*body: Part, head: Sequence[Part] = (), indent: int = 0) -> None:
    """Print a paragraph: on one line, and in a terminal coloured, wrapped at words and indented behind its head."""
    left, right = (
        [(plain(each), "") if isinstance(each, str) else (plain(each[0]), each[1]) for each in parts]
        for parts in (head, body)
    )
    if not in_terminal():
        say(f"{''.join(text for text, _ in left):<{indent}}{''.join(text for text, _ in right)}")
        return
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415

    if sum(len(text) for text, _ in left) > indent:  # a line of its own
        console().print(Text.assemble(*left))
        left = []
    grid = Table.grid()
    if indent:  # rich would make a column of no width one sign wide
        grid.add_column(width=indent, no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(*[Text.assemble(*left)][:indent], Text.assemble(*right))
    console().print(grid)


def counted(number: int, noun: str) -> str:
    """A number of things: "1 message", "2,000 messages"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def table(head: Sequence[str], rows: Iterable[Sequence[object]], numbers: Container[str] = ()) -> str:
    """An aligned table, with the columns named in `numbers` to the right. None is shown as "-"."""
    lines = [list(head), *(["-" if value is None else str(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if name in numbers else cell.ljust(width)
            for cell, width, name in zip(line, widths, head, strict=True)
        ).rstrip()
        for line in lines
    )
