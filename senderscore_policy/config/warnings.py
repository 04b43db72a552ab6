"""Valid choices that may surprise: the warnings of `check-config`."""

import re
from collections.abc import Iterator
from ipaddress import ip_address
from itertools import pairwise
from typing import Final

from senderscore_policy.config.endpoints import Inet
from senderscore_policy.config.model import Config, ReputationSettings
from senderscore_policy.policy.status import limit_as_json
from senderscore_policy.policy.tiers import UNLIMITED

PUBLIC_ZONE: Final = "score.senderscore.com"
PUBLIC_RESOLVERS: Final = frozenset(map(ip_address, (
    "8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844", "1.1.1.1", "1.0.0.1",
    "2606:4700:4700::1111", "2606:4700:4700::1001", "9.9.9.9", "149.112.112.112", "2620:fe::fe", "2620:fe::9",
    "208.67.222.222", "208.67.220.220", "2620:119:35::35", "2620:119:53::53",
)))  # fmt: skip
"""Google, Cloudflare, Quad9 and OpenDNS."""
POSTFIX_MAX_IDLE: Final = 300
"""Seconds: the default of smtpd_policy_service_max_idle, postconf(5)."""
CHECK_TIMEOUT: Final = 5
"""Seconds: the timeout in the main.cf line that default.toml and the manual recommend."""
LOOPBACK: Final = (ip_address("127.0.0.1"), ip_address("::1"))


Warned = tuple[str, str]
"""The path of an option, which may begin with the name of a limit, and the consequences of its value."""


def warnings_of(config: Config) -> list[Warned]:
    return [*_about_limits(config), *_about_replies(config), *_about_scores(config.reputation), *_about_network(config)]


def _about_limits(config: Config) -> Iterator[Warned]:
    if config.mode == "observe":
        yield "mode", 'with "observe" everything is decided and logged, and every message passes'
    tiers = config.tiers
    if nothing := [limit.name for limit in tiers.limits if limit.messages == 0]:
        effect = f"the first message of every client waits for its score, {_coverage(config.reputation)}"
        yield f"{nothing[0]}.limit", f"the limit of {', '.join(nothing)} is 0: {effect}"
    if tiers.unavailable.messages != UNLIMITED:
        limit = f"{limit_as_json(tiers.unavailable.messages)} messages/{config.counters.window_of_time()}"
        effect = f"while scores cannot be read, every client is limited to {limit}"
        yield "unavailable.limit", f"[unavailable] does not fail open: {effect}"
    for worse, better in pairwise(tier.limit for tier in tiers.tiers):
        if better.messages < worse.messages:
            found = ", ".join(f"{limit_as_json(limit.messages)} for {limit.name}" for limit in (worse, better))
            yield f"{better.name}.limit", f"the limits do not rise with the score: {found}"
    exempt = config.exempt.networks
    if missing := [str(address) for address in LOOPBACK if not any(address in network for network in exempt)]:
        effect = "mail that a content filter sends back from this host is counted and limited"
        yield "exempt.networks", f"without {' and '.join(missing)} {effect}"
    if everything := [str(network) for network in exempt if network.prefixlen == 0]:
        yield "exempt.networks", f"with {' and '.join(everything)} none of these clients is counted or limited"


def _about_replies(config: Config) -> Iterator[Warned]:
    replies = [("reply.over_limit", config.over_limit)]
    replies += [(f"{limit.name}.reply", limit.reply) for limit in config.tiers.limits if limit.reply]
    for path, reply in replies:
        if found := re.search(r"(?<!\{)\{\s*\w+\s*\}(?!\})", reply):
            name = found[0].strip("{ }")
            remedy = f"a variable needs two braces on each side, {{{{ {name} }}}}"
            yield path, f"{found[0]} is sent unchanged: {remedy}"


def _coverage(settings: ReputationSettings) -> str:
    budget = settings.query_budget
    covers = f"; a query_budget of {budget} covers {budget // 30} new clients a day" if budget else ""
    return f"one DNS query for each client{covers}"


def _about_scores(settings: ReputationSettings) -> Iterator[Warned]:
    if settings.deadline >= CHECK_TIMEOUT:
        why = f"(timeout={CHECK_TIMEOUT}s in the recommended main.cf line)"
        yield "reputation.deadline", f"after {settings.deadline:g} s Postfix has given up {why}"
    if settings.zone.lower() != PUBLIC_ZONE:
        return
    if settings.lookup == "eager":
        yield "reputation.lookup", f'"eager" with the public zone: {_coverage(settings)}'
    if not settings.query_budget:
        refuses = "the public zone will refuse a resolver that is not registered, sooner or later"
        yield "reputation.query_budget", f"with 0 {refuses}"
    if public := [str(server) for server in settings.nameservers if ip_address(server.host) in PUBLIC_RESOLVERS]:
        problem = "answers for the whole Internet, and the public zone refuses such resolvers: use your own"
        yield "reputation.nameservers", f"{', '.join(public)} {problem}"


def _about_network(config: Config) -> Iterator[Warned]:
    listen, counters = config.listen, config.counters
    for endpoint in listen.policy:
        if isinstance(endpoint, Inet) and not endpoint.local:
            effect = "every host that reaches it can count messages against any client"
            problem = f"inet:{endpoint} is not a loopback address: {effect}"
            yield "listen.policy", f"{problem}; a firewall must admit the MX hosts only"
    if listen.status and not listen.status.local:
        effect = "every host that reaches it can read who sends how much"
        yield "listen.status", f"{listen.status} is not a loopback address: {effect}"
    if listen.idle_timeout <= POSTFIX_MAX_IDLE:
        keeps = f"keeps a connection for {POSTFIX_MAX_IDLE} s (smtpd_policy_service_max_idle)"
        effect = f"Postfix, which {keeps}, will find connections closed and connect again"
        yield "listen.idle_timeout", f"with {listen.idle_timeout:g} s {effect}"
    remote = [str(server) for server in counters.servers if isinstance(server, Inet) and not server.local]
    if counters.store == "memcached" and remote and not counters.tls_certificate:
        problem = "memcached has no password, and every host that reaches it can change every counter"
        remedy = "a firewall must admit the MX hosts only (or use TLS with certificates)"
        yield "counters.servers", f"{', '.join(remote)}: {problem}; {remedy}"
