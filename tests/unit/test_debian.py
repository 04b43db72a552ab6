"""The Debian package's own files."""

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import senderscore_policy
from senderscore_policy import cli
from senderscore_policy.cli import COMMANDS
from senderscore_policy.monitoring.log import decision_line
from senderscore_policy.policy.clients import Client
from senderscore_policy.policy.decision import Decision, Reason
from senderscore_policy.policy.protocol import RequestParser
from senderscore_policy.policy.reputation import Scored

DEBIAN = Path(__file__).parents[2] / "debian"
BASH_COMPLETION = Path("/usr/share/bash-completion/bash_completion")

needs_bash_completion = pytest.mark.skipif(
    not (shutil.which("bash") and BASH_COMPLETION.exists()), reason="bash-completion is not installed"
)


def test_the_version_is_the_program_s() -> None:
    """The package's upstream version is the version that the program prints."""
    newest = re.match(r"senderscore-policy \(([^-)]+)-", (DEBIAN / "changelog").read_text())
    assert newest
    assert newest[1] == senderscore_policy.__version__


def deferral() -> str:
    """Return the daemon's log line about a deferred message."""
    attributes = "request=smtpd_access_policy\nclient_address=192.0.2.75\nqueue_id=4ABC\nsender=a@example.org\n\n"
    (request,) = RequestParser().feed(attributes.encode())
    client = Client("192.0.2.75")
    reply = "421 sender score = 75, you're limited to 800 messages/hour in our policy, try again later"
    return decision_line(
        Decision(request, client, Reason.OVER_LIMIT, reply, 801, "71-80", 800.0, Scored(75), 1_790_000_000.0)
    )


@pytest.mark.parametrize("line", ["Reloading {}...", "Reloaded {}."])
def test_logcheck_ignores_a_reload(line: str) -> None:
    """The service manager's lines about a reload are routine."""
    rules = DEBIAN / "senderscore-policy.logcheck.ignore.server"
    unit = (DEBIAN / "senderscore-policy.service").read_text()
    (description,) = re.findall(r"^Description=(.*)$", unit, re.MULTILINE)
    entry = f"Nov 22 21:00:00 mx systemd[1]: {line.format(f'senderscore-policy.service - {description}')}\n"
    done = subprocess.run(["grep", "-E", "-f", rules], input=entry, text=True, capture_output=True, check=False)
    assert done.stdout == entry


@pytest.mark.parametrize("time", ["Nov 22 21:00:00", "2026-11-22T21:00:00.123456+00:00"])
@pytest.mark.parametrize(
    ("line", "routine"),
    [
        (deferral(), True),
        ("serving on 127.0.0.1:10045, mode enforce, counters in memory", True),
        ("configuration reloaded, generation 2", True),
        ("score.senderscore.com answers: scores are looked up", True),
        ("score.senderscore.com is failing (SERVFAIL): clients without a cached score fall under [unavailable]", False),
        ("stopping", True),
        ("malformed request from 127.0.0.1:40000: a line without '='; disconnected", False),
        ("configuration not reloaded: counters.window: must be 60 or more", False),
    ],
)
def test_logcheck_mails_what_is_not_routine(time: str, line: str, routine: bool) -> None:
    """logcheck mails the administrator about trouble, and not about each deferral."""
    rules = DEBIAN / "senderscore-policy.logcheck.ignore.server"
    entry = f"{time} mx senderscore-policy[123]: {line}\n"
    done = subprocess.run(["grep", "-E", "-f", rules], input=entry, text=True, capture_output=True, check=False)
    assert (done.stdout == entry) == routine


