"""What may happen to the score zone's DNS."""

import itertools
import socket
from collections.abc import Iterator
from typing import Final

import dns.message
from load import GREEDY
from nameserver import Nameserver, Reply, addresses, garbage, late, rcode, referral, silence, truncated, wrong_id
from target import Site

from senderscore_policy.reputation.resolver import PATIENCE

GOOD: Final = addresses("127.0.4.95")
WORST: Final = addresses("127.0.4.0")
_TIERS: Final = [{"scores": "0-50", "limit": 10}, {"scores": "51-100", "limit": 1000}]


def zone(site: Site) -> None:
    """A score zone with good scores but for the greedy clients; no score matters up to 10 messages."""
    site.nameserver = site.stack.enter_context(Nameserver())
    site.nameserver.otherwise = GOOD
    for client in GREEDY:
        site.nameserver.answers[client] = WORST
    address = f"{site.nameserver.host}:{site.nameserver.port}"
    # The shortest time between two probes that can be configured, so that the trial sees the recovery.
    site.tables["reputation"] = {"nameservers": [address], "query_budget": 0, "failure_ttl": 1}
    site.tables["tier"] = _TIERS
    del site.tables["override"]
    # Always new ones, of whom each passes the limit up to which its score does not matter.
    site.client_of = lambda number: f"198.18.{number // 15 // 250 % 250}.{number // 15 % 250}"


def _answering(site: Site, seconds: float, reply: Reply) -> None:
    asked = len(site.nameserver.questions)
    site.nameserver.otherwise = reply
    site.pass_time(seconds)
    site.nameserver.otherwise = GOOD
    assert len(site.nameserver.questions) > asked


def _in_turns(*replies: Reply) -> Reply:
    turns = itertools.cycle(replies)

    def reply(query: dns.message.Message, transport: str) -> bytes | None:
        return next(turns)(query, transport)

    return reply


def silent(site: Site, seconds: float) -> None:
    """No answer at all; longer than a lookup is kept waiting."""
    _answering(site, max(seconds, PATIENCE + 1.5), silence)


def slow(site: Site, seconds: float) -> None:
    """Every answer takes 0.6 s, within the deadline of 1 s."""
    _answering(site, seconds, late(GOOD, 0.6))


def too_slow(site: Site, seconds: float) -> None:
    """Every answer takes 2 s."""
    _answering(site, seconds, late(GOOD, 2))


def refuses(site: Site, seconds: float) -> None:
    """The zone answers 127.255.255.254: it does not serve this resolver. A reload asks again at once."""
    _answering(site, seconds, addresses("127.255.255.254"))
    site.daemon.reload(**site.tables)


def broken(site: Site, seconds: float) -> None:
    """The nameserver answers SERVFAIL, REFUSED, or refers to others, in turns."""
    _answering(site, seconds, _in_turns(rcode("SERVFAIL"), rcode("REFUSED"), referral))


def lying(site: Site, seconds: float) -> None:
    """Answers that are not scores: from a hijacking resolver, beyond 100, from another list, garbage instead of DNS."""
    lies = [addresses(lie) for lie in ("203.0.113.80", "127.0.4.101", "127.0.0.2", "127.0.5.0")]
    _answering(site, seconds, _in_turns(*lies, garbage))


def truncating(site: Site, seconds: float) -> None:
    """Every answer over UDP is truncated; TCP works for half of them."""
    _answering(site, seconds, truncated(_in_turns(GOOD, silence)))
    assert any(question.transport == "tcp" for question in site.nameserver.questions)


def spoofed(site: Site, seconds: float) -> None:
    """Before each true answer come forged ones, with the worst score: under wrong IDs, and from a wrong address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
        elsewhere.bind(("127.0.0.1", 0))

        def forgeries(wire: bytes) -> Iterator[tuple[socket.socket | None, bytes]]:
            query = dns.message.from_wire(wire)
            yield elsewhere, WORST(query, "udp") or b""
            yield None, wrong_id(WORST)(query, "udp") or b""

        site.nameserver.forgeries = forgeries
        site.pass_time(seconds)
        site.nameserver.forgeries = lambda _: ()
