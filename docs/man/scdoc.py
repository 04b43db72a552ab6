"""The parts of scdoc's format (scdoc(5)) that the manual pages use."""  # noqa: INP001 - the scripts in this folder import it

import re
from collections.abc import Iterable


def escaped(text: str) -> str:
    """Return text with scdoc's special characters escaped."""
    return re.sub(r"([\\*_`#\[\]])", r"\\\1", text)


def literal(lines: Iterable[str], indent: str = "") -> str:
    """Return lines as a block with a fixed layout."""
    fence = f"{indent}```"
    return "\n".join([fence, *(f"{indent}{line}".rstrip() for line in lines), fence])


def paragraph(lines: Iterable[str], indent: str = "") -> str:
    """Return lines as one paragraph of prose."""
    return indent + escaped(" ".join(" ".join(lines).split()))
