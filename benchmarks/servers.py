"""Servers that a benchmark starts, measures and ends, all on loopback."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
sys.path.append(str(HERE.parent / "tests" / "integration"))

from daemon_process import Daemon  # noqa: E402 - the same servers as the tests use
from waiting import free_port, wait_for_listener  # noqa: E402

PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT: Final = {"PATH": PATH, "LC_ALL": "C"}
START_TIME: Final = 30.0
"""Seconds that a server may take until it listens."""
STOP_TIME: Final = 30.0


@dataclass(frozen=True)
class Server:
    """A running server.

    Args:
        pid: of the process that was started; it may have children.
        port: of 127.0.0.1.
    """

    pid: int
    port: int

    @property
    def cpu_seconds(self) -> float:
        """Processor time of all its threads and children so far, user and kernel."""
        return sum(_cpu_seconds(pid) for pid in _family(self.pid))

    def megabytes(self, name: str = "VmRSS") -> float:
        """Resident memory of the process without its children, in MB of a million bytes; "VmHWM" for its peak."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii", errors="replace")
        kilobytes = next(line for line in status.splitlines() if line.startswith(f"{name}:")).split()[1]
        return int(kilobytes) * 1024 / 1e6


@dataclass(frozen=True)
class PolicyDaemon(Server):
    """The daemon that this is all about.

    Args:
        status_port: of its HTTP listener.
        seconds_to_ready: from its start to READY=1.
    """

    status_port: int
    seconds_to_ready: float


def find(program: str) -> str | None:
    """The program's path, in the places of system programs too."""
    return shutil.which(program, path=PATH)


@contextlib.contextmanager
def policy_daemon(directory: Path, **tables: Any) -> Iterator[PolicyDaemon]:
    """`senderscore-policy serve`, with its log in a file.

    Args:
        directory: with a short name, removed afterwards by who made it; its state/ is taken up if it is there.
        tables: of the configuration, on top of its defaults.
    """
    port, status_port = free_port(), free_port()
    listen = {"policy": [f"inet:127.0.0.1:{port}"], "status": f"127.0.0.1:{status_port}"}
    own = directory / str(port)
    own.mkdir()
    daemon = Daemon(own, **tables, listen=listen)
    if (directory / "state").exists():
        shutil.copytree(directory / "state", own / "state", dirs_exist_ok=True)
    try:
        begin = time.monotonic()
        daemon.start()
        seconds = time.monotonic() - begin
        wait_for_listener(status_port)
        yield PolicyDaemon(daemon.process.pid, port, status_port, seconds)
    finally:
        daemon.stop()
        daemon.close()
        shutil.copytree(own / "state", directory / "state", dirs_exist_ok=True)
        shutil.rmtree(own)


@contextlib.contextmanager
def always_dunno(directory: Path) -> Iterator[Server]:
    """The server that parses nothing."""
    port = free_port()
    with started([sys.executable, str(HERE / "always_dunno.py"), str(port)], port, directory / "log") as server:
        yield server


@contextlib.contextmanager
def memcached(directory: Path, megabytes: int = 1024) -> Iterator[Server]:
    """A memcached with its defaults but for the memory."""
    port = free_port()
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    command = [_needed("memcached"), "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-m", str(megabytes), *user]
    with started(command, port, directory / "memcached.log") as server:
        yield server


@contextlib.contextmanager
def score_zones(directory: Path, zones: Mapping[str, Mapping[str, int]]) -> Iterator[Server]:
    """An rbldnsd; its port is UDP.

    Args:
        directory: for the zones' data.
        zones: for each zone's name the score by address or network (/8 or longer).
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for zone, scores in zones.items():
        lines = ["$SOA 10 ns.test admin.test 0 600 300 86400 10", "$NS 10 ns.test"]
        lines += [f"{client} :127.0.4.{score}:" for client, score in scores.items()]
        (directory / zone).write_text("\n".join([*lines, ""]), encoding="ascii")
    # rbldnsd gives up root's rights before it reads the zones.
    directory.chmod(0o755)
    command = [_needed("rbldnsd"), "-n", "-q", "-w", str(directory), "-b", f"127.0.0.1/{port}"]
    log = directory / "rbldnsd.log"
    with log.open("ab") as output:
        process = subprocess.Popen([*command, *(f"{z}:ip4set:{z}" for z in zones)], stdout=output, stderr=output)
    try:
        _wait_for(lambda: not _is_free(port), "rbldnsd", process, log)
        yield Server(process.pid, port)
    finally:
        process.send_signal(signal.SIGCONT)
        _end(process, group=False)


@contextlib.contextmanager
def started(command: Sequence[str], port: int, log: Path, *, group: bool = False) -> Iterator[Server]:
    """Start a server; it listens at `port` when this begins, and is ended with this.

    Args:
        command: of the server, which stays in the foreground.
        port: of 127.0.0.1, TCP.
        log: takes what the server prints.
        group: it has children that must end, too.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=group,
        )
    try:
        _wait_for(lambda: listens(port), f"{command[0]} at port {port}", process, log)
        yield Server(process.pid, port)
    finally:
        _end(process, group=group)


@contextlib.contextmanager
def started_in_background(command: Sequence[str], port: int, pid_file: Path, log: Path) -> Iterator[Server]:
    """Start a server that has no foreground; it leaves its process id in a file."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    process.wait(START_TIME)
    _wait(pid_file.exists, f"{pid_file} of {command[0]}")
    pid = int(pid_file.read_text(encoding="ascii"))
    try:
        _wait(lambda: listens(port), f"{command[0]} at port {port}")
        yield Server(pid, port)
    finally:
        family = _family(pid)
        os.kill(pid, signal.SIGTERM)
        time.sleep(1)
        for member in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)


def listens(port: int) -> bool:
    """Whether somebody listens at the TCP port of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait_for(probe: Callable[[], bool], what: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait for something that `process` is to do.

    Raises:
        RuntimeError: it ended, or it took longer than `START_TIME`; with the end of its log.
    """
    with contextlib.suppress(RuntimeError):
        _wait(lambda: probe() or process.poll() is not None, what)
    if not probe():
        raise RuntimeError(f"no {what}: {log.read_text(errors='replace')[-2000:]}")


def _wait(probe: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + START_TIME
    while not probe():
        if time.monotonic() > deadline:
            raise RuntimeError(f"no {what}")
        time.sleep(0.02)


def _needed(program: str) -> str:
    path = find(program)
    if path is None:
        raise RuntimeError(f"{program} is not installed")
    return path


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _end(process: "subprocess.Popen[bytes]", *, group: bool) -> None:
    def tell(number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            if group:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)

    tell(signal.SIGTERM)
    try:
        process.wait(STOP_TIME)
    except subprocess.TimeoutExpired:
        tell(signal.SIGKILL)
        process.wait()
    if group:
        # Children that outlive their parent.
        tell(signal.SIGKILL)


def _family(pid: int) -> list[int]:
    """The process and all its descendants."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, task.read_text(encoding="ascii").split())
    return found


def _cpu_seconds(pid: int) -> float:
    """From schedstat, which counts nanoseconds where /proc/PID/stat counts ticks; ended threads are left out."""
    total = 0
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            total += int(task.read_text(encoding="ascii").split()[0])
    return total / 1e9
