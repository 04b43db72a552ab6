"""The daemon's composition root: puts the parts together, starts, reloads and stops them."""

import asyncio
import gc
import importlib
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, Final

from senderscore_policy import __version__
from senderscore_policy.config.endpoints import Unix
from senderscore_policy.config.load import load
from senderscore_policy.config.model import Config, policy_of
from senderscore_policy.config.paths import config_file, control_path, state_directory
from senderscore_policy.counters.backend import CounterBackend
from senderscore_policy.errors import BackendError, ConfigError
from senderscore_policy.monitoring import log as logs
from senderscore_policy.monitoring.clients import ClientAdmin, SeenClients
from senderscore_policy.monitoring.decisions import DecisionHistory
from senderscore_policy.monitoring.statistics import Evictions, Metrics, RecentTraffic
from senderscore_policy.policy.engine import Engine
from senderscore_policy.policy.policy import Policy
from senderscore_policy.policy.ports import Observer
from senderscore_policy.reputation.source import open_source
from senderscore_policy.server import sockets as systemd
from senderscore_policy.server.connections import PolicyConnection, PolicyServer
from senderscore_policy.server.sockets import (
    ACCEPT_AT_ONCE,
    BACKLOG,
    CONTROL_MODE,
    address_of,
    connections_possible,
    listeners,
    refusals_logged,
)
from senderscore_policy.server.state import StateDirectory
from senderscore_policy.web.status import ServiceStatus, StatusCollector

STOP_TIME: Final = 10.0
"""Seconds that requests in hand get at SIGTERM; they need `deadline` and one round trip to memcached."""
SWITCH_INTERVAL: Final = 0.0005
"""Seconds for which one thread may keep the interpreter while another waits for it. The event loop must have it
back soon from the threads that write the log and the state; Python's default is ten times as long."""
GC_THRESHOLDS: Final = (1000, 1000, 100)
"""How often cyclic garbage is looked for. Every message leaves an object in a bounded table: among the youngest
thousand a search takes 0.3 ms; among the old ones, where next to nothing is garbage, 0.1 s, once in a million
messages instead of Python's 7,000."""

log = logging.getLogger(__name__)


