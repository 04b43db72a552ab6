"""`top` and the metrics of installed daemons, alone and as a cluster."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from daemon_process import COMMAND, Daemon, run_command
from memcached_server import MemcachedServer
from waiting import free_port, wait_for_listener

StartDaemon = Callable[..., Daemon]

CLIENT = "192.0.2.75"
LIMITED = {"override": [{"networks": ["192.0.2.0/24"], "score": 75}], "tier": [{"scores": "0-100", "limit": 4}]}


def asked(daemon: Daemon, times: int, client: str = CLIENT) -> list[str]:
    """The answers to so many messages."""
    with daemon.client() as postfix:
        return [postfix.ask(client) for _ in range(times)]


@contextmanager
def terminal(*command: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A program on a terminal of 30 lines, and the terminal's other end."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    environment = os.environ | {"TERM": "xterm"}
    # A shell's background job, which the tests may be, ignores SIGINT, and lets its children inherit that.
    heeding = ("env", "--default-signal=INT", *command)
    process = subprocess.Popen(heeding, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal: int, text: str) -> str:
    """What the program writes, up to the first time that it holds the text."""
    written = ""
    while text not in written:
        ready, _, _ = select.select([terminal], [], [], 30)
        assert ready, f"no {text!r} in {written!r}"
        written += os.read(terminal, 65536).decode()
    return written


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_client_over_its_limit_appears(start_daemon: StartDaemon, end: signal.Signals) -> None:
    """While `top` runs, on the daemon's host; ended, it gives the terminal back and is content."""
    daemon = start_daemon(**LIMITED)
    wait_for_listener(daemon.control)
    with terminal(str(COMMAND), "top", "--interval", "0.5", "-c", str(daemon.file)) as (process, screen):
        read_until(screen, "0 limited now")
        asked(daemon, 6)
        read_until(screen, "1 limited now")
        read_until(screen, CLIENT)
        process.send_signal(end)
        assert "\x1b[?1049l" in read_until(screen, "\x1b[?1049l")
        assert process.wait(timeout=30) == 0


def test_scripts_get_json(start_daemon: StartDaemon) -> None:
    """The clients, nearest their limit first."""
    daemon = start_daemon(**LIMITED)
    asked(daemon, 1, "192.0.2.76")
    asked(daemon, 6)
    clients = daemon.json("top")["clients"]
    assert [(row["client"], row["place"], row["count"], row["deferred"]) for row in clients] == [
        (CLIENT, "limited", 4, 2),
        ("192.0.2.76", "within", 1, 0),
    ]
    assert 3000 < clients[0]["opens_in"] <= 3900


@pytest.mark.real
def test_a_cluster_is_added_up(start_daemon: StartDaemon, memcached: MemcachedServer) -> None:
    """Two daemons on one memcached tell the same count; what each deferred is added; one that is down is named."""
    shared = LIMITED | {
        "counters": {"store": "memcached", "servers": [f"127.0.0.1:{memcached.port}"], "timeout": 10},
    }
    ports = [free_port(), free_port()]
    daemons = [start_daemon(**shared, listen={"status": f"127.0.0.1:{port}"}) for port in ports]
    for port in ports:
        wait_for_listener(port)
    answers = [answer for daemon in daemons for answer in asked(daemon, 3)]
    assert sum(answer != "DUNNO" for answer in answers) == 2
    asked(daemons[0], 1)
    endpoints = [word for port in (*ports, 9) for word in ("--endpoint", f"http://127.0.0.1:{port}")]
    done = run_command("top", "--once", *endpoints)
    assert done.returncode == 0
    assert "http://127.0.0.1:9 does not answer" in done.stdout
    assert "7 in the last hour, 3 deferred" in done.stdout
    assert done.stdout.splitlines()[-1].split()[:8] == ["limited", CLIENT, "75", "0-100", "4", "4", "0", "3"]


@pytest.mark.real
def test_the_metrics_count_what_happens(start_daemon: StartDaemon, memcached: MemcachedServer) -> None:
    """Requests by answer and tier, connections, round trips, the back end; never an address of a client."""
    port = free_port()
    daemon = start_daemon(
        **LIMITED,
        counters={"store": "memcached", "servers": [f"127.0.0.1:{memcached.port}"], "timeout": 10},
        listen={"status": f"127.0.0.1:{port}"},
    )
    asked(daemon, 6)
    wait_for_listener(port)
    wanted = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": "text/plain"})
    with urllib.request.urlopen(wanted, timeout=30) as response:
        assert response.headers["Content-Type"].startswith("text/plain")
        lines = response.read().decode().splitlines()
    for line in (
        'senderscore_policy_requests_total{action="DUNNO",reason="within-limit",tier="0-100"} 4.0',
        'senderscore_policy_requests_total{action="421",reason="over-limit",tier="0-100"} 2.0',
        "senderscore_policy_request_duration_seconds_count 6.0",
        "senderscore_policy_connections_accepted_total 1.0",
        'senderscore_policy_memcached_servers{state="up"} 1.0',
        'senderscore_policy_degraded{part="counters"} 0.0',
        "senderscore_policy_config_generation 1.0",
    ):
        assert line in lines
    assert not any(CLIENT in line for line in lines)
    (trips,) = [line for line in lines if line.startswith('senderscore_policy_store_round_trips_total{result="ok"}')]
    assert float(trips.split()[1]) >= 4
