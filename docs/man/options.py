#!/usr/bin/env python3
"""Write senderscore-policy.toml(5) in scdoc's format from the comments of the default file: options.py DEFAULT.TOML."""

import re
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from scdoc import escaped, literal, paragraph

HEAD = """senderscore-policy.toml(5)

# NAME

senderscore-policy.toml - configuration of senderscore-policy(8)

# SYNOPSIS

_/etc/senderscore-policy/policy.toml_

# DESCRIPTION

A TOML file. Every option has a default, so the file needs only what differs from the defaults.
*senderscore-policy check-config --defaults* prints a file with all options, their defaults and these texts."""

FOOT = """# SEE ALSO

*senderscore-policy*(8), *access*(5), *postconf*(5)
"""

NEW_PARAGRAPH = re.compile(r'\n\n|\n(?=Allowed:|Example:|"\w+":)')


def prose(lines: list[str], indent: str) -> Iterator[str]:
    """Yield paragraphs. `Allowed:`, `Example:` and each key of a table begin a new one."""
    for text in NEW_PARAGRAPH.split("\n".join(lines).strip()):
        yield paragraph([text], indent)


def blocks(comment: list[str], indent: str) -> Iterator[str]:
    """Yield a comment's paragraphs, and its examples: indented lines, and the lines from a table's head to the end."""
    table = next((index for index, line in enumerate(comment) if line.startswith("[[")), len(comment))
    for is_literal, group in groupby(comment[:table], lambda line: line.startswith("    ")):
        lines = list(group)
        if is_literal:
            yield literal([line[4:] for line in lines], indent)
        else:
            yield from prose(lines, indent)
    if comment[table:]:
        yield literal(comment[table:], indent)


def entries(text: str) -> Iterator[str]:
    """Yield the sections, options and tables of the default file in their order."""
    for part in re.split(r"\n{2,}", text.strip()):
        lines = part.splitlines()
        comment = [line.removeprefix("#").removeprefix(" ") for line in lines if line.startswith("#")]
        code = [line for line in lines if not line.startswith("#")]
        if not code:
            table = next((line for line in comment if line.startswith("[[")), None)
            yield from [f"## {table}"] if table else []
            yield from blocks(comment, "")
        elif code[0].startswith("["):
            yield from [f"## {code[0]}"] if comment else []
            yield from blocks(comment, "")
            yield from ["Default:"] if comment and code[1:] else []
            yield from [literal(code)] if code[1:] else []
        else:
            key, _, default = code[0].partition(" = ")
            (first, *more) = blocks(comment, "\t")
            yield f"*{escaped(key)}* = {escaped(default)}\n{first}"
            yield from more


def page(default_file: str) -> str:
    """Return the manual page of a commented default file."""
    title, _, text = default_file.partition("\n")
    assert title.startswith("# policy.toml - "), title
    introduction, _, options = text.strip().partition("\n\n")
    return "\n\n".join([HEAD, *entries(introduction), "# OPTIONS", *entries(options), FOOT])


if __name__ == "__main__":
    sys.stdout.write(page(Path(sys.argv[1]).read_text(encoding="utf-8")))
