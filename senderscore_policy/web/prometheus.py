"""/metrics: the daemon's plain numbers in Prometheus' format. Names and meaning: docs/metrics.md.

Every label takes its values from a closed set; an address is never one of them.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from senderscore_policy import __version__
from senderscore_policy.monitoring.statistics import Histogram
from senderscore_policy.policy.decision import Reason
from senderscore_policy.policy.reply import PERMIT
from senderscore_policy.reputation.guard import ZoneState
from senderscore_policy.web.status import Parts

PREFIX: Final = "senderscore_policy_"
OUTCOMES: Final = ("scored", "unknown", "refused", "unavailable")
CACHE_RESULTS: Final = ("hit", "stale", "shared", "miss")


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, text, value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, text, value)


def _gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, text, labels=[label])
    for word, value in values.items():
        family.add_metric([word], value)
    return family


def _counters(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(PREFIX + name, text, labels=[label])
    for word, value in values.items():
        family.add_metric([word], value)
    return family


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    bounds = [*map(str, histogram.bounds), "+Inf"]
    buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
    return HistogramMetricFamily(PREFIX + name, text, buckets, histogram.total)


class Exposition:
    """Collects the numbers at each scrape (a prometheus_client collector).

    Args:
        parts: where the numbers are.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(namespace=PREFIX.rstrip("_"), registry=self._registry)

    def describe(self) -> Iterable[Metric]:
        """No names in advance: nothing else is in the registry that they could collide with."""
        return []

    def page(self, accept: str) -> tuple[bytes, str]:
        """The page and its content type.

        Args:
            accept: the scraper's Accept header.
        """
        encode: Callable[[CollectorRegistry], bytes]
        try:
            encode, content_type = choose_encoder(accept)
        except (ValueError, TypeError):
            # prometheus_client compares version numbers that the scraper has made up.
            encode, content_type = choose_encoder("")
        return encode(self._registry), content_type

    def collect(self) -> Iterator[Metric]:
        """All families of metrics."""
        yield from self._requests()
        yield from self._scores()
        yield from self._counters()
        yield from self._connections()
        yield from self._daemon()

    def _requests(self) -> Iterator[Metric]:
        metrics = self._parts.metrics
        # A series that begins at its first increment hides that increment from rate().
        tiers = [rule.name for rule in self._parts.engine.policy.tiers.limits] + ["not-asked", "override"]
        decisions = {(PERMIT, str(Reason.WITHIN_LIMIT), tier): 0 for tier in tiers} | metrics.decisions
        family = CounterMetricFamily(PREFIX + "requests", "Requests decided.", labels=["action", "reason", "tier"])
        for labels, count in decisions.items():
            family.add_metric(labels, count)
        yield family
        yield _histogram("request_duration_seconds", "From a request's last byte to its answer.", metrics.latency)
        yield _histogram("batch_size", "Requests decided together.", metrics.batches)
        if metrics.last_decision is not None:
            yield _gauge("last_request_timestamp_seconds", "When a request was decided last.", metrics.last_decision)

    def _scores(self) -> Iterator[Metric]:
        metrics, source = self._parts.metrics, self._parts.source
        yield _counters(
            "lookups", "Score lookups over DNS.", "outcome", {word: metrics.lookups[word] for word in OUTCOMES}
        )
        yield _histogram("lookup_duration_seconds", "Duration of a score lookup over DNS.", metrics.lookup_latency)
        yield _counters(
            "score_cache",
            "Looks into the score cache.",
            "result",
            {word: metrics.score_cache[word] for word in CACHE_RESULTS},
        )
        budget = source.budget
        used = {"month": budget.used, "day": budget.used_today}
        yield _gauges("query_budget_used", "Queries sent in the last 30 days and 24 hours.", "period", used)
        if budget.limit:
            limits = {"month": budget.limit, "day": budget.daily_limit}
            yield _gauges("query_budget_limit", "Most queries in 30 days and in 24 hours.", "period", limits)
        states = {str(state): float(source.zone_state is state) for state in ZoneState}
        yield _gauges("zone_state", "State of the score zone; one state is 1.", "state", states)

    def _counters(self) -> Iterator[Metric]:
        metrics, servers = self._parts.metrics, self._parts.counting.servers
        if servers:
            up = sum(servers.values())
            yield _gauges("memcached_servers", "Servers by state.", "state", {"up": up, "down": len(servers) - up})
            yield _counter("memcached_evictions", "Items that memcached evicted.", self._parts.evictions.seen)
        trips = {result: metrics.round_trips[result] for result in ("ok", "failed")}
        yield _counters("store_round_trips", "Round trips to a memcached.", "result", trips)
        yield _histogram(
            "store_round_trip_duration_seconds", "Duration of a round trip to a memcached.", metrics.round_trip_latency
        )
        yield _counter("store_commands", "Commands sent to memcached.", metrics.store_commands)
        yield _counter("store_poisoned_keys", "Keys deleted because they held no counter.", metrics.poisoned_keys)

    def _connections(self) -> Iterator[Metric]:
        counts = self._parts.server.counts
        yield _gauge("connections_open", "Policy connections open now.", self._parts.server.connections)
        yield _counter("connections_accepted", "Policy connections accepted.", counts.accepted)
        closed = {"idle": counts.closed_idle, "newcomer": counts.closed_for_newcomer}
        yield _counters("connections_closed", "Idle connections closed, by reason.", "reason", closed)
        yield _counter("malformed_requests", "Connections closed for a malformed request.", counts.malformed)
        yield _counter("unforeseen_errors", "Connections closed for an unforeseen error.", counts.failed)

    def _daemon(self) -> Iterator[Metric]:
        parts = self._parts
        states = {"counters": parts.counting.state, "scores": parts.source.state, "state": parts.state.state}
        degraded = {part: float(state != "ok") for part, state in states.items()}
        yield _gauges("degraded", "Whether a part of the daemon is degraded.", "part", degraded)
        if parts.state.saved_at is not None:
            yield _gauge("state_saved_timestamp_seconds", "When the state was saved last.", parts.state.saved_at)
        yield _counter("log_lines_dropped", "Log lines that were not written.", parts.log.dropped)
        yield _gauge("config_generation", "How often the configuration was taken up.", parts.generation())
        yield _gauge("observe_mode", "Whether nobody is deferred.", float(parts.engine.policy.observe))
        info = GaugeMetricFamily(PREFIX + "build_info", "Versions; always 1.", labels=["version", "python"])
        info.add_metric([__version__, platform.python_version()], 1)
        yield info
