"""The commented default file, as an administrator finds it in /etc."""

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from senderscore_policy.config.load import DEFAULT_FILE, load, parse
from senderscore_policy.config.model import Config
from senderscore_policy.errors import ConfigError
from senderscore_policy.policy.tiers import Limit

TEXT = DEFAULT_FILE.read_text(encoding="utf-8")


def options() -> dict[str, tuple[str, str]]:
    """Each option outside of tables: its path, with the comment above it and its line."""
    found, section = {}, ""
    for block in TEXT.split("\n\n"):
        comment = "\n".join(line.removeprefix("# ") for line in block.splitlines() if line.startswith("#"))
        code = [line for line in block.splitlines() if not line.startswith("#")]
        if code and code[0].startswith("["):
            section = code[0].strip("[]")
        elif code:
            key = code[0].split(" = ")[0]
            found[f"{section}.{key}" if section else key] = (comment, code[0])
    return found


OPTIONS = options()
NEEDS = {
    "listen.status_public": 'status = "192.0.2.1:1"\n',
    "counters.replicas": 'servers = ["a:1", "b:1"]\n',
    "counters.tls_certificate": 'tls_ca = "{0}"\ntls_key = "{0}"\n',
    "counters.tls_key": 'tls_ca = "{0}"\ntls_certificate = "{0}"\n',
}
"""The other options of a section without which an example is invalid."""


def with_option(path: str, line: str) -> str:
    """A file with nothing but one option."""
    section = path.rpartition(".")[0]
    return f"[{section}]\n{line}" if section else line


def fields(value: Any, path: str) -> list[str]:
    """The paths of a section's fields."""
    return [f"{path}.{field.name}" for field in dataclasses.fields(value)]


def test_it_is_what_holds_without_a_file() -> None:
    """The file says nothing but the defaults, and so do an empty file and none."""
    assert load(DEFAULT_FILE) == Config()
    assert parse("", "policy.toml") == Config()
    assert load(None) == Config()


def test_it_has_every_option() -> None:
    """Each field of the configuration is explained there, and nothing else."""
    config = Config()
    assert {*OPTIONS, "override", "tier"} == {
        "mode",
        *fields(config.listen, "listen"),
        *fields(config.reputation, "reputation"),
        "override",
        *fields(config.counters, "counters"),
        "tier",
        "unscored.limit",
        "unavailable.limit",
        *fields(config.exempt, "exempt"),
        "reply.over_limit",
        "state.directory",
        *fields(config.log, "log"),
    }
    assert {field.name for field in dataclasses.fields(Limit)} == {"name", "messages", "reply"}
    assert all(f'# "{key}":' in TEXT for key in ("scores", "limit", "reply"))


@pytest.mark.parametrize("path", OPTIONS)
def test_each_option_says_what_is_allowed_and_shows_an_example(path: str, tmp_path: Path) -> None:
    """The example is valid, and another value than the default."""
    comment, line = OPTIONS[path]
    allowed = re.search(r"^Allowed: .+", comment, re.MULTILINE)
    example = re.search(r"^Example: (.+)", comment, re.MULTILINE)
    assert allowed
    assert example
    assert example[1] != line
    document = tomllib.loads(TEXT)
    file = tmp_path / "file"
    file.touch()
    valid = re.sub(r'"/etc/.*"', f'"{file}"', example[1])
    assert parse(with_option(path, NEEDS.get(path, "").format(file) + valid), "policy.toml") != Config()
    section, _, key = path.rpartition(".")
    assert key in (document[section] if section else document)


@pytest.mark.parametrize(
    "path", [path for path, (text, _) in OPTIONS.items() if re.search(r"Allowed: [\d.]+ to", text)]
)
def test_the_range_is_the_one_that_is_checked(path: str) -> None:
    """What the file says is allowed is what an error message says, too."""
    allowed = re.search(r"^Allowed: ([\d.]+ to \d+)", OPTIONS[path][0], re.MULTILINE)
    assert allowed
    key = path.rpartition(".")[2]
    with pytest.raises(ConfigError, match=f"must be .* number from {re.escape(allowed[1])}[ ,]"):
        parse(with_option(path, f"{key} = -7"), "policy.toml")


def test_its_commented_tables_are_valid(tmp_path: Path) -> None:
    """An override or a tier that is copied from its example works."""
    lines = TEXT.splitlines()
    tables: list[str] = []
    for start, line in enumerate(lines):
        if line.startswith("# [["):
            end = next(
                number
                for number in range(start, len(lines))
                if not lines[number].startswith("# ") or lines[number] == "#"
            )
            tables.append("\n".join(line.removeprefix("# ") for line in lines[start:end]))
    file = tmp_path / "list"
    file.touch()
    text = re.sub(r'"/etc/.*"', f'"{file}"', "\n".join(table for table in tables if "override" in table))
    overrides = parse(text, "policy.toml").overrides
    assert [override.score for override in overrides] == [75, None]
    [tier] = [table for table in tables if "override" not in table]
    rest = '[[tier]]\nscores = "11-100"\nlimit = "unlimited"'
    assert parse(f"{tier}\n{rest}", "policy.toml").tiers.tiers[0].limit.messages == 20


def test_its_lines_fit_a_terminal() -> None:
    """Comments read well in an editor of 100 columns."""
    assert [line for line in TEXT.splitlines() if line.startswith("#") and len(line) > 101] == []
