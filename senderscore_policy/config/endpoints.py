"""Where something listens: an Internet address with a port, or a unix socket."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Inet:
    """A TCP address.

    Args:
        host: an IP address or a host name; an IPv6 address without brackets.
        port: 1 to 65535 (0 lets the system choose, in tests).
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Unix:
    """A unix socket by its absolute path."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Endpoint = Inet | Unix
