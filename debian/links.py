#!/usr/bin/env python3
"""Make the links of an installed documentation folder work: links.py FOLDER.

A link to `contrib/` leads to the package's examples. A link to a file that only the source tree has becomes plain text.
"""

import re
import sys
from pathlib import Path

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)#]+)(#[^)]*)?\)")


def linked(page: Path, link: re.Match[str]) -> str:
    """Return what replaces one link of a page."""
    text, target, anchor = link.groups()
    target = re.sub(r"(^|/)contrib/", r"\1examples/", target)
    return f"[{text}]({target}{anchor or ''})" if (page.parent / target).exists() else text


for file in Path(sys.argv[1]).rglob("*.md"):
    content = file.read_text(encoding="utf-8")
    file.write_text(LINK.sub(lambda link, page=file: linked(page, link), content), encoding="utf-8")
