"""How clients stand, as `get`, `increment` and `reset` show it."""

from collections.abc import Sequence
from typing import Any, Final

from senderscore_policy.cli.output import say, say_json, table

COLUMNS: Final = ("client", "count", "deferred", "score", "reputation", "tier", "limit", "left")
NUMBERS: Final = frozenset({"count", "deferred", "score", "limit", "left"})


def show(clients: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    """Print the clients.

    Args:
        clients: objects as the daemon gives them; what an object has beyond the columns is not shown.
        as_json: for programs.
    """
    if as_json:
        say_json([{name: client[name] for name in COLUMNS} for client in clients])
    else:
        say(table(COLUMNS, [[client[name] for name in COLUMNS] for client in clients], NUMBERS))
