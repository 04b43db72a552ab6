"""The daemon's composition root: puts the parts together, starts, reloads and stops them."""

import asyncio
import contextlib
import gc
import importlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from senderscore_policy import __version__
from senderscore_policy.config.endpoints import Unix
from senderscore_policy.config.load import load
from senderscore_policy.config.model import Config, policy_of
from senderscore_policy.config.paths import config_file, control_path, state_directory
from senderscore_policy.counters.backend import CounterBackend
from senderscore_policy.errors import BackendError, ConfigError
from senderscore_policy.monitoring.clients import ClientAdmin, SeenClients
from senderscore_policy.monitoring.decisions import DecisionHistory
from senderscore_policy.monitoring.log import DecisionLog, LogWriter, set_up
from senderscore_policy.monitoring.statistics import Evictions, Metrics, RecentTraffic
from senderscore_policy.policy.engine import Engine
from senderscore_policy.policy.policy import Policy
from senderscore_policy.reputation.source import open_source
from senderscore_policy.server import sockets
from senderscore_policy.server.connections import PolicyConnection, PolicyServer
from senderscore_policy.server.state import StateDirectory
from senderscore_policy.web.status import ServiceStatus, StatusCollector

STOP_TIME: Final = 10.0
"""Seconds that unanswered requests get at SIGTERM; they need `deadline` and one round trip to memcached."""
SWITCH_INTERVAL: Final = 0.0005
"""Seconds for which one thread may keep the interpreter while another waits for it; Python's default is ten times as
long. The event loop needs it back soon from the threads that write the log and the state."""
GC_THRESHOLDS: Final = (1000, 1000, 100)
"""Thresholds of the garbage collector. Every message leaves an object in a bounded table. A collection of the youngest
thousand takes 0.3 ms, one of the old ones, which are nearly all alive, 0.1 s: once in a million messages instead of in
Python's 7,000."""

log = logging.getLogger(__name__)


