"""The program accepts the configuration and the commands of README and docs/operations.md."""

import re
import shlex
from pathlib import Path

import pytest

from senderscore_policy import cli
from senderscore_policy.cli import COMMANDS
from senderscore_policy.config.load import parse

ROOT = Path(__file__).parents[2]
TEXTS = [(ROOT / path).read_text(encoding="utf-8") for path in ("README.md", "docs/operations.md")]
TOML = [block for text in TEXTS for block in re.findall(r"```toml\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)]
CALLS = [
    call
    for text in TEXTS
    for call in re.findall(r"(?:^|`)senderscore-policy ([a-z-]+[^`|\n]*)", text, re.MULTILINE)
    if "*" not in call
]


@pytest.mark.parametrize("block", TOML)
def test_each_piece_of_configuration_is_accepted(block: str, tmp_path: Path) -> None:
    """An administrator can paste it into policy.toml, once the files that it names exist."""
    for name in re.findall(r'"/etc/senderscore-policy/(.*?)"', block):
        (tmp_path / name).write_text("203.0.113.0/24\n")
    text = re.sub(r"^ +", "", block, flags=re.MULTILINE).replace("/etc/senderscore-policy", str(tmp_path))
    parse(text if not text.startswith("tls_") else f"[counters]\n{text}", "policy.toml")


@pytest.mark.parametrize("call", CALLS)
def test_each_command_can_be_pasted(call: str) -> None:
    """The program accepts each command of the pages with its arguments."""
    name, *arguments = shlex.split(call.replace("QUEUE_ID", "4T9xKk3gZ2z1Rw"), comments=True)
    assert name in COMMANDS
    parser, _ = cli.command(name)
    parser.parse_intermixed_args(arguments)
