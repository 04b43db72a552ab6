"""The manual pages say what the program does."""

import importlib
import importlib.resources
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import senderscore_policy
from senderscore_policy import cli
from senderscore_policy.cli import COMMANDS
from senderscore_policy.config.paths import CONFIG_FILE

MAN = Path(__file__).parents[2] / "docs/man"
DEFAULT_FILE = Path(str(importlib.resources.files(senderscore_policy) / "config/default.toml"))


def page(script: str, source: Path) -> str:
    """Return a page in scdoc's format, as the package build makes it."""
    environment = os.environ | {"PYTHONPATH": str(Path(senderscore_policy.__path__[0]).parent)}
    command: list[str | Path] = [sys.executable, "-B", MAN / script, source]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


@pytest.fixture(scope="module")
def program_page() -> str:
    """Return the source of senderscore-policy(8)."""
    return page("commands.py", MAN / "senderscore-policy.8.scd")


@pytest.fixture(scope="module")
def file_page() -> str:
    """Return the source of senderscore-policy.toml(5)."""
    return page("options.py", DEFAULT_FILE)


def plain(text: str) -> str:
    """Return text without scdoc's escapes."""
    return text.replace("\\", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_described_with_all_its_arguments(program_page: str, command: str) -> None:
    """The page has every command, and under it every option and its help."""
    parser, _ = cli.command(command)
    section = re.search(rf"^## {command}\n(.*?)(?=^##? )", program_page, re.MULTILINE | re.DOTALL)
    assert section
    text = plain(section[1])
    for action in parser._actions:
        if "-h" not in action.option_strings:
            assert not action.option_strings or action.option_strings[0] in text
            assert "-c" in action.option_strings or str(action.help).split("%")[0] in text
    assert all(line.strip() in text for line in (parser.epilog or "").splitlines() if line.startswith(" "))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_sentence_of_the_help_stays_in_one_paragraph(program_page: str, command: str) -> None:
    """The page has each paragraph at the end of a command's help on one line, however the help wraps it."""
    parser, _ = cli.command(command)
    for block in re.split(r"\n{2,}", parser.epilog or ""):
        prose = " ".join(line for line in block.splitlines() if not line.startswith(" "))
        assert prose[:1].upper() + prose[1:] in plain(program_page).splitlines()


def test_the_synopsis_names_each_command(program_page: str) -> None:
    """The head of the page lists all commands."""
    synopsis = program_page.partition("# SYNOPSIS")[2].partition("# DESCRIPTION")[0]
    assert re.findall(r"^\*senderscore-policy ([a-z-]+)\*", synopsis, re.MULTILINE) == list(COMMANDS)


def test_the_exit_statuses_are_those_of_the_program(program_page: str) -> None:
    """The page lists the exit statuses of the program and no others."""
    statuses = program_page.partition("# EXIT STATUS")[2].partition("\n# ")[0]
    known = (os.EX_OK, os.EX_USAGE, os.EX_UNAVAILABLE, os.EX_IOERR, os.EX_NOPERM, os.EX_CONFIG)
    assert [int(number) for number in re.findall(r"^\*(\d+)\*", statuses, re.MULTILINE)] == list(known)


def test_the_pages_name_the_configuration_file(program_page: str, file_page: str) -> None:
    """Both pages name the path of the configuration file."""
    assert f"_{CONFIG_FILE}_" in program_page
    assert f"_{CONFIG_FILE}_" in file_page


def options(table: dict[str, Any], section: str = "") -> list[tuple[str, str]]:
    """Return each option of the default file with its section, without the tables that repeat."""
    found = [(section, key) for key, value in table.items() if not isinstance(value, dict) and key != "tier"]
    return found + [item for key, value in table.items() if isinstance(value, dict) for item in options(value, key)]


def test_each_option_is_described_in_its_section(file_page: str) -> None:
    """The page has each option of the default file under the head of its section."""
    described, section = [], ""
    for line in plain(file_page).splitlines():
        if head := re.match(r"## \[(\w+)\]", line):
            section = head[1]
        if option := re.match(r"\*(\w+)\* = ", line):
            described.append((section, option[1]))
    assert described == options(tomllib.loads(DEFAULT_FILE.read_text(encoding="utf-8")))


@pytest.mark.parametrize("key", ["scores", "limit", "reply", "networks", "score"])
def test_tables_that_repeat_are_described(file_page: str, key: str) -> None:
    """[[tier]] and [[override]] have sections of their own, which name their keys."""
    tables = re.findall(r"^## \[\[\w+\]\]\n(.*?)(?=^## )", file_page, re.MULTILINE | re.DOTALL)
    assert len(tables) == 2
    assert f'"{key}"' in "".join(tables)


@pytest.mark.skipif(not shutil.which("scdoc"), reason="scdoc is not installed; the package build has it")
@pytest.mark.parametrize("name", ["program_page", "file_page"])
def test_scdoc_takes_the_pages(request: pytest.FixtureRequest, name: str) -> None:
    """scdoc accepts both pages without a warning."""
    source = request.getfixturevalue(name)
    done = subprocess.run(["scdoc"], input=source.encode(), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
