"""The README's console session shows what the program prints."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

from daemon_process import Daemon, run_command
from waiting import free_port

ROOT = Path(__file__).parents[2]
SESSION = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = ".venv/bin/senderscore-policy "


def test_the_session_of_the_readme(make_daemon: Callable[..., Daemon]) -> None:
    """Each command, typed while the demo runs, prints what the README says."""
    session = SESSION.findall((ROOT / "README.md").read_text())
    steps = [step.partition("\n") for part in session for step in part.split("$ ")[1:]]
    assert steps
    daemon = make_daemon()
    # The demo itself, but for the addresses: those may be taken here.
    demo = (ROOT / "docs/demo.toml").read_text()
    listen = f'[listen]\npolicy = ["inet:127.0.0.1:{free_port()}"]\nstatus = ""\n'
    daemon.file.write_text(f'{demo}\n{listen}control = "{daemon.control}"\n')
    daemon.start(STATE_DIRECTORY=str(daemon.directory / "state"))
    for command, _, expected in steps:
        assert command.startswith(COMMAND)
        printed = daemon.run(*shlex.split(command.removeprefix(COMMAND)))
        assert (command, printed.stdout) == (command, expected)


def test_every_command_of_the_pages_exists() -> None:
    """Every command on the pages is a command of the program."""
    usage = run_command("--help").stdout
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for command in re.findall(r"senderscore-policy ([a-z][a-z-]*)\b(?!\.)", page.read_text()):
            assert re.search(rf"^\s+{command}\b", usage, re.MULTILINE), f"{page.name} names {command}"
