"""SECURITY.md lists the bounds of the code."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "SECURITY.md"
UNITS = {"KiB": 1024, "MiB": 1024**2}


def bounds() -> list[tuple[str, str]]:
    """Return the constant of each row with the value that the page gives."""
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if "| `" in line]
    return [(row[4].strip("`"), row[2]) for row in rows if len(row) == 5]


def value_of(name: str) -> float:
    """Return the value of a module's constant, a dataclass field's default or a parameter's, `Class(parameter)`."""
    path, _, parameter = name.rstrip(")").partition("(")
    module, *names = re.split(r"\.(?=[A-Z])|(?<=[a-z])\.(?=[a-z_]+$)", path)
    owner: object = getattr(importlib.import_module(f"senderscore_policy.{module}"), names[0])
    if parameter or len(names) == 2:
        return inspect.signature(owner).parameters[parameter or names[1]].default
    return owner


@pytest.mark.parametrize(("name", "said"), bounds())
def test_each_bound_is_that_of_the_code(name: str, said: str) -> None:
    """The first number of each row, in its unit, is the value of the constant."""
    number, unit = re.match(r"([0-9,]+) ?([KM]iB)?", said).groups()
    assert int(number.replace(",", "")) * UNITS.get(unit, 1) == value_of(name)


def test_no_bound_of_the_code_is_left_out() -> None:
    """The table has every MAX_… and LARGEST_… of the daemon's modules."""
    package = PAGE.parent / "senderscore_policy"
    found = {
        f"{'.'.join(path.relative_to(package).with_suffix('').parts)}.{name}"
        for folder in ("policy", "counters", "reputation", "monitoring", "server", "web")
        for path in (package / folder).rglob("*.py")
        for name in re.findall(r"^((?:MAX|LARGEST)_\w+): Final", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert found
    assert found <= {name for name, _ in bounds()}
