"""The status page and the page of a client, complete without JavaScript."""

import math
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlencode

from senderscore_policy.monitoring.statistics import MINUTES
from senderscore_policy.policy.clients import parse_address
from senderscore_policy.policy.status import LimitState
from senderscore_policy.web import html
from senderscore_policy.web.chart import chart, tier_order
from senderscore_policy.web.html import SCRIPT, STYLE, source_of
from senderscore_policy.web.status import ClientDetails, Row, Status

ROWS: Final = 50
"""Clients that are listed unless all are wanted."""
LONGEST_QUERY: Final = 100
"""Characters of a filter."""
_PLACES: Final = {LimitState.LIMITED: 0, LimitState.NEAR: 1, LimitState.WITHIN: 2, LimitState.UNLIMITED: 3}


def _nearest(row: Row) -> tuple[Any, ...]:
    """Limited clients first, those that are deferred most before the others; then by the share of the limit used."""
    status = row.status
    share = status.count / max(status.limit.messages, 0.5)
    return _PLACES[row.status.state], -status.deferred, -share, -status.count


def _address(row: Row) -> tuple[int, int]:
    address = parse_address(row.status.client.key.partition("/")[0])
    return (address.version, int(address)) if address else (0, 0)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the list; the first order offered is ascending by its key."""

    title: str
    key: Callable[[Row], Any]
    note: str = ""


COLUMNS: Final = {
    "client": Column("Client", _address, "with its host name, as Postfix knows it"),
    "score": Column("Score", lambda row: -1 if row.status.score is None else row.status.score),
    "tier": Column("Tier", lambda row: tier_order(row.status.limit.name)),
    "count": Column("Count of limit", lambda row: -row.status.count, "messages accepted within the window"),
    "left": Column("Left", lambda row: row.status.limit.messages - row.status.count, "messages until the limit"),
    "deferred": Column(
        "Deferred", lambda row: -row.status.deferred, "messages above the limit within the window; they are not counted"
    ),
    "opens": Column(
        "Accepted again",
        lambda row: (row.status.state != LimitState.LIMITED, math.inf if row.opens_in is None else row.opens_in),
        "one message, if the client sends nothing before",
    ),
    "seen": Column("Last message", lambda row: -row.seen_at),
}
STATUS: Final = "status"
"""The default order of the list: the clients that an administrator should see first."""
SHOWN: Final = {"all": "All", "limited": "Limited now", "near": "Near the limit", "deferred": "Deferred"}
"""Parts of the list, by their names in the address of the page."""


@dataclass(frozen=True, slots=True)
class View:
    """The wanted part of the list, as the page's address says."""

    show: str = "all"  # a key of `SHOWN`
    sort: str = STATUS  # or a key of `COLUMNS`
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
    known = column in COLUMNS or column == STATUS
    return View(
        show=show if show in SHOWN else "all",
        sort=column if known else STATUS,
        reverse=known and sort.startswith("-"),
        filter=query.get("filter", "").strip()[:LONGEST_QUERY],
        whole=query.get("rows") == "all",
    )


def selected(row: Row, show: str) -> bool:
    return row.status.deferred > 0 if show == "deferred" else show in {"all", row.status.state}


def ordered(rows: Sequence[Row], wanted: View) -> list[Row]:
    found = [row for row in rows if selected(row, wanted.show)]
    key = COLUMNS[wanted.sort].key if wanted.sort in COLUMNS else _nearest
    return sorted(sorted(found, key=_nearest), key=key, reverse=wanted.reverse)


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
        limits={state: sum(row.status.state == state for row in status.rows) for state in ("limited", "near")},
        columns=COLUMNS,
        shown={show: sum(selected(row, show) for row in rows) for show in SHOWN},
        titles=SHOWN,
        view=wanted,
        listed_clients=len(rows),
        clients=clients,
        found=len(found),
        rows=found if wanted.whole else found[:ROWS],
    )


def render_client(status: Status, details: ClientDetails) -> str:
    return html.render("client.html", status=status, host=socket.gethostname(), details=details)
