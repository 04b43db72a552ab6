"""The configuration as values: every option with its default and its check (`default.toml` explains them)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Final, Literal

from senderscore_policy.config import endpoints, values
from senderscore_policy.config.endpoints import Endpoint, Inet
from senderscore_policy.config.options import boolean, number, one_of, option, text, texts, whole
from senderscore_policy.policy.clients import ClientDirectory, Network, Override
from senderscore_policy.policy.policy import Policy
from senderscore_policy.policy.reply import ReplyTemplate
from senderscore_policy.policy.tiers import UNLIMITED, Limit, Tier, TierTable
from senderscore_policy.policy.window import CLOCK_SKEW, Window

_TTL: Final = number(10, 604_800, "seconds; the zone lets an answer live 10 s, and scores over 7 days are dropped")

Conflict = tuple[tuple[str, ...], str]
"""Options of a section that contradict each other, and the problem. The first one is reported and gets its default,
unless one of them is invalid by itself."""


@dataclass(frozen=True, slots=True)
class Listen:
    """[listen]: where the daemon answers."""

    policy: tuple[Endpoint, ...] = option((Inet("127.0.0.1", 10045),), texts(endpoints.endpoint, distinct=True))
    status: Inet | None = option(Inet("127.0.0.1", 10046), text(endpoints.http_listener))
    status_public: bool = option(False, boolean)
    metrics: Inet | None = option(None, text(endpoints.http_listener))
    control: str = option("", text(endpoints.control_socket))
    max_connections: int = option(
        2000, whole(10, 100_000, "each Postfix process holds one, and each takes a file descriptor")
    )
    idle_timeout: float = option(
        1000.0, number(60, 604_800, "seconds; Postfix keeps connections for minutes and would have to reconnect")
    )

    def conflicts(self) -> Iterator[Conflict]:
        if self.status and not self.status_public and not self.status.local:
            problem = f'"{self.status}" is not a loopback address. The status page shows who sends how much'
            remedy = "set status_public = true to allow this, or publish the numbers alone with metrics"
            yield ("status", "status_public"), f"{problem}; {remedy}"
        if self.status in self.policy:
            yield ("status", "policy"), "is also a policy address"
        if self.metrics and self.metrics in {self.status, *self.policy}:
            yield ("metrics", "status", "policy"), "is also the status address or a policy address"
        if f"unix:{self.control}" in map(str, self.policy):
            yield ("control", "policy"), "is also a policy socket"


@dataclass(frozen=True, slots=True)
class ReputationSettings:
    """[reputation]: how scores are read. Times in seconds."""

    zone: str = option("score.senderscore.com", text(values.zone))
    nameservers: tuple[Inet, ...] = option((), texts(endpoints.nameserver))
    lookup: Literal["lazy", "eager"] = option("lazy", one_of("lazy", "eager"))
    lazy_share: float = option(0.5, number(0, 1, "a share of the smallest limit, above 0"))
    deadline: float = option(
        1.0, number(0.05, 30, "seconds that a message may wait; Postfix itself gives up after 100")
    )
    query_budget: int = option(10000, whole(0, 1_000_000_000, "queries in 30 days; 0: no budget"))
    scored_ttl: float = option(86400.0, _TTL)
    unknown_ttl: float = option(21600.0, _TTL)
    failure_ttl: float = option(
        60.0, number(1, 3600, "seconds; clients go without their score until then, though the zone may be back")
    )

    def conflicts(self) -> Iterator[Conflict]:
        if self.lazy_share == 0:
            yield ("lazy_share",), 'must be above 0; lookup = "eager" asks for the score at the first message'


@dataclass(frozen=True, slots=True)
class CounterSettings:
    """[counters]: where and how messages are counted. Times in seconds."""

    store: Literal["memory", "memcached"] = option("memory", one_of("memory", "memcached"))
    servers: tuple[Endpoint, ...] = option((Inet("127.0.0.1", 11211),), texts(endpoints.server, distinct=True))
    replicas: int = option(1, whole(1, 2, "the servers that keep each counter"))
    key_prefix: str = option("ssp:", text(values.key_prefix))
    timeout: float = option(0.25, number(0.01, 10, "seconds that every message may wait when memcached hangs"))
    tls_ca: str = option("", text(values.readable_file))
    tls_certificate: str = option("", text(values.readable_file))
    tls_key: str = option("", text(values.readable_file))
    count: Literal["messages", "recipients"] = option("messages", one_of("messages", "recipients"))
    ipv6_prefix: int = option(64, whole(1, 128, "bits of an IPv6 address that are one client"))
    window: int = option(3600, whole(60, 2_419_200, "seconds: a minute to 28 days"))
    algorithm: Literal["sliding", "fixed"] = option("sliding", one_of("sliding", "fixed"))
    buckets: int = option(12, whole(2, 60, "parts of a sliding window"))

    def window_of_time(self) -> Window:
        return Window(self.window, self.buckets if self.algorithm == "sliding" else 1)

    def conflicts(self) -> Iterator[Conflict]:
        if self.replicas == 2 and len(self.servers) < 2:
            yield ("replicas", "servers"), "2 needs at least two servers"
        if bool(self.tls_certificate) != bool(self.tls_key):
            key, other = ("tls_certificate", "tls_key") if self.tls_certificate else ("tls_key", "tls_certificate")
            yield (key, other), f"needs {other}"
        if self.tls_certificate and not self.tls_ca:
            yield ("tls_certificate", "tls_ca"), "needs tls_ca, which turns TLS on"
        bucket = self.window_of_time().bucket_seconds
        if bucket < CLOCK_SKEW:
            problem = f"{self.buckets} buckets of {bucket:g} s in a window of {self.window} s are too short"
            remedy = f"at most {self.window // CLOCK_SKEW:g}, so that each has {CLOCK_SKEW:g} s"
            yield ("buckets", "window"), f"{problem}: {remedy}"


@dataclass(frozen=True, slots=True)
class OverrideSettings:
    """One [[override]]."""

    networks: tuple[Network, ...] = option((), texts(values.network))
    networks_file: tuple[Network, ...] | None = option(None, text(values.networks_file))
    score: int | None = option(None, whole(0, 100, "0 is the worst, 100 the best"))
    limit: float | None = option(None, values.limit)

    def conflicts(self) -> Iterator[Conflict]:
        if not self.networks and self.networks_file is None:
            yield ("networks", "networks_file"), "must name at least one network"
        if (self.score is None) == (self.limit is None):
            hint = "for example score = 75" if self.score is None else "not both"
            yield ("score", "limit"), f"give a score or a limit, {hint}"


@dataclass(frozen=True, slots=True)
class TierSettings:
    """One [[tier]]."""

    scores: tuple[int, int] = option((0, 100), text(values.scores), required='scores = "0-10"')
    limit: float = option(UNLIMITED, values.limit, required="limit = 100")
    reply: str | None = option(None, text(values.reply))

    def conflicts(self) -> Iterator[Conflict]:
        if self.reply and (problem := reply_problem(self.reply, over_limit_in(self.tier))):
            yield ("reply", "scores", "limit"), problem

    @property
    def tier(self) -> Tier:
        low, high = self.scores
        return Tier(low, high, Limit(f"{low}-{high}", self.limit, self.reply))


@dataclass(frozen=True, slots=True)
class NoScore:
    """[unscored] and [unavailable]: clients without a score."""

    limit: float = option(UNLIMITED, values.limit)


@dataclass(frozen=True, slots=True)
class Exempt:
    """[exempt]: clients that are never counted. After reading, `networks` has those of the file, too."""

    networks: tuple[Network, ...] = option((ip_network("127.0.0.0/8"), ip_network("::1/128")), texts(values.network))
    networks_file: tuple[Network, ...] | None = option(None, text(values.networks_file))
    authenticated: bool = option(True, boolean)


@dataclass(frozen=True, slots=True)
class Log:
    """[log]: where the log goes."""

    target: Literal["stderr", "syslog"] = option("stderr", one_of("stderr", "syslog"))
    level: Literal["debug", "info", "warning", "error"] = option("info", one_of("debug", "info", "warning", "error"))


OVER_LIMIT = (
    "421 sender score = {{ score }}, you're limited to {{ limit }} messages/{{ window }} in our policy, try again later"
)


def default_tiers() -> TierTable:
    """Ten tiers, 0-10: 100 messages an hour to 91-100: 1000; no limit without a score."""
    bands = [(0, 10)] + [(low, low + 9) for low in range(11, 101, 10)]
    tiers = [Tier(low, high, Limit(f"{low}-{high}", 100.0 * n)) for n, (low, high) in enumerate(bands, 1)]
    return TierTable(tiers, Limit("unscored", UNLIMITED), Limit("unavailable", UNLIMITED))


@dataclass(frozen=True, slots=True)
class Config:
    """The whole file; a field without an `option` is a section, or combines several."""

    mode: Literal["enforce", "observe"] = option("enforce", one_of("enforce", "observe"))
    listen: Listen = field(default_factory=Listen)
    reputation: ReputationSettings = field(default_factory=ReputationSettings)
    overrides: tuple[Override, ...] = ()
    counters: CounterSettings = field(default_factory=CounterSettings)
    tiers: TierTable = field(default_factory=default_tiers)
    exempt: Exempt = field(default_factory=Exempt)
    over_limit: str = option(OVER_LIMIT, text(values.reply), key="reply.over_limit")
    state_directory: str = option("", text(values.directory), key="state.directory")
    log: Log = field(default_factory=Log)

    @property
    def reply_cases(self) -> Iterator[tuple[int | None, Limit]]:
        """Every score and limit that `over_limit` may have to answer."""
        limits = {Limit("override", each.limit) for each in self.overrides if each.limit is not None}
        yield from ((None, limit) for limit in (self.tiers.unscored, self.tiers.unavailable, *limits))
        for tier in self.tiers.tiers:
            yield from [] if tier.limit.reply else over_limit_in(tier)


def over_limit_in(tier: Tier) -> list[tuple[int | None, Limit]]:
    """Every score and limit that a tier's reply may have to answer."""
    return [(score, tier.limit) for score in range(tier.low, tier.high + 1)]


def reply_problem(template: str, cases: Iterable[tuple[int | None, Limit]]) -> str | None:
    """Why a reply's template gives an invalid action for one of these scores and limits."""
    reply = ReplyTemplate(template)
    for score, limit in cases:
        if limit.messages != UNLIMITED and (problem := reply.problem(score, limit.name, limit.messages)):
            return f"score {'unknown' if score is None else score}, tier {limit.name}: {problem}"
    return None


def policy_of(config: Config) -> Policy:
    settings = config.reputation
    return Policy(
        tiers=config.tiers,
        directory=ClientDirectory(config.exempt.networks, config.overrides, config.counters.ipv6_prefix),
        over_limit=ReplyTemplate(config.over_limit),
        tier_replies={limit.reply: ReplyTemplate(limit.reply) for limit in config.tiers.limits if limit.reply},
        window=str(config.counters.window_of_time()),
        ask_from=1 if settings.lookup == "eager" else settings.lazy_share * config.tiers.not_asked.messages,
        observe=config.mode == "observe",
        exempt_authenticated=config.exempt.authenticated,
        count_recipients=config.counters.count == "recipients",
    )
