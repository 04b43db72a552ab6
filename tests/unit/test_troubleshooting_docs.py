"""docs/troubleshooting.md describes the checks of `doctor`; the program accepts the commands of its pages."""

import re
import shlex
from pathlib import Path

import pytest

import senderscore_policy
from senderscore_policy import cli
from senderscore_policy.cli import COMMANDS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
TOOLS = Path(senderscore_policy.__path__[0]) / "commands" / "doctor"
CALLS = re.findall(
    r"^(?:# )?senderscore-policy ([^|\n]+)", PAGE + (DOCS / "log.md").read_text(encoding="utf-8"), re.MULTILINE
)


def test_each_check_of_doctor_is_described() -> None:
    """The page describes each check under the name that `doctor` prints."""
    table = PAGE.partition("| check |")[2].partition("\n\n")[0]
    described = {
        name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    source = "".join(path.read_text(encoding="utf-8") for path in TOOLS.glob("*.py"))
    assert described == set(re.findall(r'Finding\(\s*"(\w+)"', source))


def test_the_report_is_laid_out_as_doctor_prints_it() -> None:
    """The report on the page has status, check and text in the columns of `doctor`."""
    report = PAGE.partition("# senderscore-policy doctor\n")[2].partition("```")[0]
    assert all(re.match(r"(OK   |WARN |FAIL ) [\w ]{14} \S", line) for line in report.splitlines())


@pytest.mark.parametrize("call", CALLS)
def test_the_commands_can_be_typed_as_they_stand(call: str) -> None:
    """The program accepts each command of the pages with its arguments."""
    name, *arguments = shlex.split(call)
    assert name in COMMANDS
    parser, _ = cli.command(name)
    parser.parse_intermixed_args(arguments)
