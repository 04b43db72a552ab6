"""What a check of `doctor` comes to, and how people see it."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from senderscore_policy.commands.output import Part, console, in_terminal, say_paragraph


class Status(StrEnum):
    """How bad it is."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `doctor`, and one object of `doctor --json`.

    Args:
        check: what was looked at, one word.
        status: FAIL: the policy does not do its work. WARN: it does, but something may surprise, or could not be seen.
        detail: what was found, without a full stop.
        remedy: what to do about it; empty where nothing is to be done.
    """

    check: str
    status: Status
    detail: str
    remedy: str = ""


OK, WARN, FAIL = Status
_STYLES: Final = {OK: "green", WARN: "yellow", FAIL: "red"}
_INDENT: Final = 21
"""Columns for status and check."""


def show(finding: Finding) -> None:
    """Print a finding: one line, or in a terminal a paragraph and one more for the remedy."""
    head: list[Part] = [(f"{finding.status:<6}", _STYLES[finding.status]), f"{finding.check:<14} "]
    if not finding.remedy or not in_terminal():
        stop = "" if finding.detail.endswith(("?", ".")) else "."
        remedy = finding.remedy and f"{stop} Remedy: {finding.remedy}"
        say_paragraph(f"{finding.detail}{remedy}", head=head, indent=_INDENT)
        return
    say_paragraph(finding.detail, head=head, indent=_INDENT)
    lines = [finding.remedy]
    if finding.remedy.startswith("postconf "):
        # A shell joins these lines again, within double quotes too.
        width = console().width - _INDENT - 2
        lines = textwrap.wrap(finding.remedy, width, break_long_words=False, break_on_hyphens=False)
        lines[:-1] = [f"{line} \\" for line in lines[:-1]]
    for number, line in enumerate(lines):
        say_paragraph(line, head=[] if number else ["      Remedy:"], indent=_INDENT)


def summary(findings: Sequence[Finding]) -> str:
    """How many findings of each kind there are, the worst first."""
    counts = {status: sum(finding.status is status for finding in findings) for status in reversed(Status)}
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count)