class Service:
    """One running daemon. SIGHUP loads `path` again; None: the defaults, until the system's file exists."""

    def __init__(self, config: Config, path: Path | None, writer: LogWriter) -> None:
        self._config, self._path, self._writer = config, path, writer
        self._started_at = self._read_at = time.time()
        self._stop, self._hangup = asyncio.Event(), asyncio.Event()
        self.generation = 1
        self.reload_failed = False
        self._addresses: list[str] = []
        metrics, history = Metrics(), DecisionHistory()
        self._backend = CounterBackend(config.counters, time, metrics)
        self._source = open_source(config.reputation, time, metrics, self._backend.shared)
        self._seen = SeenClients(config.counters.window_of_time(), lambda: self._backend.now)
        observers = (DecisionLog(writer), metrics, self._seen, history)
        self._engine = Engine(policy_of(config), self._backend.store, self._source, time, observers)
        self._state = StateDirectory(state_directory(config), {"counters": self._backend.local, "scores": self._source})
        connections = sockets.connections_possible(config.listen.max_connections)
        self._server = PolicyServer(self._engine.submit, metrics.latency, connections, config.listen.idle_timeout)
        self._engine.answered = self._server.send_replies
        self._traffic, self._evictions = RecentTraffic(metrics, time), Evictions(self._backend)
        shared = config.counters.store == "memcached"
        admin = ClientAdmin(self._engine, self._source, self._seen, time, shared=shared)
        self._collector = StatusCollector(
            admin, metrics, self._traffic, self._source, self._backend, self._evictions, history, self.report
        )

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._hangup.set)
        loop.set_exception_handler(sockets.refusals_logged())
        passed = sockets.listen_sockets()
        self._state.lock()
        self._state.restore()
        opened = sockets.listeners(passed, "policy", self._config.listen.policy)
        self._addresses = [str(sockets.address_of(each)) for each in opened]
        servers = [await self._listen(each) for each in opened]
        await self._resume(each for name, each in passed if name == sockets.CONNECTION)
        deciding = asyncio.create_task(self._decide())
        background = [self._reload_on_hangup(), self._server.sweep(), self._state.save_regularly()]
        background += [self._serve_http(passed), self._traffic.keep(), self._evictions.watch()]
        if (interval := sockets.watchdog_interval()) is not None:
            background.append(sockets.feed_watchdog(interval))
        tasks = [asyncio.create_task(work) for work in background]
        addresses = ", ".join(self._addresses)
        log.info("serving on %s, mode %s, counters in %s", addresses, self._config.mode, self._config.counters.store)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        sockets.notify("READY=1", f"STATUS=serving on {addresses}")
        await self._stop.wait()
        sockets.notify("STOPPING=1")
        log.info("stopping")
        for server in servers:
            server.close()
        await self._end(deciding, tasks)

    async def _end(self, deciding: asyncio.Task[None], tasks: Sequence[asyncio.Task[None]]) -> None:
        """Answer what has arrived, for at most `STOP_TIME`, pass the quiet connections on, and save the state."""
        self._server.stop()
        self._engine.stop()
        try:
            await asyncio.wait_for(deciding, STOP_TIME)
        except TimeoutError:
            log.warning("some requests were not answered within %.0f s", STOP_TIME)
        self._server.close(sockets.store)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._state.save()
        await self._source.close()
        await self._backend.close()

    async def _listen(self, listener: socket.socket) -> asyncio.Server:
        # Not create_unix_server: from Python 3.13 on that removes the file at the end, even of systemd's socket.
        loop = asyncio.get_running_loop()
        at_once = sockets.ACCEPT_AT_ONCE  # for asyncio `backlog` is also how many it accepts at once
        server = await loop.create_server(lambda: PolicyConnection(self._server), sock=listener, backlog=at_once)
        listener.listen(sockets.BACKLOG)
        return server

    async def _resume(self, connections: Iterable[socket.socket]) -> None:
        """Go on serving the connections of the process before."""
        loop = asyncio.get_running_loop()
        for connection in connections:
            with contextlib.suppress(OSError):  # a peer that is gone
                await loop.connect_accepted_socket(lambda: PolicyConnection(self._server, served=True), connection)

    async def _decide(self) -> None:
        """Run the engine. If a whole batch fails, drop the connections and decide the next one."""
        while not self._engine.stopped:
            try:
                await self._engine.run()
            except Exception as error:  # noqa: BLE001 - the broad except for what concerns no single request
                self._engine.forget_messages()
                self._server.fail(error)

    async def _serve_http(self, passed: list[tuple[str, socket.socket]]) -> None:
        """Open the control socket and the HTTP listeners; mail does not depend on any of them."""
        api = await asyncio.to_thread(importlib.import_module, "senderscore_policy.web.api")
        handlers = api.Api(self._collector, self._facts)
        runners = []
        for kind, endpoint, mode in (
            ("control", Unix(str(control_path(self._config))), sockets.CONTROL_MODE),
            ("status", self._config.listen.status, 0),
            ("metrics", self._config.listen.metrics, 0),
        ):
            try:
                if isinstance(endpoint, Unix):
                    Path(endpoint.path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                opened = sockets.listeners(passed, kind, (endpoint,) if endpoint else (), mode)
                host = "" if isinstance(endpoint, Unix) or endpoint is None else endpoint.host
                runners.append(await api.serve(handlers, kind, opened, host))
            except (BackendError, OSError) as error:
                log.error("cannot open the %s listener: %s", kind, error)
        try:
            await asyncio.Event().wait()
        finally:
            for runner in runners:
                await runner.cleanup()

    def health(self) -> str:
        """Return the text of /healthz: "ready", "degraded: …" or "stopping"."""
        if self._stop.is_set():
            return "stopping"
        states = [self._backend.state, self._source.state, self._state.state]
        degraded = [state.removeprefix("degraded: ") for state in states if state != "ok"]
        return f"degraded: {'; '.join(degraded)}" if degraded else "ready"

    def report(self) -> ServiceStatus:
        counts, policy = self._server.counts, self._engine.policy
        return ServiceStatus(
            version=__version__,
            mode="observe" if policy.observe else "enforce",
            window=policy.window,
            counted="recipients" if policy.count_recipients else "messages",
            generation=self.generation,
            reload_failed=self.reload_failed,
            started_at=self._started_at,
            connections=len(self._server.connections),
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
        """Return what `doctor` compares with the file and with Postfix; save the state to see whether that works."""
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
            sockets.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
            await self.reload()
            sockets.notify("READY=1")

    async def reload(self) -> None:
        """Load the configuration file again; a file with a mistake changes nothing."""
        began = time.time()
        try:
            # A daemon that was started without a file loads the system's once it exists.
            path = config_file(self._path)
            # In a thread: thousands of networks take longer to load than a request may wait for its decision.
            config = await asyncio.to_thread(load, path)
            policy = await asyncio.to_thread(policy_of, config)
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
        self._backend.reconfigure(config.counters)
        self._seen.window = config.counters.window_of_time()
        self._source.reconfigure(config.reputation)
        self._engine.policy = policy
        self.generation += 1
        log.info("configuration reloaded, generation %d", self.generation)


def run(path: Path | None) -> int:
    """Serve by this configuration file in the foreground (the command `serve`), and return the exit status.

    Raises:
        ConfigError: the file cannot be read, or something in it is wrong.
        BackendError: a policy socket or the state directory cannot be used.
    """
    config = load(path)
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        # Where it is installed: a quarter more requests a second.
        new_event_loop = importlib.import_module("uvloop").new_event_loop
    except ImportError:
        new_event_loop = None
    writer = set_up(config.log)
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(Service(config, path, writer).run())
    finally:
        logging.getLogger().removeHandler(writer)
        writer.close()
    return os.EX_OK
