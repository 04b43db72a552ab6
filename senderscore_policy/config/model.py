"""The configuration as values. Each field's default is the documented default (`default.toml` is compared with it)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Final, Literal, TypeVar

from senderscore_policy.config import values
from senderscore_policy.config.endpoints import Endpoint, Inet
from senderscore_policy.config.options import Bounds, Report, Section
from senderscore_policy.errors import ConfigError
from senderscore_policy.policy.clients import ClientDirectory, Network, Override
from senderscore_policy.policy.policy import Policy
from senderscore_policy.policy.reply import ReplyTemplate
from senderscore_policy.policy.tiers import UNLIMITED, Limit, Tier, TierTable
from senderscore_policy.policy.window import CLOCK_SKEW, Window

DEFAULT_POLICY: Final = Inet("127.0.0.1", 10045)
DEFAULT_STATUS: Final = Inet("127.0.0.1", 10046)


@dataclass(frozen=True, slots=True)
class Listen:
    """[listen]: where the daemon answers."""

    policy: tuple[Endpoint, ...] = (DEFAULT_POLICY,)
    status: Inet | None = DEFAULT_STATUS
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
        return Window(self.window, self.buckets if self.algorithm == "sliding" else 1)


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
    tiers = [Tier(low, high, Limit(f"{low}-{high}", 100.0 * n)) for n, (low, high) in enumerate(bands, 1)]
    return TierTable(tiers, Limit("unscored", UNLIMITED), Limit("unavailable", UNLIMITED))


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


V = TypeVar("V")

_CONNECTIONS: Final = Bounds(10, 100_000, "each Postfix process holds one, and each takes a file descriptor")
_IDLE: Final = Bounds(60, 604_800, "seconds; Postfix keeps connections for minutes and would have to reconnect")
_SHARE: Final = Bounds(0, 1, "a share of the smallest limit, above 0")
_DEADLINE: Final = Bounds(0.05, 30, "seconds that a message may wait; Postfix itself gives up after 100")
_BUDGET: Final = Bounds(0, 1_000_000_000, "queries in 30 days; 0: no budget")
_SCORE_TTL: Final = Bounds(
    10, 604_800, "seconds; the zone lets an answer live 10 s, and scores over 7 days are dropped"
)
_FAILURE_TTL: Final = Bounds(1, 3600, "seconds; clients go without their score until then, though the zone may be back")
_REPLICAS: Final = Bounds(1, 2, "the servers that keep each counter")
_TIMEOUT: Final = Bounds(0.01, 10, "seconds that every message may wait when memcached hangs")
_IPV6_PREFIX: Final = Bounds(1, 128, "bits of an IPv6 address that are one client")
_WINDOW: Final = Bounds(60, 2_419_200, "seconds: a minute to 28 days")
_BUCKETS: Final = Bounds(2, 60, "parts of a sliding window")
_SCORE: Final = Bounds(0, 100, "0 is the worst, 100 the best")


def read_listen(section: Section) -> Listen:
    """[listen]."""
    default = Listen()
    listen = Listen(
        policy=_distinct(section, "policy", default.policy, values.endpoint),
        status=section.text("status", default.status, values.status),
        status_public=section.boolean("status_public", default.status_public),
        control=section.text("control", default.control, values.control_socket),
        max_connections=section.whole("max_connections", default.max_connections, _CONNECTIONS),
        idle_timeout=section.number("idle_timeout", default.idle_timeout, _IDLE),
    )
    section.finish()
    if listen.status and not listen.status_public and not ip_address(listen.status.host).is_loopback:
        section.wrong(
            "status",
            f'"{listen.status}" is no loopback address, and the page shows who sends how much: '
            "set status_public = true if that is meant",
        )
    if listen.status in listen.policy:
        section.wrong("status", "is a policy address, too")
    if f"unix:{listen.control}" in map(str, listen.policy):
        section.wrong("control", "is a policy socket, too")
    return listen


def _distinct(
    section: Section, key: str, default: tuple[Endpoint, ...], read: Callable[[str], Endpoint]
) -> tuple[Endpoint, ...]:
    """A list of endpoints: at least one, none twice."""
    endpoints = section.texts(key, default, read)
    if not endpoints and section.faultless(key):
        section.wrong(key, "must name at least one")
    for endpoint in dict.fromkeys(endpoints):
        if endpoints.count(endpoint) > 1:
            section.wrong(key, f'names "{endpoint}" more than once', str(endpoint))
    return endpoints


def read_reputation(section: Section) -> ReputationSettings:
    """[reputation]."""
    default = ReputationSettings()
    reputation = ReputationSettings(
        zone=section.text("zone", default.zone, values.zone),
        nameservers=section.texts("nameservers", default.nameservers, values.nameserver),
        lookup=section.word("lookup", default.lookup, ("lazy", "eager")),
        lazy_share=section.number("lazy_share", default.lazy_share, _SHARE),
        deadline=section.number("deadline", default.deadline, _DEADLINE),
        query_budget=section.whole("query_budget", default.query_budget, _BUDGET),
        scored_ttl=section.number("scored_ttl", default.scored_ttl, _SCORE_TTL),
        unknown_ttl=section.number("unknown_ttl", default.unknown_ttl, _SCORE_TTL),
        failure_ttl=section.number("failure_ttl", default.failure_ttl, _FAILURE_TTL),
    )
    section.finish()
    if reputation.lazy_share == 0:
        section.wrong("lazy_share", 'must be above 0; lookup = "eager" asks for the score at the first message')
    return reputation


def read_overrides(sections: Sequence[Section]) -> tuple[Override, ...]:
    """All [[override]]."""
    given: dict[Network, str] = {}
    return tuple(_read_override(section, given) for section in sections)


def _read_override(section: Section, given: dict[Network, str]) -> Override:
    networks = section.texts("networks", (), values.network)
    if not networks and section.faultless("networks"):
        section.wrong("networks", "must name at least one network")
    for network in networks:
        if network in given:
            section.wrong("networks", f"{network} stands in {given[network]} already", str(network))
        given.setdefault(network, section.path)
    given_score, given_limit = section.has("score"), section.has("limit")
    score = section.whole("score", 0, _SCORE)
    limit = _limit(section, UNLIMITED)
    if given_score == given_limit:
        section.wrong("score", f"give a score or a limit, {'not both' if given_score else 'for example score = 75'}")
    section.finish()
    return Override(networks, score=score) if given_score else Override(networks, limit=limit)


def _limit(section: Section, default: float) -> float:
    value = section.take("limit")
    if value is None:
        return default
    try:
        return values.limit(value)
    except ValueError as error:
        section.wrong("limit", str(error))
        return default


def read_counters(section: Section) -> CounterSettings:
    """[counters]."""
    default = CounterSettings()
    counters = CounterSettings(
        store=section.word("store", default.store, ("memory", "memcached")),
        servers=_distinct(section, "servers", default.servers, values.server),
        replicas=2 if section.whole("replicas", default.replicas, _REPLICAS) == 2 else 1,
        key_prefix=section.text("key_prefix", default.key_prefix, values.key_prefix),
        timeout=section.number("timeout", default.timeout, _TIMEOUT),
        count=section.word("count", default.count, ("messages", "recipients")),
        ipv6_prefix=section.whole("ipv6_prefix", default.ipv6_prefix, _IPV6_PREFIX),
        window=section.whole("window", default.window, _WINDOW),
        algorithm=section.word("algorithm", default.algorithm, ("sliding", "fixed")),
        buckets=section.whole("buckets", default.buckets, _BUCKETS),
    )
    section.finish()
    if counters.replicas == 2 and len(counters.servers) < 2 and section.faultless("servers"):
        section.wrong("replicas", "2 needs at least two servers")
    bucket = counters.window_of_time().bucket_seconds
    if bucket < CLOCK_SKEW and section.faultless("window", "buckets"):
        section.wrong(
            "buckets",
            f"{counters.buckets} buckets of {bucket:g} s in a window of {counters.window} s are too short: "
            f"at most {counters.window // CLOCK_SKEW:g}, so that each has {CLOCK_SKEW:g} s",
        )
    return counters


def read_tiers(sections: list[Section] | None, unscored: Section, unavailable: Section, report: Report) -> TierTable:
    """All [[tier]], [unscored] and [unavailable]; without any [[tier]] the ten of the default stand."""
    default = default_tiers()
    rules = []
    for section, rule in ((unscored, default.unscored), (unavailable, default.unavailable)):
        rules.append(Limit(rule.name, _limit(section, rule.messages)))
        section.finish()
    if sections is None:
        return TierTable(default.tiers, *rules)
    tiers = [_read_tier(section) for section in sections]
    if report.faultless(*([f"{section.path}.scores" for section in sections] or ["tier"])):
        _check_contiguous(tiers, report)
    return TierTable(tiers, *rules) if report.faultless("tier") else default


def _read_tier(section: Section) -> Tier:
    low, high = section.text("scores", (0, 100), values.scores)
    for key, example in (("scores", 'scores = "0-10"'), ("limit", "limit = 100")):
        if not section.has(key):
            section.wrong(key, f"must be given, for example {example}")
    limit = _limit(section, UNLIMITED)
    reply = section.text("reply", None, _reply)
    section.finish()
    tier = Tier(low, high, Limit(f"{low}-{high}", limit, reply))
    if reply is not None and section.faultless("scores", "limit", "reply"):
        _try_reply(section, "reply", reply, _over_limit_in(tier))
    return tier


def _reply(text: str) -> str:
    """A reply's template, tried out.

    Raises:
        ValueError: it is none.
    """
    try:
        ReplyTemplate(text)
    except ConfigError as error:
        raise ValueError(", ".join(error.problems)) from error
    return text


def _over_limit_in(tier: Tier) -> list[tuple[int, Limit]]:
    return [(score, tier.limit) for score in range(tier.low, tier.high + 1)]


def _try_reply(section: Section, key: str, text: str, cases: Iterable[tuple[int | None, Limit]]) -> None:
    """Render a reply's template for each score and rule that it may be needed for."""
    template = ReplyTemplate(text)
    for score, rule in cases:
        problem = None if rule.messages == UNLIMITED else template.problem(score, rule.name, rule.messages)
        if problem:
            section.wrong(key, f"score {'unknown' if score is None else score}, tier {rule.name}: {problem}")
            return


