"""Checks of `doctor`: the score zone and the resolver that the daemon asks."""

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from senderscore_policy.commands.doctor.finding import FAIL, OK, WARN, Finding
from senderscore_policy.config.model import ReputationSettings
from senderscore_policy.config.paths import RESOLV_CONF
from senderscore_policy.config.warnings import PUBLIC_RESOLVERS, PUBLIC_ZONE
from senderscore_policy.policy.reputation import Refused, Scored, Unavailable, Unknown
from senderscore_policy.reputation.budget import QueryBudget
from senderscore_policy.reputation.guard import LookupResult
from senderscore_policy.reputation.resolver import ScoreResolver

TEST_ADDRESS: Final = "127.0.0.1"  # sends no mail, so a healthy zone has no entry for it (RFC 5782, 5)
UPSTREAM: Final = Path("/run/systemd/resolve/resolv.conf")
_REWRITES: Final = (
    "a resolver that rewrites NXDOMAIN, or a zone that has expired: ask a resolver of your own (nameservers in "
    "[reputation]), and check zone"
)
_CLOSED: Final = (
    "the name server does not resolve names for this host: allow it there, or ask another (nameservers in [reputation])"
)
_BY_RCODE: Final = {
    "REFUSED": _CLOSED,
    "NOERROR": _CLOSED,  # a referral
    "SERVFAIL": "the name server cannot reach the zone, or the zone is broken: look into its log, and check zone in "
    "[reputation]",
}
_SILENT: Final = "check that the name server runs and that no firewall stops DNS, or set nameservers in [reputation]"


def zone_findings(settings: ReputationSettings, address: str) -> Iterator[Finding]:
    """Ask the zone about a client (an IPv4 address), past the breaker and the budget of the daemon."""
    hosts, source = resolvers_of(settings)
    resolver = ScoreResolver(settings, QueryBudget(0, time))
    result = asyncio.run(resolver.query_raw(address))
    finding = zone_finding(result, settings.zone, address, visible_address(hosts))
    if isinstance(result.outcome, Unknown):
        finding = _existing(finding, settings.zone, asyncio.run(resolver.zone_rcode()))
    yield finding
    yield resolver_finding(settings, hosts, source)


def zone_finding(result: LookupResult, zone: str, address: str, visible: str) -> Finding:
    """Return what an answer about a client means; `visible` is the address that the zone sees, in words."""
    raw = ", ".join(result.addresses) or "no address"
    asked = f"{result.nameserver} says" if result.nameserver else "no name server was asked:"
    answer = f"{asked} {raw} ({result.rcode or 'no response'}, {result.elapsed * 1000:.0f} ms)"
    question = f"{zone} about {address}: {answer}"
    match result.outcome:
        case Refused():
            article = "at my.validity.com (article: Accessing Validity reputation data through DNS)"
            copy = "set zone and nameservers in [reputation] to a copy of the zone"
            remedy = f"register {visible} {article}, or {copy}; then: systemctl reload senderscore-policy"
            return Finding("zone", FAIL, f"{question}: the zone refuses your resolver", remedy)
        case Unavailable(detail):
            remedy = _REWRITES if result.addresses else _BY_RCODE.get(result.rcode or "", _SILENT)
            return Finding("zone", FAIL, f"{question}: {detail}", remedy)
        case Scored(score) if ip_address(address).is_loopback:
            return Finding("zone", FAIL, f"{question}: a score, {score}, for an address that sends no mail", _REWRITES)
        case Scored(score):
            return Finding("zone", OK, f"{question}: score {score}")
    return Finding("zone", OK, f"{question}: no score{', as expected' if address == TEST_ADDRESS else ''}")


def _existing(finding: Finding, zone: str, rcode: str | None) -> Finding:
    """Complete the finding about a client without a score by the rcode of the answer about the zone's SOA record."""
    if rcode == "NOERROR":
        return finding
    if rcode == "NXDOMAIN":
        remedy = "correct zone in [reputation], or ask a name server that knows the zone (nameservers in [reputation])"
        detail = f"there is no zone {zone} (NXDOMAIN for its SOA record), so no client has a score"
        return Finding("zone", FAIL, f"{finding.detail}; but {detail}", remedy)
    detail = f"{finding.detail}; whether there is a zone {zone} could not be seen ({rcode or 'no response'})"
    return Finding("zone", WARN, detail, _BY_RCODE.get(rcode or "", _SILENT))


def resolvers_of(
    settings: ReputationSettings, resolv_conf: Path = RESOLV_CONF, upstream: Path = UPSTREAM
) -> tuple[list[str], str]:
    hosts, source = [server.host for server in settings.nameservers], "reputation.nameservers"
    if not hosts:
        hosts, source = nameservers_in(resolv_conf), str(resolv_conf)
    # The addresses of systemd-resolved, which forwards to the servers in `upstream` (systemd-resolved.service(8)).
    if not {"127.0.0.53", "127.0.0.54"}.isdisjoint(hosts) and upstream.exists():
        return [*hosts, *nameservers_in(upstream)], f"{source} and {upstream}"
    return hosts, source


def resolver_finding(settings: ReputationSettings, hosts: Sequence[str], source: str) -> Finding:
    """Check that the resolver is not a public one, and name the address that has to be registered."""
    asks = f"asks {', '.join(hosts) or 'no name server'} ({source})"
    if settings.zone.lower() != PUBLIC_ZONE:
        return Finding("resolver", OK, asks)
    public = [host for host in hosts if ip_address(host) in PUBLIC_RESOLVERS]
    if not public:
        return Finding("resolver", OK, f"{asks}; to be registered with the zone: {visible_address(hosts)}")
    remedy = "run a resolver of your own (such as unbound) and name it in reputation.nameservers"
    detail = f"{asks}: {', '.join(public)} shares one quota of the zone among all its users"
    return Finding("resolver", WARN, detail, remedy)


def visible_address(hosts: Sequence[str]) -> str:
    """Return in words which address the zone sees: not a server that forwards questions, but the last one."""
    forwarding = "unless it forwards questions to other servers: then theirs"
    remote = [host for host in hosts if not ip_address(host).is_loopback]
    if not remote:
        return f"the public address of this host{_own_address()}, as its own resolver is asked, {forwarding}"
    private = [host for host in remote if ip_address(host).is_private]
    if private:
        return f"the public address behind which {', '.join(private)} asks, {forwarding}"
    return f"{', '.join(remote)}, {forwarding}"


def _own_address() -> str:
    """The address from which this host reaches others, in parentheses; empty if it has no public one."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Only the route is looked up: nothing is sent.
        probe.connect(("192.0.2.1", 53))
        own = ip_address(probe.getsockname()[0])
        return f" ({own})" if own.is_global else ""
    return ""


def nameservers_in(resolv_conf: Path) -> list[str]:
    """The name servers of a resolv.conf(5); none if it cannot be read."""
    try:
        text = resolv_conf.read_text("utf-8", "replace")
    except OSError:
        return []
    found = []
    for host in re.findall(r"^[ \t]*nameserver[ \t]+(\S+)", text, re.MULTILINE):
        with contextlib.suppress(ValueError):
            ip_address(host)
            found.append(host)
    return found
