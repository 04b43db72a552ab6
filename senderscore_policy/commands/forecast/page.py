"""A forecast as one HTML page without links to other files."""

import time
from typing import Any, Final

from senderscore_policy.commands.forecast.report import Report
from senderscore_policy.web.chart import span_of
from senderscore_policy.web.html import render

MOST_CLIENTS: Final = 200
"""Rows of a table of clients; a page of all would be too large for a phone."""


def page(report: Report) -> str:
    """The page."""
    return render(
        "forecast.html", report=report, forecast=report.forecast, most=MOST_CLIENTS, made=time.time(), **_charts(report)
    )


def _charts(report: Report) -> dict[str, Any]:
    """The chart of all messages, and one for each client shown."""
    forecast = report.forecast
    if not forecast.hourly:
        return {"overview": None, "sparks": {}, "step": ""}
    span = span_of(list(forecast.hourly))
    sparks = {
        each.key: span.chart(each.tally.hourly, each.tally.hourly_deferred) for each in report.limited[:MOST_CLIENTS]
    }
    overview = span.chart(forecast.hourly, forecast.hourly_deferred)
    return {"overview": overview, "sparks": sparks, "step": span.step_text}
