"""The parts of scdoc's format (scdoc(5)) that the manual pages are written in."""  # noqa: INP001 - it lies beside the scripts that import it

import re
from collections.abc import Iterable


def escaped(text: str) -> str:
    """Text that scdoc takes as it is."""
    return re.sub(r"([\\*_`#\[\]])", r"\\\1", text)


def literal(lines: Iterable[str], indent: str = "") -> str:
    """Lines in a fixed layout."""
    fence = f"{indent}```"
    return "\n".join([fence, *(f"{indent}{line}".rstrip() for line in lines), fence])


def paragraph(lines: Iterable[str], indent: str = "") -> str:
    """Lines as one paragraph of prose."""
    return indent + escaped(" ".join(" ".join(lines).split()))
