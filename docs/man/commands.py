#!/usr/bin/env python3
"""Insert the help of every command into the frame of senderscore-policy(8): commands.py FRAME.SCD."""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from scdoc import escaped, literal, paragraph

from senderscore_policy import cli
from senderscore_policy.cli import COMMANDS


class OneLine(argparse.RawDescriptionHelpFormatter):
    """Help layout with the usage on one line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=10_000)


def parser_of(command: str) -> argparse.ArgumentParser:
    """Return the argument parser of one command."""
    parser, _ = cli.command(command)
    parser.formatter_class = OneLine
    return parser


def usage(parser: argparse.ArgumentParser) -> str:
    """Return the usage line of a command, without --help."""
    text = parser.format_usage().removeprefix(f"usage: {parser.prog}").replace(" [-h]", "", 1).strip()
    return f"*{escaped(parser.prog)}* {escaped(text)}"


def description(text: str) -> Iterator[str]:
    """Yield the paragraphs of a help text. A paragraph with columns keeps its layout."""
    for part in re.split(r"\n{2,}", text.strip()):
        lines = part.splitlines()
        columns = len(lines) > 1 and all(re.search(r"\S {2,}\S|^ ", line) for line in lines)
        yield literal(lines) if columns else paragraph(lines)


def arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield each argument with its help, except -c and -h, which the frame describes."""
    formatter = OneLine(parser.prog)
    for action in parser._actions:  # noqa: SLF001 - argparse has no public way to its arguments
        if {"-h", "-c"} & set(action.option_strings):
            continue
        names = ", ".join(f"*{escaped(name)}*" for name in action.option_strings)
        value = "" if action.nargs == 0 else f"_{escaped(str(action.metavar or action.dest))}_"
        help_text = formatter._expand_help(action)  # noqa: SLF001 - as above: "(default: %(default)s)"
        yield f"{f'{names} {value}'.strip()}\n{paragraph([help_text], chr(9))}"


def examples(epilog: str) -> Iterator[str]:
    """Yield the parts of a help text's end. Indented lines are commands, the others are prose."""
    for block in re.findall(r"^(?: .*\n?)+|^(?:\S.*\n?)+", epilog, re.MULTILINE):
        yield (
            literal(line[2:] for line in block.splitlines())
            if block.startswith(" ")
            else paragraph([block[0].upper() + block[1:]])
        )


def command_section(name: str) -> str:
    """Return the section of one command."""
    parser = parser_of(name)
    parts = [
        f"## {name}",
        usage(parser),
        *description(parser.description or ""),
        *arguments(parser),
        *examples(parser.epilog or ""),
    ]
    return "\n\n".join(parts)


def page(frame: str) -> str:
    """Return the manual page, from the frame that has all but the commands."""
    synopsis = "++\n".join(usage(parser_of(name)) for name in COMMANDS)
    return frame.replace("@SYNOPSIS@", synopsis).replace("@COMMANDS@", "\n\n".join(map(command_section, COMMANDS)))


if __name__ == "__main__":
    sys.stdout.write(page(Path(sys.argv[1]).read_text(encoding="utf-8")))
