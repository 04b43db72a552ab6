"""The status page: an overview as HTML, complete without JavaScript."""

import ipaddress
import math
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlencode

from senderscore_policy.monitoring.statistics import MINUTES
from senderscore_policy.policy.clients import parse_address
from senderscore_policy.policy.status import LimitState
from senderscore_policy.web import html
from senderscore_policy.web.chart import chart, tier_order
from senderscore_policy.web.html import SCRIPT, STYLE, source_of
from senderscore_policy.web.status import Row, Status

ROWS: Final = 50
"""Clients that are listed unless all are wanted."""
LABELLED: Final = 15
"""Minutes from one time on the axis to the next."""
LONGEST_QUERY: Final = 100
"""Characters of a filter."""
_PLACES: Final = {LimitState.LIMITED: 0, LimitState.NEAR: 1, LimitState.WITHIN: 2, LimitState.UNLIMITED: 3}
_NEVER: Final = math.inf


def _nearest(row: Row) -> tuple[Any, ...]:
    """Limited clients first, those that are deferred most before the others; then by the share of the limit used."""
    standing = row.standing
    share = standing.count / max(standing.limit.messages, 0.5)
    return _PLACES[row.standing.state], -standing.deferred, -share, -standing.count


def _address(row: Row) -> tuple[int, int]:
    address = parse_address(row.standing.client.key.partition("/")[0])
    return (address.version, int(address)) if address else (0, 0)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the list and how it sorts.

    Args:
        title: its head.
        key: sorts rows; the first order offered is ascending.
        note: explains the head.
    """

    title: str
    key: Callable[[Row], Any]
    note: str = ""


COLUMNS: Final = {
    "client": Column("Client", _address, "with its host name, as Postfix knows it"),
    "score": Column("Score", lambda row: -1 if row.standing.score is None else row.standing.score),
    "tier": Column("Tier", lambda row: tier_order(row.standing.limit.name)),
    "count": Column("Count of limit", lambda row: -row.standing.count, "messages let in within the window"),
    "left": Column("Left", lambda row: row.standing.limit.messages - row.standing.count, "messages until the limit"),
    "deferred": Column("Deferred", lambda row: -row.standing.deferred, "above the limit within the window"),
    "opens": Column(
        "Let in again",
        lambda row: (row.standing.state != LimitState.LIMITED, _NEVER if row.opens_in is None else row.opens_in),
        "if it sends nothing until then",
    ),
    "seen": Column("Last message", lambda row: -row.seen_at),
}
STATUS: Final = "status"
"""The order in which the list begins: the clients that an administrator should see first."""
SHOWN: Final = {
    "all": "All",
    "limited": "Limited now",
    "near": "Near the limit",
    "deferred": "Deferred",
}
"""Parts of the list, by their names in the address of the page."""


@dataclass(frozen=True, slots=True)
class View:
    """What of the list is wanted, as the page's address says.

    Args:
        show: a key of `SHOWN`.
        sort: `STATUS` or a key of `COLUMNS`.
        reverse: the other way round.
        filter: text that a row must hold, or a network that its client must be in.
        whole: all rows, not the first `ROWS`.
    """

    show: str = "all"
    sort: str = STATUS
    reverse: bool = False
    filter: str = ""
    whole: bool = False

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
    """What the address's query asks for; what it does not say, or not sensibly, is as at the beginning."""
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
    """Whether a row belongs to a part of the list."""
    if show == "deferred":
        return row.standing.deferred > 0
    return show in {"all", row.standing.state}


def _holds(row: Row, text: str) -> bool:
    """Whether a row holds the text of a filter."""
    if "/" in text:
        try:
            network = ipaddress.ip_network(text, strict=False)
            address = ipaddress.ip_network(row.standing.client.key)
        except ValueError:
            pass
        else:
            return network.version == address.version and address.network_address in network
    standing = row.standing
    words = (standing.client.key, row.name, standing.limit.name, standing.reputation_name)
    return any(text.casefold() in word.casefold() for word in words)


def rows(overview: Status, wanted: View) -> list[Row]:
    """The rows that are wanted, in the order that is wanted."""
    found = [row for row in overview.rows if selected(row, wanted.show) and _holds(row, wanted.filter)]
    key = COLUMNS[wanted.sort].key if wanted.sort in COLUMNS else _nearest
    return sorted(sorted(found, key=_nearest), key=key, reverse=wanted.reverse)


CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        f"style-src {source_of(STYLE)}",
        f"script-src {source_of(SCRIPT)}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
"""The page's own style and script, its own address for the refresh, and nothing else."""


def render(overview: Status, wanted: View) -> str:
    """The page.

    Args:
        overview: what it shows.
        wanted: which part of the list.
    """
    found = rows(overview, wanted)
    return html.render(
        "status.html",
        overview=overview,
        host=socket.gethostname(),
        chart=chart(overview.minutes, 60, MINUTES, MINUTES // LABELLED),
        columns=COLUMNS,
        shown={show: sum(selected(row, show) for row in overview.rows) for show in SHOWN},
        titles=SHOWN,
        view=wanted,
        found=len(found),
        rows=found if wanted.whole else found[:ROWS],
    )
