"""The status page and the page of a client, complete without JavaScript."""

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import get_mixed_type_key, ip_network
from math import inf
from typing import Any, Final
from urllib.parse import urlencode

from senderscore_policy.monitoring.clients import Row
from senderscore_policy.monitoring.statistics import MINUTES
from senderscore_policy.policy.status import LimitState
from senderscore_policy.web import html
from senderscore_policy.web.chart import chart, tier_order
from senderscore_policy.web.html import SCRIPT, STYLE, source_of
from senderscore_policy.web.status import MOST_CLIENTS, MOST_FOUND, ClientDetails, Status

ROWS: Final = 50
"""Clients that are listed unless all are wanted."""
LONGEST_QUERY: Final = 100
"""Characters of a filter."""


def _nearest(row: Row) -> tuple[Any, ...]:
    """Limited clients first, those that are deferred most before the others; then by the share of the limit used."""
    status = row.status
    share = status.count / max(status.limit.messages, 0.5)
    return list(LimitState).index(status.state), -status.deferred, -share, -status.count


ORDERS: Final[dict[str, Callable[[Row], Any]]] = {
    "client": lambda row: get_mixed_type_key(ip_network(row.status.client.key)),
    "score": lambda row: -1 if row.status.score is None else row.status.score,
    "tier": lambda row: tier_order(row.status.limit.name),
    "count": lambda row: -row.status.count,
    "left": lambda row: row.status.limit.messages - row.status.count,
    "deferred": lambda row: -row.status.deferred,
    "opens": lambda row: (row.status.state != LimitState.LIMITED, inf if row.opens_in is None else row.opens_in),
    "seen": lambda row: -row.seen_at,
}
"""What a column of the list is sorted by, ascending unless reversed; the titles are in templates/status.html."""
STATUS: Final = "status"
"""The default order of the list: the clients that an administrator should see first."""
SHOWN: Final = {"all": "All", "limited": "Limited now", "near": "Near the limit", "deferred": "Deferred"}
"""Parts of the list, by their names in the address of the page."""


@dataclass(frozen=True, slots=True)
class View:
    """The wanted part of the list, as the page's address says."""

    show: str = "all"  # a key of `SHOWN`
    sort: str = STATUS  # or a key of `ORDERS`
    reverse: bool = False
    filter: str = ""  # see `monitoring.clients.matching`
    whole: bool = False  # list all rows, not the first `ROWS`

    def link(self, **changes: Any) -> str:
        """The address of the page with some things changed."""
        wanted = replace(self, **changes)
        query = {
            "show": wanted.show if wanted.show != "all" else "",
            "sort": ("-" if wanted.reverse else "") + wanted.sort if (wanted.reverse or wanted.sort != STATUS) else "",
            "filter": wanted.filter,
            "rows": "all" if wanted.whole else "",
        }
        return "?" + urlencode({key: value for key, value in query.items() if value})


def view(query: Mapping[str, str]) -> View:
    """The view that a query asks for; a part that it leaves out, or that is invalid, has its default."""
    show, sort = query.get("show", ""), query.get("sort", "")
    column = sort.removeprefix("-")
    known = column in ORDERS or column == STATUS
    return View(
        show=show if show in SHOWN else "all",
        sort=column if known else STATUS,
        reverse=known and sort.startswith("-"),
        filter=query.get("filter", "").strip()[:LONGEST_QUERY],
        whole=query.get("rows") == "all",
    )


def selected(row: Row, show: str) -> bool:
    return row.status.deferred > 0 if show == "deferred" else show in {"all", row.status.state}


def numbers(rows: Sequence[Row], clients: int, most: int = MOST_CLIENTS) -> dict[str, str]:
    """The number of clients in each part of the list; with a "+" where not all of them may be listed.

    The list has all clients, or at least the `most` that are nearest to their limits.
    """
    counts = {show: sum(selected(row, show) for row in rows) for show in SHOWN}
    more = "+" if len(rows) < clients and counts["limited"] + counts["near"] >= most else ""
    return {show: f"{count:,}{more}" for show, count in counts.items()} | {"all": f"{clients:,}"}


def ordered(rows: Sequence[Row], wanted: View) -> list[Row]:
    found = [row for row in rows if selected(row, wanted.show)]
    return sorted(sorted(found, key=_nearest), key=ORDERS.get(wanted.sort, _nearest), reverse=wanted.reverse)


CONTENT_SECURITY_POLICY: Final = (
    f"default-src 'none'; style-src {source_of(STYLE)}; script-src {source_of(SCRIPT)}; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""Allows the pages' own style and script, their own address for the refresh, and nothing else."""


def render(status: Status, wanted: View, rows: Sequence[Row], clients: int) -> str:
    """The status page; rows and the number of clients, listed or not, are from `StatusCollector.clients`."""
    found = ordered(rows, wanted)
    return html.render(
        "status.html",
        status=status,
        host=socket.gethostname(),
        chart=chart(status.minutes, 60, MINUTES, labels=4),
        limits=numbers(status.rows, status.clients),
        shown=numbers(rows, clients, MOST_FOUND if wanted.filter else MOST_CLIENTS),
        titles=SHOWN,
        view=wanted,
        listed_clients=len(rows),
        clients=clients,
        found=len(found),
        rows=found if wanted.whole else found[:ROWS],
    )


def render_client(status: Status, details: ClientDetails, home: str = "../") -> str:
    return html.render("client.html", status=status, host=socket.gethostname(), details=details, home=home)
