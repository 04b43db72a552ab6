"""`top` and the metrics of an installed daemon."""

import os
import signal
import termios
import urllib.request
from collections.abc import Callable

import pytest
from daemon_process import COMMAND, Daemon
from memcached_server import MemcachedServer
from terminal import read_until, terminal, without_escapes
from waiting import free_port, wait_for_listener

StartDaemon = Callable[..., Daemon]

CLIENT = "192.0.2.75"
LIMITED = {"override": [{"networks": ["192.0.2.0/24"], "score": 75}], "tier": [{"scores": "0-100", "limit": 4}]}


def asked(daemon: Daemon, times: int, client: str = CLIENT) -> list[str]:
    """The answers to a number of messages."""
    with daemon.client() as postfix:
        return [postfix.ask(client) for _ in range(times)]


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, None])
def test_a_client_over_its_limit_appears(start_daemon: StartDaemon, end: signal.Signals | None) -> None:
    """While `top` runs; a signal or the key q ends it, and the terminal gets its state back."""
    daemon = start_daemon(**LIMITED)
    wait_for_listener(daemon.control)
    with terminal(str(COMMAND), "top", "--interval", "0.5", "-c", str(daemon.file)) as (process, screen):
        read_until(screen, "0 limited now")
        asked(daemon, 6)
        read_until(screen, "1 limited now")
        read_until(screen, CLIENT)
        before = termios.tcgetattr(screen)
        if end is None:
            os.write(screen, b"q")
        else:
            process.send_signal(end)
        assert "\x1b[?1049l" in read_until(screen, "\x1b[?1049l")
        assert process.wait(timeout=30) == 0
        assert not before[3] & termios.ICANON
        assert termios.tcgetattr(screen)[3] & termios.ICANON


def test_at_80_columns_an_address_is_whole(start_daemon: StartDaemon) -> None:
    """An IPv6 network can be pasted from the screen into `get`, which counts the same."""
    daemon = start_daemon(**LIMITED, unscored={"limit": 5})
    wait_for_listener(daemon.control)
    asked(daemon, 4, "2001:db8:25:abcd::1")
    with terminal(str(COMMAND), "top", "-c", str(daemon.file)) as (_, screen):
        text = read_until(screen, "q ends")
    row = next(line for line in without_escapes(text).splitlines() if "2001:db8" in line)
    assert row.split()[:3] == ["near", "2001:db8:25:abcd::/64", "-"]
    assert len(row.rstrip()) <= 80
    assert daemon.json("get", row.split()[1])[0]["count"] == 4


def test_scripts_get_json(start_daemon: StartDaemon) -> None:
    """The clients, nearest their limit first."""
    daemon = start_daemon(**LIMITED)
    asked(daemon, 1, "192.0.2.76")
    asked(daemon, 6)
    clients = daemon.json("top")["clients"]
    assert [(row["client"], row["state"], row["count"], row["deferred"]) for row in clients] == [
        (CLIENT, "limited", 4, 2),
        ("192.0.2.76", "within", 1, 0),
    ]
    assert 3000 < clients[0]["opens_in"] <= 3900


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
