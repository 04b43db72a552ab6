"""What all commands have in common: usage, help, exit status, where the configuration is read."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest
from command_fakes import SCORE, STANDING, ControlDaemon, PolicyServer, Run, closed

from senderscore_policy import __version__
from senderscore_policy.cli import COMMANDS
from senderscore_policy.config import paths

ADDRESS = "192.0.2.75"
NO_DECISIONS = {
    "decisions": [], "clients": [], "found": 0, "counted": "messages", "window": "hour",
    "remembered_since": {"over_limit": 0, "others": 0},
}  # fmt: skip


def test_help_lists_every_command(run: Run) -> None:
    """It also explains the exit status."""
    status, out, err = run("--help")
    assert (status, err) == (0, "")
    assert all(f"  {name} " in out and summary in out for name, summary in COMMANDS.items())
    assert "69 daemon or back end not reachable" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_each_command_teaches(run: Run, name: str) -> None:
    """It describes the command and shows an example that can be copied."""
    status, out, _ = run(name, "--help")
    assert status == 0
    assert f"  senderscore-policy {name} " in out.partition("example")[2]
    assert "-c FILE" in out


def test_version(run: Run) -> None:
    """The version is the package's."""
    assert run("--version") == (0, f"senderscore-policy {__version__}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nope"],
        ["-c", "policy.toml", "get"],
        ["get"],
        ["get", "300.1.1.1"],
        ["get", "192.0.2.0/24"],
        ["get", "2001:db8::1/64"],
        ["get", "fe80::1%eth0"],
        ["get", "192.0.2.1", "--jso"],
        ["score", ""],
        ["increment", "192.0.2.1", "--by", "x"],
        ["increment", "192.0.2.1", "--by", "0"],
        ["increment", "192.0.2.1", "--by", "1000000001"],
        ["reset", "192.0.2.1", "all"],
        ["ask", "client_address"],
        ["ask", "=x"],
        ["ask", "sender=a\nb=c"],
        ["ask", "--endpoint", "127.0.0.1:10045"],
        ["ask", "--timeout", "0"],
        ["ask", "--timeout", "nan"],
        ["check-config", "policy.toml", "other.toml"],
        ["-c"],
        ["--json", "get", "192.0.2.1"],
        ["ask", "cleint_address=192.0.2.75"],
        ["ask", "client_address=bogus"],
        ["ask", "bogus"],
        ["ask", "2001:db8::/64"],
        ["ask", "192.0.2.1", "192.0.2.2"],
        ["serve", "-d"],
    ],
)
def test_wrong_usage_is_64_and_one_line(run: Run, arguments: list[str]) -> None:
    """The line names the program and where to read more."""
    status, out, err = run(*arguments)
    assert (status, out) == (64, "")
    assert err.startswith("senderscore-policy: ")
    assert err.endswith(" --help\n")
    assert len(err.splitlines()) == 1


def test_a_wrong_address_is_named(run: Run) -> None:
    """The message names the one of several arguments that is wrong."""
    assert "'300.1.1.1' is not an IP address" in run("get", "192.0.2.1", "300.1.1.1")[2]


@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_every_mistake_in_the_configuration_is_a_line_of_its_own(run: Run, file: Path, command: str) -> None:
    """The daemon does not start with a mistake: status 78, each problem with file and line."""
    file.write_text('mode = "off"\n[counters]\nbuckets = 0')
    status, out, err = run(command, "-c", str(file))
    assert (status, out) == (78, "")
    first, second = err.splitlines()
    assert first.startswith(f"senderscore-policy: {file}:1: mode: ")
    assert second.startswith(f"senderscore-policy: {file}:3: counters.buckets: ")


