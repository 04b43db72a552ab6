"""Checks of `doctor`: does the score zone answer our resolver, and whose resolver is it?"""

import asyncio
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from senderscore_policy.commands.doctor.finding import Finding, Status
from senderscore_policy.config.model import ReputationSettings
from senderscore_policy.config.warnings import PUBLIC_RESOLVERS, PUBLIC_ZONE
from senderscore_policy.policy.reputation import Refused, Scored, Unavailable
from senderscore_policy.reputation.budget import QueryBudget
from senderscore_policy.reputation.lookup import LookupResult
from senderscore_policy.reputation.resolver import ScoreResolver

TEST_ADDRESS: Final = "127.0.0.1"
"""No sender: a healthy zone has no entry for it (RFC 5782, 5)."""
RESOLV_CONF: Final = Path("/etc/resolv.conf")
STUB: Final = "127.0.0.53"
"""systemd-resolved; whom it asks stands in `UPSTREAM` (systemd-resolved.service(8))."""
UPSTREAM: Final = Path("/run/systemd/resolve/resolv.conf")

REGISTER: Final = (
    "register the address of your resolver at my.validity.com (article: Accessing Validity reputation data through "
    "DNS), or set zone and nameservers in [reputation] to a copy of the zone; then reload"
)
REWRITES: Final = (
    "a resolver that rewrites NXDOMAIN, or a zone that has expired: ask a resolver of your own (nameservers in "
    "[reputation]), and check zone"
)
_BY_RCODE: Final = {
    "REFUSED": "the name server does not resolve names for this host: allow it there, or ask another (nameservers in "
    "[reputation])",
    "SERVFAIL": "the name server cannot reach the zone, or the zone is broken: look into its log, and check zone in "
    "[reputation]",
}
_UNREACHABLE: Final = (
    "check that the name server runs and that no firewall stops DNS, or set nameservers in [reputation]"
)


def zone_findings(settings: ReputationSettings, address: str) -> Iterator[Finding]:
    """Ask the zone, past the breaker and the budget of the daemon, and say what came of it.

    Args:
        settings: which zone to ask, and whom.
        address: the client to ask about, an IPv4 address.
    """
    resolver = ScoreResolver(settings, QueryBudget(0, time))
    yield zone_finding(asyncio.run(resolver.query_raw(address)), settings.zone, address)
    yield resolver_finding(settings)


def zone_finding(probe: LookupResult, zone: str, address: str) -> Finding:
    """What an answer of the zone means."""
    raw = ", ".join(probe.addresses) or "no address"
    asked = f"{probe.nameserver} says" if probe.nameserver else "nobody was asked:"
    answer = f"{asked} {raw} ({probe.rcode or 'no response'}, {probe.elapsed * 1000:.0f} ms)"
    question = f"{zone} about {address}: {answer}"
    match probe.outcome:
        case Refused():
            return Finding("zone", Status.FAIL, f"{question}: the zone refuses your resolver", REGISTER)
        case Unavailable(detail) if probe.addresses:
            return Finding("zone", Status.FAIL, f"{question}: {detail}", REWRITES)
        case Unavailable(detail):
            return Finding("zone", Status.FAIL, f"{question}: {detail}", _BY_RCODE.get(probe.rcode or "", _UNREACHABLE))
        case Scored(score) if ip_address(address).is_loopback:
            return Finding(
                "zone", Status.FAIL, f"{question}: a score, {score}, for an address that sends no mail", REWRITES
            )
        case Scored(score):
            return Finding("zone", Status.OK, f"{question}: score {score}")
    return Finding("zone", Status.OK, f"{question}: no score{', as it must be' if address == TEST_ADDRESS else ''}")


def resolver_finding(
    settings: ReputationSettings, resolv_conf: Path = RESOLV_CONF, upstream: Path = UPSTREAM
) -> Finding:
    """Whether scores are asked of a resolver that the whole Internet shares.

    Args:
        settings: the zone and its name servers.
        resolv_conf: of the system.
        upstream: of systemd-resolved.
    """
    if settings.nameservers:
        hosts, source = [server.host for server in settings.nameservers], "reputation.nameservers"
    else:
        hosts, source = nameservers_in(resolv_conf), str(resolv_conf)
        if STUB in hosts and upstream.exists():
            hosts, source = [*hosts, *nameservers_in(upstream)], f"{resolv_conf} and {upstream}"
    asks = f"asks {', '.join(hosts) or 'nobody'} ({source})"
    public = [host for host in hosts if ip_address(host) in PUBLIC_RESOLVERS]
    if not public or settings.zone.lower() != PUBLIC_ZONE:
        return Finding("resolver", Status.OK, asks)
    return Finding(
        "resolver",
        Status.WARN,
        f"{asks}: {', '.join(public)} shares one quota of the zone among all its users",
        "run a resolver of your own (such as unbound) and name it in reputation.nameservers",
    )


def nameservers_in(resolv_conf: Path) -> list[str]:
    """The name servers of a resolv.conf(5); none if it cannot be read."""
    try:
        lines = resolv_conf.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            try:
                ip_address(words[1])
            except ValueError:
                continue
            found.append(words[1])
    return found
