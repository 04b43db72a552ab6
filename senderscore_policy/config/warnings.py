"""What is allowed and yet may surprise: the warnings of `check-config`."""

from collections.abc import Iterator
from ipaddress import ip_address
from itertools import pairwise
from typing import Final

from senderscore_policy.config.endpoints import Inet
from senderscore_policy.config.model import Config, ReputationSettings
from senderscore_policy.policy.status import limit_as_json
from senderscore_policy.policy.tiers import UNLIMITED

PUBLIC_ZONE: Final = "score.senderscore.com"
PUBLIC_RESOLVERS: Final = frozenset(
    map(
        ip_address,
        (
            *("8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"),
            *("1.1.1.1", "1.0.0.1", "2606:4700:4700::1111", "2606:4700:4700::1001"),
            *("9.9.9.9", "149.112.112.112", "2620:fe::fe", "2620:fe::9"),
            *("208.67.222.222", "208.67.220.220", "2620:119:35::35", "2620:119:53::53"),
        ),
    )
)
"""Google, Cloudflare, Quad9 and OpenDNS."""
POSTFIX_MAX_IDLE: Final = 300
"""Seconds: the default of smtpd_policy_service_max_idle, postconf(5)."""
CHECK_TIMEOUT: Final = 10
"""Seconds: the timeout in the main.cf line that default.toml and the manual recommend."""


def warnings_of(config: Config) -> list[str]:
    """One line for each choice that an administrator should know the price of."""
    return [*_about_limits(config), *_about_scores(config.reputation), *_about_network(config)]


def _about_limits(config: Config) -> Iterator[str]:
    if config.mode == "observe":
        yield 'mode is "observe": everything is decided and logged, and every message passes'
    tiers = config.tiers
    nothing = [rule.name for rule in tiers.limits if rule.messages == 0]
    if nothing:
        yield (
            f"the limit of {', '.join(nothing)} is 0: the first message of every client waits for its score, "
            f"{_coverage(config.reputation)}"
        )
    if tiers.unavailable.messages != UNLIMITED:
        yield (
            f"[unavailable] does not fail open: while scores cannot be read, every client is limited to "
            f"{limit_as_json(tiers.unavailable.messages)} messages/{config.counters.window_of_time()}"
        )
    for worse, better in pairwise(tiers.tiers):
        if better.limit.messages < worse.limit.messages:
            yield (
                f"the limits do not rise with the score: {limit_as_json(worse.limit.messages)} for {worse.limit.name}, "
                f"{limit_as_json(better.limit.messages)} for {better.limit.name}"
            )


def _coverage(settings: ReputationSettings) -> str:
    """How many clients the budget covers."""
    if not settings.query_budget:
        return "one DNS query for each client"
    return (
        f"one DNS query for each client; a query_budget of {settings.query_budget} covers "
        f"{settings.query_budget // 30} new clients a day"
    )


def _about_scores(settings: ReputationSettings) -> Iterator[str]:
    if settings.deadline >= CHECK_TIMEOUT:
        yield (
            f"reputation.deadline is {settings.deadline:g} s: Postfix has given up by then "
            f"(timeout={CHECK_TIMEOUT}s in the recommended main.cf line)"
        )
    if settings.zone.lower() != PUBLIC_ZONE:
        return
    if settings.lookup == "eager":
        yield f'lookup = "eager" with the public zone: {_coverage(settings)}'
    if not settings.query_budget:
        yield "query_budget is 0: a resolver that is not registered will be refused by the public zone sooner or later"
    public = [str(server) for server in settings.nameservers if ip_address(server.host) in PUBLIC_RESOLVERS]
    if public:
        yield (
            f"{', '.join(public)} answers for the whole Internet, and the public zone refuses such resolvers: "
            "ask one of your own"
        )


def _about_network(config: Config) -> Iterator[str]:
    listen, counters = config.listen, config.counters
    for endpoint in listen.policy:
        if isinstance(endpoint, Inet) and not _local(endpoint):
            yield (
                f"listen.policy inet:{endpoint} is no loopback address: whoever reaches it can count messages "
                "against any client; let a firewall admit the MX hosts alone"
            )
    if listen.status and not _local(listen.status):
        yield f"listen.status {listen.status} is no loopback address: whoever reaches it reads who sends how much"
    if listen.idle_timeout <= POSTFIX_MAX_IDLE:
        yield (
            f"listen.idle_timeout is {listen.idle_timeout:g} s, and Postfix keeps a connection for "
            f"{POSTFIX_MAX_IDLE} s (smtpd_policy_service_max_idle): it will find connections closed and connect again"
        )
    remote = [str(server) for server in counters.servers if isinstance(server, Inet) and not _local(server)]
    if counters.store == "memcached" and remote:
        yield (
            f"counters.servers {', '.join(remote)}: memcached has no password, and whoever reaches it can change "
            "every counter; let a firewall admit the MX hosts alone"
        )


def _local(address: Inet) -> bool:
    """Whether only this host can reach the address."""
    try:
        return ip_address(address.host).is_loopback
    except ValueError:
        return address.host == "localhost"