@pytest.fixture
def default_place(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """The control socket of the tests is in the system's place."""
    monkeypatch.setattr(paths, "SYSTEM_CONTROL", place / "control.sock")


@pytest.mark.usefixtures("default_place")
@pytest.mark.parametrize(
    "mistake", ["mode = off\n", 'mode = "off"\n[counters]\nbuckets = 0\n', "[log]\nmod = 1\n", "\0"]
)
@pytest.mark.parametrize(
    "command", [["get", ADDRESS], ["score", ADDRESS], ["increment", ADDRESS], ["reset", ADDRESS], ["explain", ADDRESS]]
)
def test_a_mistake_in_the_file_does_not_stop_the_tools(
    run: Run, daemon: ControlDaemon, file: Path, command: list[str], mistake: str
) -> None:
    """They use what is valid, or the default places of the control socket, and mention the mistake in one line."""
    file.write_text(f"{mistake}{file.read_text()}".replace("[listen]\ncontrol", "[listen]\n# control"))
    answers = {"client": STANDING, "score": SCORE, "decisions": NO_DECISIONS}
    for call, answer in (
        ("GET /api/clients/192.0.2.75", "client"),
        ("GET /api/scores/192.0.2.75", "score"),
        ("POST /api/clients/192.0.2.75/increment", "client"),
        ("POST /api/clients/192.0.2.75/reset", "client"),
        ("GET /api/clients/192.0.2.75/decisions", "decisions"),
    ):
        daemon.answers[call] = 200, answers[answer]
    status, out, err = run(*command, "-c", str(file))
    assert (status, bool(out)) == (0, True)
    [line] = err.splitlines()
    assert line.startswith(f"senderscore-policy: going on without what is wrong in the configuration: {file}:")


def test_a_syntax_error_is_shown_with_its_line(run: Run, file: Path) -> None:
    """Below the message come the line and a caret under the place."""
    file.write_text("[log]\nlevel = info\n")
    status, _, err = run("check-config", "-c", str(file))
    assert status == 78
    message, line, caret = err.splitlines()
    assert message == f'senderscore-policy: {file}:2: not valid TOML: text must be in quotes: "info"'
    assert line.index("info") == caret.index("^")


def test_a_file_that_does_not_exist_is_78(run: Run) -> None:
    """A mistyped -c is never taken for the defaults, by any command."""
    for command in (["check-config"], ["reset", ADDRESS]):
        status, _, err = run(*command, "-c", "/nowhere/policy.toml")
        assert status == 78
        assert err == "senderscore-policy: /nowhere/policy.toml: No such file or directory\n"


def test_a_file_that_may_not_be_read_is_77(run: Run, file: Path) -> None:
    """The remedy is another user, not another file."""
    with closed(file):
        user = pwd.getpwuid(os.geteuid()).pw_name
        status, _, err = run("check-config", "-c", str(file))
    assert status == 77
    assert err == f"senderscore-policy: {file}: Permission denied: the user {user} must be able to read it\n"


def test_the_file_may_be_named_before_the_command(run: Run, file: Path) -> None:
    """As with other programs; after the command it goes first."""
    status, out, _ = run("-c", str(file), "check-config")
    assert (status, out.splitlines()[0]) == (0, f"{file}: no mistakes")
    assert run("--config=/nowhere", "check-config", "-c", str(file))[1] == out
    assert run("-c", "/nowhere", "check-config", str(file))[1] == out


@pytest.mark.parametrize("command", [["--help"], ["--version"], ["get", "--help"], ["ask", "--help"]])
def test_help_needs_no_heavy_imports(command: list[str]) -> None:
    """The libraries behind the daemon would make every command slow."""
    code = "import sys; from senderscore_policy.cli import main; main(sys.argv[1:])"
    heavy = "aiohttp|rich|dns|pymemcache|prometheus_client"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, *command], capture_output=True, text=True, check=True
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "senderscore_policy" in imported
    assert imported.isdisjoint(heavy.split("|"))


def test_a_reader_who_has_enough_is_no_error() -> None:
    """`senderscore-policy check-config --defaults | head` ends without a traceback."""
    code = "import sys; from senderscore_policy.cli import main; sys.exit(main(['check-config', '--defaults']))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


@pytest.mark.parametrize("command", [["--help"], ["check-config", "--defaults"], ["check-config", "--json"]])
def test_output_that_cannot_be_written_is_one_line(command: list[str]) -> None:
    """A full disk is named, and a closed output is ignored; there is never a traceback."""
    program = [sys.executable, "-m", "senderscore_policy", *command]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 74
    assert done.stderr == "senderscore-policy: cannot write the output: No space left on device\n"
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *program], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("moment", ["argparse", "senderscore_policy.commands.clients", "http.client"])
def test_ctrl_c_is_no_traceback(moment: str) -> None:
    """Whenever it comes, while the program or a command is imported or at work, the status is the shells' 130."""
    code = f"""
import os, signal, sys
find = sys.meta_path[-1].find_spec
def finding(name, *rest):
    if name == {moment!r}:
        os.kill(os.getpid(), signal.SIGINT)
    return find(name, *rest)
sys.meta_path[-1].find_spec = finding
signal.signal(signal.SIGINT, signal.default_int_handler)
from senderscore_policy.__main__ import main
sys.argv = ["senderscore-policy", "get", "192.0.2.75"]
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_python_m_runs_it() -> None:
    """`python -m senderscore_policy` is the same program."""
    command = [sys.executable, "-m", "senderscore_policy", "nope"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert done.stderr.startswith("senderscore-policy: ")


def test_any_terminal_can_show_a_reply() -> None:
    """What its encoding lacks is escaped; help and the default file need nothing but ASCII."""
    environment = {"PYTHONIOENCODING": "ascii", "PATH": ""}
    for command in (["--help"], ["check-config", "--defaults"]):
        done = subprocess.run(
            [sys.executable, "-m", "senderscore_policy", *command], env=environment, capture_output=True, check=True
        )
        assert b"\\" not in done.stdout
    with PolicyServer("action=450 später\n\n".encode()) as server:
        done = subprocess.run(
            [sys.executable, "-m", "senderscore_policy", "ask", "--endpoint", server.endpoint],
            env=environment, capture_output=True, check=True,
        )  # fmt: skip
    assert done.stdout == b"action=450 sp\\xe4ter\n"


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_a_terminal_of_80_columns(run: Run, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """Sentences are wrapped; only examples, which people copy, may be longer."""
    monkeypatch.setenv("COLUMNS", "80")
    out = run(*command.split(), "--help")[1].partition("example")[0]
    assert [line for line in out.splitlines() if len(line) > 80] == []
