"""A forecast as one HTML page, which needs nothing but itself."""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from senderscore_policy.commands.forecast.report import Report
from senderscore_policy.web.chart import span_of
from senderscore_policy.web.html import render

MOST_CLIENTS: Final = 200
"""Rows of a table of clients; a page of all would be too large for a phone."""


def page(report: Report) -> str:
    """The page."""
    return render(
        "forecast.html",
        report=report,
        forecast=report.forecast,
        limited=report.limited[:MOST_CLIENTS],
        more=max(0, len(report.limited) - MOST_CLIENTS),
        changes=report.changes()[:MOST_CLIENTS],
        more_changes=max(0, len(report.changes()) - MOST_CLIENTS),
        bands=report.bands(),
        made=time.time(),
        **_charts(report),
    )


def _charts(report: Report) -> dict[str, Any]:
    """The chart of all messages, and one for each client shown."""
    forecast = report.forecast
    if not forecast.hourly_total:
        return {"overview": None, "sparks": {}, "step": ""}
    span = span_of(list(forecast.hourly_total))
    deferred: Counter[int] = Counter()
    for (_, hour), count in forecast.hourly_deferred.items():
        deferred[hour] += count
    messages_of, deferred_of = _by_client(forecast.hourly), _by_client(forecast.hourly_deferred)
    shown = [client.key for client in report.limited[:MOST_CLIENTS]]
    sparks = {key: span.chart(messages_of[key], deferred_of.get(key, {})) for key in shown}
    return {"overview": span.chart(forecast.hourly_total, deferred), "sparks": sparks, "step": span.step_text}


def _by_client(hourly: Mapping[tuple[str, int], int]) -> dict[str, dict[int, int]]:
    result: dict[str, dict[int, int]] = {}
    for (key, hour), count in hourly.items():
        result.setdefault(key, {})[hour] = count
    return result
