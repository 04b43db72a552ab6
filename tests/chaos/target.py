"""A daemon with real servers behind it, and a load that asks it."""

import contextlib
import re
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from daemon_process import Daemon
from load import GREEDY_LIMIT, Load, Record
from mail import Mail
from memcached_server import MemcachedServer
from nameserver import Nameserver
from postfix_server import Postfix
from relay import Relay
from waiting import free_port

CLIENTS: Final = tuple(f"198.18.0.{number}" for number in range(100))
"""Clients below their limit of 1,000 (a score of 95), whose counts are checked."""
RECOVERY: Final = 20.0
"""Seconds after a fault's end in which the daemon must be ready again."""
_OVERRIDES: Final = [
    {"networks": ["198.18.0.0/15"], "score": 95},
    {"networks": ["198.19.0.0/16"], "limit": GREEDY_LIMIT},
]
_PORT: Final = re.compile(r"127\.0\.0\.1:\d+ ")


class Site:
    """What a fault strikes.

    Attributes:
        stack: whatever must end with the site.
        directory: of the daemon.
        memcached: the servers it counts in.
        relay: before the first of them.
        nameserver: serves the score zone.
        postfix: asks the daemon; without one the load asks it itself.
        tables: the daemon's configuration.
        daemon: not started before all of these are there.
        environment: of the daemon.
        command: of the daemon; None: the installed one.
        client_of: the client of the load's n-th request.
        load: asks it.
        states: what /healthz said while time passed.
    """

    daemon: Daemon
    relay: Relay
    nameserver: Nameserver
    postfix: Postfix
    load: Load | Mail

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.stack = stack
        self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ssp-")))
        self.memcached: list[MemcachedServer] = []
        self.status = free_port()
        self.tables: dict[str, Any] = {"listen": {"status": f"127.0.0.1:{self.status}"}, "override": _OVERRIDES}
        self.environment: dict[str, str] = {}
        self.command: list[str] | None = None
        self.client_of: Callable[[int], str] = lambda number: CLIENTS[number % len(CLIENTS)]
        self.states: list[str] = []

    def start(self) -> None:
        """Start the daemon."""
        self.daemon = Daemon(self.directory, **self.tables)
        if self.command:
            self.daemon.command = self.command
        self.stack.callback(self.daemon.close)
        self.stack.callback(self._end)
        self.daemon.start(**self.environment)
        self.wait_until_ready()

    def _end(self) -> None:
        if self.daemon.process.poll() is None:
            self.daemon.process.kill()
            self.daemon.process.wait()

    @property
    def record(self) -> Record:
        """What became of the load so far."""
        return self.load.record

    def get(self, path: str, timeout: float) -> str:
        """What the status listener says; empty while it says nothing."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.status}{path}", timeout=timeout) as response:
                text: str = response.read().decode()
        except OSError:
            return ""
        return text.strip()

    @property
    def health(self) -> str:
        """What /healthz says, without port numbers."""
        return _PORT.sub("", self.get("/healthz", 1))

    def metric(self, name: str) -> float:
        """A number of /metrics."""
        found = re.search(rf"^senderscore_policy_{re.escape(name)} (\S+)$", self.get("/metrics", 30), re.MULTILINE)
        assert found, name
        return float(found[1])

    @property
    def failed_round_trips(self) -> float:
        """Round trips to a memcached that failed so far."""
        # The daemon shows a page of metrics for up to a second.
        self.pass_time(1.1)
        return self.metric('store_round_trips_total{result="failed"}')

    def pass_time(self, seconds: float) -> None:
        """Let the load run on, and note what /healthz says."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(0.1, left))
            state = self.health
            if state and state not in self.states:
                self.states.append(state)

    def wait_until_ready(self) -> bool:
        """Whether /healthz says `ready` within `RECOVERY`, as it does without a fault."""
        end = time.monotonic() + RECOVERY
        while self.health != "ready":
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    def counts(self, clients: Iterable[str]) -> dict[str, int]:
        """Messages in the window, as `get` shows them."""
        return {standing["client"]: standing["count"] for standing in self.daemon.json("get", *clients)}


Setting = Callable[[Site], None]
"""Starts the servers of a site and enters them in the daemon's configuration."""


def own_counters(_site: Site) -> None:
    """The default: the daemon counts by itself."""


def memcached(servers: int = 1, replicas: int = 1, timeout: float = 0.25, *options: str) -> Setting:
    """A number of memcached servers; 0.25 s is the daemon's default."""

    def setting(site: Site) -> None:
        for _ in range(servers):
            site.memcached.append(MemcachedServer(*options))
            site.stack.callback(site.memcached[-1].kill)
        addresses = [server.address for server in site.memcached]
        site.tables["counters"] = {
            "store": "memcached", "servers": addresses, "replicas": replicas, "timeout": timeout,
        }  # fmt: skip

    return setting


def relayed(site: Site) -> None:
    """A memcached behind a relay."""
    memcached()(site)
    site.relay = site.stack.enter_context(Relay(site.memcached[0].port))
    site.tables["counters"]["servers"] = [f"127.0.0.1:{site.relay.port}"]