def _check_contiguous(tiers: Sequence[Tier], report: Report) -> None:
    """Report the scores that no tier has and those that two have."""
    next_score = 0
    numbered = sorted(enumerate(tiers, 1), key=lambda entry: entry[1].low)
    previous = 0
    for number, tier in numbered:
        if tier.low > next_score:
            report.add("tier", f"no tier has the scores {next_score}-{tier.low - 1}")
        if tier.low < next_score:
            both = f"{tier.low}-{min(tier.high, next_score - 1)}"
            report.add(f"tier[{number}].scores", f"tier[{previous}] has the scores {both}, too")
        if tier.high >= next_score:
            next_score, previous = tier.high + 1, number
    if next_score <= 100:
        report.add("tier", f"no tier has the scores {next_score}-100")


def read_exempt(section: Section) -> Exempt:
    """[exempt]."""
    default = Exempt()
    exempt = Exempt(
        networks=section.texts("networks", default.networks, values.network),
        authenticated=section.boolean("authenticated", default.authenticated),
    )
    section.finish()
    return exempt


def read_reply(section: Section, default: str, tiers: TierTable, overrides: Sequence[Override]) -> str:
    """[reply] over_limit, of which an action must come for every client that may be above its limit."""
    template = section.text("over_limit", default, _reply)
    section.finish()
    if template != default:
        cases: list[tuple[int | None, Limit]] = [(None, tiers.unscored), (None, tiers.unavailable)]
        for tier in tiers.tiers:
            cases += _over_limit_in(tier) if tier.limit.reply is None else []
        cases += [(None, Limit("override", override.limit)) for override in overrides if override.limit is not None]
        _try_reply(section, "over_limit", template, cases)
    return template


def read_state(section: Section) -> str:
    """[state] directory."""
    directory = section.text("directory", "", values.directory)
    section.finish()
    return directory


def read_log(section: Section) -> Log:
    """[log]."""
    default = Log()
    log = Log(
        target=section.word("target", default.target, ("stderr", "syslog")),
        level=section.word("level", default.level, ("debug", "info", "warning", "error")),
    )
    section.finish()
    return log


def policy_of(config: Config) -> Policy:
    """The site's policy."""
    templates = {rule.reply for rule in config.tiers.limits if rule.reply is not None}
    settings = config.reputation
    return Policy(
        tiers=config.tiers,
        directory=ClientDirectory(config.exempt.networks, config.overrides, config.counters.ipv6_prefix),
        over_limit=ReplyTemplate(config.over_limit),
        tier_replies={template: ReplyTemplate(template) for template in templates},
        window=str(config.counters.window_of_time()),
        ask_from=1 if settings.lookup == "eager" else settings.lazy_share * config.tiers.not_asked.messages,
        observe=config.mode == "observe",
        exempt_authenticated=config.exempt.authenticated,
        count_recipients=config.counters.count == "recipients",
    )
