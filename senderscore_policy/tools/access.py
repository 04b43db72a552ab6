"""The way from a command to clients' counters and scores: the running daemon, or what is behind it."""

from typing import Any, Protocol, Self

from senderscore_policy.config.model import Config
from senderscore_policy.config.paths import control_paths
from senderscore_policy.tools.control import NoDaemonError, find_daemon


class Access(Protocol):
    """What commands do with clients; `ControlClient` and `DirectAccess` both can. See there."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def client(self, address: str) -> dict[str, Any]:
        """How a client stands."""

    def score(self, address: str) -> dict[str, Any]:
        """A client's score."""

    def increment(self, address: str, by: int) -> dict[str, Any]:
        """Count messages for a client."""

    def reset(self, address: str) -> dict[str, Any]:
        """Forget a client's messages."""


def open_access(config: Config, *, counters: bool) -> Access:
    """The running daemon; without one, memcached and DNS.

    Args:
        config: where to look.
        counters: whether counters are wanted; those of the memory store are with the daemon alone.

    Raises:
        PermissionError: the daemon's control socket denies access.
        NoDaemonError: no daemon is running, and nothing else has the counters.
    """
    try:
        return find_daemon(control_paths(config))
    except NoDaemonError:
        if counters and config.counters.store == "memory":
            raise
    # Only here: DNS and memcached libraries take longer to import than a command with a daemon to run.
    from senderscore_policy.tools.direct import DirectAccess  # noqa: PLC0415

    return DirectAccess(config)
