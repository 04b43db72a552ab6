"""The installed daemon as a process of its own, and the commands that talk to it."""

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from policy_client import PolicyClient
from waiting import wait_for_listener

COMMAND = Path(sysconfig.get_path("scripts"), "senderscore-policy")
"""The installed command."""

CLOSED_NAMESERVER = "127.0.0.1:9"
"""A closed port: no test ever asks the real zone."""

# systemd's part in socket activation (sd_listen_fds(3)): descriptors from 3 on, and the pid they are meant for.
_ACTIVATOR = """
import os, sys
for number, descriptor in enumerate(sys.argv[1].split(",")):
    os.dup2(int(descriptor), 3 + number)
    os.close(int(descriptor))
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


def toml(value: object) -> str:
    """A value as TOML, for which JSON's scalars will do."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


class Daemon:
    """`senderscore-policy serve` with a configuration file and a state directory of its own.

    Args:
        directory: a new, empty one with a short name (unix sockets live in it).
        tables: the configuration: each table as a dict, [[tables]] as lists of them. It listens on
            `directory`/policy.sock alone, counts in memory and asks a closed port for scores unless they say otherwise.

    Attributes:
        directory: holds what follows, its log, and state/.
        file: its configuration file.
        socket: where Postfix asks.
        control: where commands ask; it follows READY=1.
        command: the program, without its arguments.
        process: the process running now or last.
        expected_status: how it must end.
    """

    process: subprocess.Popen[bytes]
    expected_status = 0

    def __init__(self, directory: Path, **tables: Any) -> None:
        self.directory = directory
        self.socket = directory / "policy.sock"
        self.control = directory / "control.sock"
        self.file = directory / "policy.toml"
        self.configure(**tables)
        (directory / "state").mkdir(exist_ok=True)
        self.command = [str(COMMAND)]
        self.launched = False
        self._notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notifications.bind(str(directory / "notify.sock"))

    def configure(self, **tables: Any) -> None:
        """Replace the configuration file."""
        listen = {"policy": [f"unix:{self.socket}"], "status": "", "control": str(self.control)}
        whole = tables | {
            "listen": listen | tables.get("listen", {}),
            "reputation": {"zone": "score.test", "nameservers": [CLOSED_NAMESERVER]} | tables.get("reputation", {}),
            "state": {"directory": str(self.directory / "state")},
        }
        # Every table is inline, so that none swallows the keys below it.
        self.file.write_text("".join(f"{key} = {toml(value)}\n" for key, value in whole.items()))

    def start(self, sockets: Sequence[tuple[str, socket.socket]] = (), **environment: str) -> None:
        """Start it and wait until it says that it is ready.

        Args:
            sockets: to be passed as systemd does, each with its name.
            environment: variables on top of a minimal environment.

        Raises:
            RuntimeError: it ends instead; with its log.
        """
        self.launch(sockets, **environment)
        self.wait_for("READY=1")

    def launch(self, sockets: Sequence[tuple[str, socket.socket]] = (), **environment: str) -> None:
        """Start it without waiting."""
        command = [*self.command, "serve", "-c", str(self.file)]
        given = {"PATH": os.environ["PATH"], "NOTIFY_SOCKET": str(self.directory / "notify.sock")} | environment
        passed: list[int] = []
        if sockets:
            # High numbers, so that none is overwritten while the activator moves them down to 3.
            passed = [fcntl.fcntl(s, fcntl.F_DUPFD, 100) for _, s in sockets]
            given |= {"LISTEN_FDS": str(len(passed)), "LISTEN_FDNAMES": ":".join(name for name, _ in sockets)}
            command = [sys.executable, "-c", _ACTIVATOR, ",".join(map(str, passed)), *command]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=given, stderr=log, stdin=subprocess.DEVNULL, cwd=self.directory, pass_fds=passed
            )
        self.launched, self.expected_status = True, 0
        for descriptor in passed:
            os.close(descriptor)

    def wait_for(self, notification: str) -> None:
        """Wait until the daemon sends the line `notification` to systemd (sd_notify(3)).

        Raises:
            RuntimeError: it ends before, or nothing is heard for 30 seconds; with its log.
        """
        heard, end = self._notifications.fileno(), os.pidfd_open(self.process.pid)
        try:
            while True:
                ready, _, _ = select.select([heard, end], [], [], 30)
                if heard not in ready:
                    raise RuntimeError(f"no {notification} from the daemon; its log:\n{self.log}")
                if notification in self._notifications.recv(4096).decode().splitlines():
                    return
        finally:
            os.close(end)

    def reload(self, **tables: Any) -> None:
        """Replace the configuration file and reload; the daemon has accepted or refused it when this returns."""
        self.configure(**tables)
        self.process.send_signal(signal.SIGHUP)
        self.wait_for("RELOADING=1")
        self.wait_for("READY=1")

    def terminate(self) -> None:
        """Stop it, as systemd does."""
        self.process.terminate()

    def stop(self) -> None:
        """Stop it if it still runs; it must end well and must not have met anything unforeseen.

        Raises:
            AssertionError: it ended otherwise; with its log.
        """
        if not self.launched:
            return
        if self.process.poll() is None:
            self.terminate()
        try:
            status = self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        assert status == self.expected_status, self.log
        assert "Traceback" not in self.log, self.log

    def stop_for_restart(self) -> list[tuple[str, socket.socket]]:
        """Stop it and return the sockets, with their names, that it gave to systemd meanwhile (FDSTORE=1)."""
        self.stop()
        self._notifications.setblocking(False)
        stored = []
        with contextlib.suppress(BlockingIOError):
            while True:
                message, descriptors, _, _ = socket.recv_fds(self._notifications, 4096, 253)
                lines = dict(line.split("=", 1) for line in message.decode().splitlines())
                stored += [(lines["FDNAME"], socket.socket(fileno=descriptor)) for descriptor in descriptors]
        self._notifications.setblocking(True)
        return stored

    def kill(self) -> None:
        """End it without warning."""
        self.expected_status = -signal.SIGKILL
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Release what the fixture holds."""
        self._notifications.close()

    @property
    def log(self) -> str:
        """What it wrote to stderr so far, over all its starts."""
        return (self.directory / "log").read_text(errors="backslashreplace")

    def client(self) -> PolicyClient:
        """A new connection to its unix socket."""
        return PolicyClient(self.socket)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of senderscore-policy with this daemon's configuration file.

        If the daemon runs, then after its control socket, which follows READY=1, is there.
        """
        if self.launched and self.process.poll() is None:
            wait_for_listener(self.control)
        return run_command(*arguments, "-c", str(self.file))

    def json(self, *arguments: str, status: int = 0) -> Any:
        """What such a command, which must exit with this status, prints with `--json`."""
        done = self.run(*arguments, "--json")
        assert done.returncode == status, done.stderr
        return json.loads(done.stdout)


def run_command(*arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the installed command."""
    command = [str(COMMAND), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
