"""/metrics: the daemon's plain numbers in Prometheus' format. Names and meaning: docs/metrics.md.

Every label takes its values from a closed set; an address is never one of them.
"""

import asyncio
import platform
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import accumulate
from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from senderscore_policy import __version__
from senderscore_policy.monitoring.statistics import Histogram
from senderscore_policy.policy.decision import Reason
from senderscore_policy.policy.reply import PERMIT
from senderscore_policy.reputation.guard import ZoneState
from senderscore_policy.web.status import LIFE, StatusCollector

PREFIX: Final = "senderscore_policy_"
_Kind = type[GaugeMetricFamily] | type[CounterMetricFamily]


def _family(kind: _Kind, name: str, text: str, value: float | Mapping[Any, float], *labels: str) -> Metric:
    """Make a metric with one value, or with a value for each word of a label, or for each tuple of words of several."""
    family = kind(PREFIX + name, text, labels=labels)
    values: Mapping[Any, float] = value if isinstance(value, Mapping) else {(): value}
    for words, number in values.items():
        family.add_metric([words] if isinstance(words, str) else words, number)
    return family


_gauge: Final = partial(_family, GaugeMetricFamily)
_counter: Final = partial(_family, CounterMetricFamily)


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    bounds = [*map(str, histogram.bounds), "+Inf"]
    buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
    return HistogramMetricFamily(PREFIX + name, text, buckets, histogram.total)


class Exposition:
    """Collects the numbers at each scrape (a prometheus_client collector)."""

    def __init__(self, collector: StatusCollector) -> None:
        self._collector = collector
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(namespace=PREFIX.rstrip("_"), registry=self._registry)
        self._families: list[Metric] = []
        self._pages: dict[str, tuple[float, bytes]] = {}
        self._encoding = asyncio.Lock()

    def collect(self) -> list[Metric]:
        """The families of metrics that `page` has taken."""
        return self._families

    async def page(self, accept: str) -> tuple[bytes, str]:
        """The page, at most `LIFE` old, and its content type, for a scraper's Accept header."""
        encode: Callable[[CollectorRegistry], bytes]
        open_metrics = "application/openmetrics-text" in accept
        # The default is Prometheus' own text format.
        encode, content_type = choose_encoder("application/openmetrics-text; version=1.0.0" if open_metrics else "")
        loop = asyncio.get_running_loop()
        async with self._encoding:
            until, body = self._pages.get(content_type, (0.0, b""))
            if loop.time() >= until:
                self._families = [*self._requests(), *self._scores(), *self._counters(), *self._service()]
                # In a thread: the text takes longer than a request may wait for its decision.
                body = await asyncio.to_thread(encode, self._registry)
                self._pages[content_type] = loop.time() + LIFE, body
            return body, content_type

    def _requests(self) -> Iterator[Metric]:
        metrics = self._collector.metrics
        # A series that begins at its first increment hides that increment from rate().
        tiers = [limit.name for limit in self._collector.admin.engine.policy.tiers.limits] + ["not-asked", "override"]
        decisions = {(PERMIT, str(Reason.WITHIN_LIMIT), tier): 0 for tier in tiers} | metrics.decisions
        yield _counter("requests", "Requests decided.", decisions, "action", "reason", "tier")
        yield _histogram("request_duration_seconds", "From a request's last byte to its answer.", metrics.latency)
        yield _histogram("batch_size", "Requests decided together.", metrics.batches)
        if metrics.last_decision is not None:
            yield _gauge("last_request_timestamp_seconds", "When a request was decided last.", metrics.last_decision)

    def _scores(self) -> Iterator[Metric]:
        metrics, source = self._collector.metrics, self._collector.source
        budget = source.budget
        yield _counter("lookups", "Score lookups over DNS.", metrics.lookups, "outcome")
        yield _histogram("lookup_duration_seconds", "Duration of a score lookup over DNS.", metrics.lookup_latency)
        yield _counter("score_cache", "Reads of the score cache.", metrics.score_cache, "result")
        used = {"month": budget.used, "day": budget.used_today}
        yield _gauge("query_budget_used", "Queries sent in the last 30 days and 24 hours.", used, "period")
        if budget.limit:
            limits = {"month": budget.limit, "day": budget.daily_limit}
            yield _gauge("query_budget_limit", "Most queries in 30 days and in 24 hours.", limits, "period")
        states = {str(state): float(source.zone_state == state) for state in ZoneState}
        yield _gauge("zone_state", "State of the score zone; one state is 1.", states, "state")

    def _counters(self) -> Iterator[Metric]:
        metrics, latency = self._collector.metrics, self._collector.metrics.round_trip_latency
        servers = self._collector.backend.servers
        if servers:
            up, evicted = sum(servers.values()), self._collector.evictions.seen
            yield _gauge("memcached_servers", "Servers by state.", {"up": up, "down": len(servers) - up}, "state")
            yield _counter("memcached_evictions", "Items that memcached evicted.", evicted)
        yield _counter("store_round_trips", "Round trips to a memcached.", metrics.round_trips, "result")
        yield _histogram("store_round_trip_duration_seconds", "Duration of a round trip to a memcached.", latency)
        yield _counter("store_commands", "Commands sent to memcached.", metrics.store_commands)
        yield _counter("store_invalid_keys", "Keys deleted because they did not hold a number.", metrics.invalid_keys)

    def _service(self) -> Iterator[Metric]:
        collector, service = self._collector, self._collector.service()
        yield _gauge("connections_open", "Policy connections open now.", service.connections)
        yield _counter("connections_accepted", "Policy connections accepted.", service.accepted)
        yield _counter("connections_closed", "Idle connections closed, by reason.", service.closed, "reason")
        yield _counter("malformed_requests", "Connections closed because of a malformed request.", service.malformed)
        yield _counter("internal_errors", "Connections closed because of an internal error.", service.failed)
        states = {"counters": collector.backend.state, "scores": collector.source.state, "state": service.state}
        degraded = {part: float(state != "ok") for part, state in states.items()}
        yield _gauge("degraded", "Whether a part of the daemon is degraded.", degraded, "part")
        if service.saved_at is not None:
            yield _gauge("state_saved_timestamp_seconds", "When the state was saved last.", service.saved_at)
        yield _counter("log_lines_dropped", "Log lines that were not written.", service.log_dropped)
        text = "The start, and reloads that changed the configuration in force."
        yield _gauge("config_generation", text, service.generation)
        yield _gauge("config_last_reload_successful", "0 after a refused reload.", float(not service.reload_failed))
        yield _gauge("observe_mode", "Whether the daemon only observes.", float(service.mode == "observe"))
        versions = {(__version__, platform.python_version()): 1.0}
        yield _gauge("build_info", "Versions; always 1.", versions, "version", "python")
