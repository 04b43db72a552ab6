"""The configuration as values. Each field's default is the documented default (`default.toml` is compared with it)."""

from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Literal

from senderscore_policy.policy.address import Network, Override
from senderscore_policy.policy.tiers import UNLIMITED, Rule, Tier, TierTable
from senderscore_policy.policy.window import Window


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


@dataclass(frozen=True, slots=True)
class Listen:
    """[listen]: where the daemon answers."""

    policy: tuple[Endpoint, ...] = (Inet("127.0.0.1", 10045),)
    status: Inet | None = Inet("127.0.0.1", 10046)
    status_public: bool = False
    control: str = ""
    max_connections: int = 2000
    idle_timeout: float = 1000


@dataclass(frozen=True, slots=True)
class ReputationSettings:
    """[reputation]: how scores are read. Times in seconds."""

    zone: str = "score.senderscore.com"
    nameservers: tuple[Inet, ...] = ()
    lookup: Literal["lazy", "eager"] = "lazy"
    lazy_share: float = 0.5
    deadline: float = 1.0
    query_budget: int = 10000
    scored_ttl: float = 86400
    unknown_ttl: float = 21600
    failure_ttl: float = 60


@dataclass(frozen=True, slots=True)
class CounterSettings:
    """[counters]: where and how messages are counted. Times in seconds."""

    store: Literal["memory", "memcached"] = "memory"
    servers: tuple[Endpoint, ...] = (Inet("127.0.0.1", 11211),)
    replicas: Literal[1, 2] = 1
    key_prefix: str = "ssp:"
    timeout: float = 0.25
    count: Literal["messages", "recipients"] = "messages"
    ipv6_prefix: int = 64
    window: int = 3600
    algorithm: Literal["sliding", "fixed"] = "sliding"
    buckets: int = 12

    def window_of_time(self) -> Window:
        """The window that counters are kept for."""
        return Window(self.window, self.buckets if self.algorithm == "sliding" else 0)


@dataclass(frozen=True, slots=True)
class Exempt:
    """[exempt]: who is never counted."""

    networks: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
    authenticated: bool = True


@dataclass(frozen=True, slots=True)
class Log:
    """[log]: where the log goes."""

    target: Literal["stderr", "syslog"] = "stderr"
    level: Literal["debug", "info", "warning", "error"] = "info"


OVER_LIMIT = (
    "421 sender score = {{ score }}, you're limited to {{ limit }} messages/{{ window }} in our policy, try again later"
)


def default_tiers() -> TierTable:
    """Ten tiers, 0-10: 100 messages an hour to 91-100: 1000; no limit without a score."""
    bands = [(0, 10)] + [(low, low + 9) for low in range(11, 101, 10)]
    tiers = [Tier(low, high, Rule(f"{low}-{high}", 100.0 * n)) for n, (low, high) in enumerate(bands, 1)]
    return TierTable(tiers, Rule("unscored", UNLIMITED), Rule("unavailable", UNLIMITED))


@dataclass(frozen=True, slots=True)
class Config:
    """The whole file.

    Args:
        over_limit: [reply] over_limit, a jinja2 template.
        state_directory: [state] directory; empty: chosen by the environment.
    """

    mode: Literal["enforce", "observe"] = "enforce"
    listen: Listen = field(default_factory=Listen)
    reputation: ReputationSettings = field(default_factory=ReputationSettings)
    overrides: tuple[Override, ...] = ()
    counters: CounterSettings = field(default_factory=CounterSettings)
    tiers: TierTable = field(default_factory=default_tiers)
    exempt: Exempt = field(default_factory=Exempt)
    over_limit: str = OVER_LIMIT
    state_directory: str = ""
    log: Log = field(default_factory=Log)
