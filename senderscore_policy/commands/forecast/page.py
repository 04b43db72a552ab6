"""A forecast as one HTML page, which needs nothing but itself."""

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, StrictUndefined

from senderscore_policy.commands.forecast.chart import chart, span_of
from senderscore_policy.commands.forecast.report import Report
from senderscore_policy.maillog.timestamps import for_people
from senderscore_policy.policy.status import limit_as_json

TEMPLATE: Final = Path(__file__).with_name("forecast.html.j2")
MOST_CLIENTS: Final = 200
"""Rows of a table of clients; a page of all would be too large for a phone."""


def page(report: Report) -> str:
    """The page."""
    # All texts of a log pass through autoescape; the template marks nothing as safe.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = lambda value: f"{value:,}" if isinstance(value, int) else str(value)
    environment.filters["time"] = for_people
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        report=report,
        forecast=report.forecast,
        limited=report.limited[:MOST_CLIENTS],
        more=max(0, len(report.limited) - MOST_CLIENTS),
        changes=report.changes()[:MOST_CLIENTS],
        more_changes=max(0, len(report.changes()) - MOST_CLIENTS),
        bands=report.bands(),
        limit=limit_as_json,
        made=for_people(time.time()),
        **_charts(report),
    )


def _charts(report: Report) -> dict[str, Any]:
    """The chart of all messages, and one for each client shown."""
    forecast = report.forecast
    if not forecast.hourly_total:
        return {"overview": None, "sparks": {}}
    span = span_of(list(forecast.hourly_total))
    deferred: Counter[int] = Counter()
    for (_, hour), count in forecast.hourly_deferred.items():
        deferred[hour] += count
    messages_of, deferred_of = _by_client(forecast.hourly), _by_client(forecast.hourly_deferred)
    shown = [client.key for client in report.limited[:MOST_CLIENTS]]
    sparks = {key: chart(span, messages_of[key], deferred_of[key]) for key in shown}
    return {"overview": chart(span, forecast.hourly_total, deferred), "sparks": sparks}


def _by_client(hourly: Mapping[tuple[str, int], int]) -> dict[str, dict[int, int]]:
    result: dict[str, dict[int, int]] = {}
    for (key, hour), count in hourly.items():
        result.setdefault(key, {})[hour] = count
    return result