class SystemClock:
    """The machine's clocks (`ports.Clock`)."""

    def time(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()


class Service:
    """One running daemon.

    Args:
        config: to start with.
        path: the file to read again at SIGHUP; None: there is none, the defaults stay.
        writer: the log.
    """

    def __init__(self, config: Config, path: Path | None, writer: logs.LogWriter) -> None:
        self._config = config
        self._path = path
        self._stop = asyncio.Event()
        self._hangup = asyncio.Event()
        self.generation = 1
        self.reload_failed = False
        clock = SystemClock()
        self._metrics = Metrics()
        self._counting = CounterBackend(config.counters, clock, self._metrics)
        self._source = open_source(config.reputation, clock, self._metrics, self._counting.shared)
        self._seen = SeenClients(config.counters.window_of_time(), lambda: self._counting.now)
        self._history = DecisionHistory()
        observers: list[Observer] = [logs.DecisionLog(writer), self._metrics, self._seen, self._history]
        self._engine = Engine(policy_of(config), self._counting.store, self._source, clock, observers)
        self._state = StateDirectory(state_directory(config), {"counters": self._counting, "scores": self._source})
        connections = connections_possible(config.listen.max_connections)
        self._server = PolicyServer(self._engine.submit, self._metrics.latency, connections, config.listen.idle_timeout)
        self._engine.answered = self._server.send_replies
        shared = config.counters.store == "memcached"
        admin = ClientAdmin(self._engine, self._source, self._seen, clock, shared=shared)
        self._traffic, self._evictions = RecentTraffic(self._metrics, clock), Evictions(self._counting)
        self._collector = StatusCollector(
            admin,
            self._metrics,
            self._traffic,
            self._source,
            self._counting,
            self._evictions,
            self._history,
            self.report,
        )
        self._writer = writer
        self._started_at = clock.time()
        self._read_at = clock.time()
        self._addresses: list[str] = []

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            BackendError: a policy socket cannot be opened, or another daemon uses the state directory.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._hangup.set)
        loop.set_exception_handler(refusals_logged())
        self._state.lock()
        self._state.restore()
        passed = systemd.listen_sockets()
        sockets = listeners(passed, "policy", self._config.listen.policy)
        servers = [await self._listen(each) for each in sockets]
        deciding = asyncio.create_task(self._decide())
        background = [self._reload_on_hangup(), self._server.sweep(), self._state.save_regularly()]
        background += [self._serve_http(passed), self._traffic.keep(), self._evictions.watch()]
        if (interval := systemd.watchdog_interval()) is not None:
            background.append(systemd.feed_watchdog(interval))
        tasks = [asyncio.create_task(work) for work in background]
        self._addresses = [str(address_of(each)) for each in sockets]
        addresses = ", ".join(self._addresses)
        log.info("serving on %s, mode %s, counters in %s", addresses, self._config.mode, self._config.counters.store)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        systemd.notify("READY=1", f"STATUS=serving on {addresses}")
        await self._stop.wait()
        systemd.notify("STOPPING=1")
        log.info("stopping")
        for server in servers:
            server.close()
        self._server.close()
        await self._finish(deciding)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._state.save()
        await self._source.close()
        await self._counting.close()

    async def _listen(self, listener: socket.socket) -> asyncio.Server:
        # Not create_unix_server: from Python 3.13 on that removes the file at the end, even of systemd's socket.
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: PolicyConnection(self._server), sock=listener, backlog=ACCEPT_AT_ONCE)
        # For asyncio `backlog` is also how many it accepts at once.
        listener.listen(BACKLOG)
        return server

    async def _finish(self, deciding: asyncio.Task[None]) -> None:
        """Answer what is in hand; give up on it after `STOP_TIME`."""
        self._engine.stop()
        try:
            await asyncio.wait_for(deciding, STOP_TIME)
        except TimeoutError:
            log.warning("requests in hand were not answered within %.0f s", STOP_TIME)

    async def _decide(self) -> None:
        """Run the engine; should a batch as a whole fail, the connections are dropped and the next one is decided."""
        while not self._engine.stopped:
            try:
                await self._engine.run()
            except Exception as error:  # noqa: BLE001 - the broad except for what concerns no single request
                self._engine.forget_messages()
                self._server.fail(error)

    async def _serve_http(self, passed: list[tuple[str, socket.socket]]) -> None:
        """Open the control socket and the HTTP listeners; mail does not depend on any of them."""
        loop = asyncio.get_running_loop()
        api = await loop.run_in_executor(None, importlib.import_module, "senderscore_policy.web.api")
        handlers = api.Api(self._collector, self._facts)
        runners = []
        for kind, endpoint, mode in (
            ("control", Unix(str(control_path(self._config))), CONTROL_MODE),
            ("status", self._config.listen.status, 0),
            ("metrics", self._config.listen.metrics, 0),
        ):
            try:
                if isinstance(endpoint, Unix):
                    Path(endpoint.path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                opened = listeners(passed, kind, (endpoint,) if endpoint else (), mode)
                host = "" if isinstance(endpoint, Unix) or endpoint is None else endpoint.host
                runners.append(await api.serve(handlers, kind, opened, host))
            except (BackendError, OSError) as error:
                log.error("no %s listener: %s", kind, error)
        try:
            await asyncio.Event().wait()
        finally:
            for runner in runners:
                await runner.cleanup()

    def health(self) -> str:
        """The text of /healthz: "ready", "degraded: …" or "stopping"."""
        if self._stop.is_set():
            return "stopping"
        states = [self._counting.state, self._source.state, self._state.state]
        degraded = [state.removeprefix("degraded: ") for state in states if state != "ok"]
        return f"degraded: {'; '.join(degraded)}" if degraded else "ready"

    def report(self) -> ServiceStatus:
        """The daemon itself, for the status page and the metrics."""
        counts, policy = self._server.counts, self._engine.policy
        return ServiceStatus(
            version=__version__,
            mode="observe" if policy.observe else "enforce",
            window=policy.window,
            counted="recipients" if policy.count_recipients else "messages",
            generation=self.generation,
            reload_failed=self.reload_failed,
            started_at=self._started_at,
            connections=self._server.connections,
            accepted=counts.accepted,
            closed={"idle": counts.closed_idle, "max_connections": counts.closed_for_newcomer},
            malformed=counts.malformed,
            failed=counts.failed,
            log_dropped=self._writer.dropped,
            state=self._state.state,
            saved_at=self._state.saved_at,
            health=self.health(),
        )

    async def _facts(self) -> dict[str, Any]:
        """The facts that `doctor` compares with the file and with Postfix; saves the state to see whether it can."""
        await self._state.save()
        return {
            "file": None if self._path is None else str(self._path.absolute()),
            "read_at": self._read_at,
            "policy": self._addresses,
            "state": self._state.state,
        }

    async def _reload_on_hangup(self) -> None:
        """Reload after each SIGHUP, until cancelled; several during one reload cause one more."""
        while True:
            await self._hangup.wait()
            self._hangup.clear()
            systemd.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
            await self.reload()
            systemd.notify("READY=1")

    async def reload(self) -> None:
        """Load the configuration file again; a file with a mistake changes nothing."""
        began = time.time()
        try:
            # A daemon that was started without a file loads the system's once it exists.
            path = config_file(self._path)
            # In a thread: thousands of networks take longer to load than a request may wait for its decision.
            config, policy = await asyncio.to_thread(_load, path)
        except ConfigError as error:
            self.reload_failed = True
            for problem in error.problems:
                log.error("configuration not reloaded: %s", problem)
        else:
            self.reload_failed = False
            self._path, self._read_at = path, began
            self._apply(config, policy)

    def _apply(self, config: Config, policy: Policy) -> None:
        old, self._config = self._config, config
        for section, was, now in (
            ("[listen]", old.listen, config.listen),
            ("[state]", old.state_directory, config.state_directory),
            ("counters.store", old.counters.store, config.counters.store),
            ("log.target", old.log.target, config.log.target),
        ):
            if was != now:
                log.warning("%s has changed: it takes effect at a restart", section)
        logging.root.setLevel(config.log.level.upper())
        self._counting.reconfigure(config.counters)
        self._seen.window = config.counters.window_of_time()
        self._source.reconfigure(config.reputation)
        self._engine.store = self._counting.store
        self._engine.policy = policy
        self.generation += 1
        log.info("configuration reloaded, generation %d", self.generation)


def _load(path: Path | None) -> tuple[Config, Policy]:
    config = load(path)
    return config, policy_of(config)


def _new_event_loop() -> asyncio.AbstractEventLoop:
    """An uvloop where it is installed: a quarter more requests a second."""
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def run(config: Config, path: Path | None) -> int:
    """Serve in the foreground (the command `serve`).

    Args:
        config: what `path` says.
        path: the file to read again at SIGHUP.

    Returns:
        The exit status.

    Raises:
        BackendError: a policy socket cannot be had.
    """
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.set_threshold(*GC_THRESHOLDS)
    writer = logs.set_up(config.log)

    async def serve() -> None:
        await Service(config, path, writer).run()

    try:
        with asyncio.Runner(loop_factory=_new_event_loop) as runner:
            runner.run(serve())
    finally:
        logging.getLogger().removeHandler(writer)
        writer.close()
    return os.EX_OK
