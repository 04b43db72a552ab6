"""The parts of the running daemon that its API, its status page and its metrics read."""

from collections.abc import Callable
from dataclasses import dataclass

from senderscore_policy.config.model import Config
from senderscore_policy.daemon.clients import SeenClients
from senderscore_policy.daemon.counting import Counting
from senderscore_policy.daemon.evictions import Evictions
from senderscore_policy.daemon.logs import LogWriter
from senderscore_policy.daemon.metrics import Metrics
from senderscore_policy.daemon.minutes import Minutes
from senderscore_policy.daemon.server import PolicyServer
from senderscore_policy.daemon.state import StateDirectory
from senderscore_policy.policy.engine import Engine
from senderscore_policy.policy.ports import Clock
from senderscore_policy.reputation.source import ScoreSource


@dataclass(frozen=True, slots=True)
class Parts:
    """What the composition root has put together.

    Args:
        clock: time.
        started_at: when the daemon started, in seconds since the epoch.
        engine: for its rules and counters, which a reload replaces.
        source: the reputations.
        counting: the counters' back ends.
        server: the policy connections.
        seen: the clients seen last.
        metrics: what is counted.
        minutes: decisions of the last hour.
        evictions: what memcached has thrown out.
        state: what is saved.
        log: the log's writer.
        config: the configuration in force.
        generation: how often it was read, the start included.
        health: the text of /healthz.
    """

    clock: Clock
    started_at: float
    engine: Engine
    source: ScoreSource
    counting: Counting
    server: PolicyServer
    seen: SeenClients
    metrics: Metrics
    minutes: Minutes
    evictions: Evictions
    state: StateDirectory
    log: LogWriter
    config: Callable[[], Config]
    generation: Callable[[], int]
    health: Callable[[], str]