def completions(line: str, directory: Path) -> set[str]:
    """Return the words that TAB offers at the end of a command line."""
    program = directory / "senderscore-policy"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m senderscore_policy "$@"\n')
    program.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(senderscore_policy.__path__[0]).parent)}
    script = f"""
        . {BASH_COMPLETION}
        . {DEBIAN}/senderscore-policy.bash-completion
        compopt() {{ :; }}  # works only where the shell itself completes
        COMP_LINE=$1 COMP_POINT=${{#1}}
        read -ra COMP_WORDS <<<"$1"
        [[ $1 != *' ' ]] || COMP_WORDS+=('')
        COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        _senderscore_policy {program} "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD - 1]}}"
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-c", script, "bash", line],
        check=True, capture_output=True, text=True, cwd=directory, env=environment,
    )  # fmt: skip
    assert done.stderr == ""
    return set(done.stdout.split())


UNITS = DEBIAN.parent / "contrib/systemd"


def test_the_unit_for_other_distributions_differs_in_the_path_of_the_program() -> None:
    """An installation by pip is confined exactly as the Debian package is."""
    debian = (DEBIAN / "senderscore-policy.service").read_text()
    program = "/usr/bin/senderscore-policy"
    other = debian.replace(program, f"/opt/senderscore-policy{program.removeprefix('/usr')}")
    assert (UNITS / "senderscore-policy.service").read_text() == other


@pytest.mark.parametrize("file", ["senderscore-policy.socket", "senderscore-policy.sysusers"])
def test_the_other_units_are_those_of_the_package(file: str) -> None:
    """The socket and the system user are the same on every distribution."""
    assert (UNITS / file).read_bytes() == (DEBIAN / file).read_bytes()


def test_systemd_starts_the_daemon_again_unless_a_file_must_change_first() -> None:
    """A taken port may come free. Wrong usage, a denied file and a wrong configuration need an administrator."""
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[method-assign,assignment] # keys keep their capital letters
    unit.read_string((DEBIAN / "senderscore-policy.service").read_text())
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert unit["Service"]["Restart"] == "on-failure"
    statuses = {int(status) for status in unit["Service"]["RestartPreventExitStatus"].split()}
    assert statuses == {os.EX_USAGE, os.EX_NOPERM, os.EX_CONFIG}


def test_the_packaged_configuration_has_only_comments() -> None:
    """An upgrade never asks about the file: it holds the administrator's lines, and no option that could change."""
    lines = (DEBIAN / "policy.toml").read_text().splitlines()
    assert all(line.startswith("#") for line in lines)
    assert len(lines) < 20


@needs_bash_completion
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("senderscore-policy ", {*COMMANDS, "--help", "--version", "--config"}),
        ("senderscore-policy -c sender", {"senderscore-policy"}),
        ("senderscore-policy -c policy.toml ge", {"get"}),
        ("senderscore-policy -c policy.toml increment --b", {"--by"}),
        ("senderscore-policy check", {"check-config"}),
        ("senderscore-policy get --", {"--help", "--config", "--json"}),
        ("senderscore-policy increment --b", {"--by"}),
        ("senderscore-policy ask client_a", {"client_address="}),
        ("senderscore-policy serve -c sender", {"senderscore-policy"}),
    ],
)
def test_tab_completes_commands_options_and_files(line: str, offered: set[str], tmp_path: Path) -> None:
    """Bash offers the commands, options and files that the program accepts at that place."""
    assert completions(line, tmp_path) == offered


@needs_bash_completion
@pytest.mark.parametrize("command", COMMANDS)
def test_tab_offers_files_where_an_option_takes_one(command: str, tmp_path: Path) -> None:
    """TAB offers files after an option that takes a file, and nothing after one that takes a number or a text."""
    parser, _ = cli.command(command)
    actions = [action for action in parser._actions if action.option_strings and action.nargs != 0]
    expected = {
        name: {"senderscore-policy"} if re.fullmatch(r"FILE|DIR|OUT|.*\.toml", str(action.metavar)) else set[str]()
        for action in actions
        for name in action.option_strings
    }
    assert {name: completions(f"senderscore-policy {command} {name} ", tmp_path) for name in expected} == expected
