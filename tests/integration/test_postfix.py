"""What a client of a real Postfix sees, with a real memcached and a real score zone behind the daemon."""

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from daemon_process import Daemon
from memcached_server import MemcachedServer
from postfix_server import Postfix
from rbldnsd_server import RBLDNSD, rbldnsd
from waiting import free_port

pytestmark = pytest.mark.real

ZONE = "score.test"
SCORES = {"192.0.2.5": "127.0.4.5", "192.0.2.75": "127.0.4.75", "192.0.2.95": "127.0.4.95"}


@dataclass(frozen=True)
class ScoreZone:
    """A running rbldnsd with the scores `SCORES` in the zone `ZONE`."""

    nameserver: str
    stop: Callable[[], None]


@pytest.fixture
def score_zone() -> Iterator[ScoreZone]:
    """A score zone of its own."""
    if RBLDNSD is None:
        pytest.skip("rbldnsd is not installed")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(rbldnsd({ZONE: SCORES}))
        yield ScoreZone(f"{server.host}:{server.port}", stack.close)


class Site:
    """One MX: Postfix and a daemon with the default tiers that counts in memcached and asks a score zone."""

    def __init__(self, postfix: Postfix, daemon: Daemon) -> None:
        self.postfix = postfix
        self.daemon = daemon

    def deliveries(self, client_address: str, messages: int) -> list[str]:
        """The codes that a client gets for a number of messages over one connection."""
        with self.postfix.client(client_address) as client:
            return [client.deliver()[:3] for _ in range(messages)]


@pytest.fixture
def site(
    start_daemon: Callable[..., Daemon],
    start_postfix: Callable[[int], Postfix],
    memcached: MemcachedServer,
    score_zone: ScoreZone,
) -> Site:
    """A site with the scores `SCORES`."""
    port = free_port()
    daemon = start_daemon(
        listen={"policy": [f"inet:127.0.0.1:{port}"]},
        reputation={"zone": ZONE, "nameservers": [score_zone.nameserver]},
        counters={"store": "memcached", "servers": [memcached.address]},
    )
    return Site(start_postfix(port), daemon)


def test_the_classic_transcript(site: Site) -> None:
    """A client of score 75 gets 800 messages accepted and a 421 for the next; mail log and daemon log say why."""
    with site.postfix.client("192.0.2.75") as client:
        for _ in range(800):
            assert client.deliver().startswith("250 2.0.0 Ok: queued as ")
        assert client.deliver() == (
            "421 4.7.1 <END-OF-MESSAGE>: End-of-data rejected: sender score = 75, "
            "you're limited to 800 messages/hour in our policy, try again later"
        )
    reject = site.postfix.wait_for_log(
        r"(\w+): reject: END-OF-MESSAGE from mx\.example\.net\[192\.0\.2\.75\]: 421 4\.7\.1 <END-OF-MESSAGE>: "
        r"End-of-data rejected: sender score = 75, you're limited to 800 messages/hour"
    )
    assert site.deliveries("192.0.2.95", 3) == ["250"] * 3
    site.daemon.stop()
    (line,) = [line for line in site.daemon.log.splitlines() if "reason=over-limit" in line]
    for field in ("client=192.0.2.75", "score=75", "tier=71-80", "count=801", "limit=800", "state=END-OF-MESSAGE"):
        assert f" {field} " in line
    assert f" queue_id={reject.group(1)} " in line
    assert re.search(r" instance=\S+ ", line)


def test_deferred_clients_come_back(site: Site) -> None:
    """A client above its limit is deferred at each try, which does not count, and passes once its counter is reset."""
    assert site.deliveries("192.0.2.5", 100) == ["250"] * 100
    assert [site.deliveries("192.0.2.5", 1) for _ in range(3)] == [["421"]] * 3
    assert site.daemon.json("get", "192.0.2.5")[0]["count"] == 100
    assert site.daemon.run("reset", "192.0.2.5").returncode == 0
    assert site.deliveries("192.0.2.5", 1) == ["250"]


def test_an_ipv6_client_without_a_score_has_no_limit(site: Site) -> None:
    """The zone holds no IPv6: the client is counted under its /64, and nothing is asked or deferred."""
    assert site.deliveries("2001:db8::75", 3) == ["250"] * 3
    (client,) = site.daemon.json("get", "2001:db8::75")
    assert (client["client"], client["count"]) == ("2001:db8::/64", 3)


REPLIES = {
    "421 4.7.1 later": "421", "450 later": "450", "550 5.7.1 no": "550", "499 5.7.1 mixed": "499", "550 5.7.1": "550",
    "REJECT": "554", "reject 5.7.9 not you": "554", "DEFER": "450", "DEFER_IF_PERMIT later": "450",
    "HOLD": "250", "DISCARD": "250", "REDIRECT postmaster@example.org": "250", "FILTER discard:": "250",
    "BCC postmaster@example.org": "250",
}  # fmt: skip
"""Replies that the configuration accepts, and the code that Postfix gives a client then."""


def test_postfix_understands_every_reply(
    start_daemon: Callable[..., Daemon], start_postfix: Callable[[int], Postfix]
) -> None:
    """Each form of reply that a configuration may have keeps the message out, or does what it says."""
    port = free_port()
    start_daemon(
        listen={"policy": [f"inet:127.0.0.1:{port}"]},
        tier=[{"scores": f"{n}-{n}", "limit": 0, "reply": reply} for n, reply in enumerate(REPLIES)]
        + [{"scores": f"{len(REPLIES)}-100", "limit": 0}],
        override=[{"networks": [f"198.51.100.{n}"], "score": n} for n in range(len(REPLIES))],
    )
    postfix = start_postfix(port)
    codes = {}
    for number, reply in enumerate(REPLIES):
        with postfix.client(f"198.51.100.{number}") as client:
            codes[reply] = client.deliver()[:3]
    assert codes == REPLIES
    assert not re.search(r"smtpd.*warning", postfix.log)


def test_mail_flows_while_the_daemon_is_away(site: Site) -> None:
    """Stopped, killed and back again: with default_action=DUNNO no message is deferred, on any connection."""
    with site.postfix.client("192.0.2.95") as client:
        assert client.deliver().startswith("250")
        site.daemon.stop()
        assert client.deliver().startswith("250")
        site.daemon.start()
        assert client.deliver().startswith("250")
        site.daemon.kill()
        assert client.deliver().startswith("250")
    assert site.deliveries("192.0.2.95", 3) == ["250"] * 3
    site.daemon.start()
    assert site.deliveries("192.0.2.95", 1) == ["250"]


def test_mail_flows_while_memcached_is_away(site: Site, memcached: MemcachedServer) -> None:
    """Killed in the middle of the traffic: the daemon decides on counters of its own, and goes on counting."""
    assert site.deliveries("192.0.2.75", 5) == ["250"] * 5
    memcached.kill()
    assert site.deliveries("192.0.2.75", 5) == ["250"] * 5
    assert site.deliveries("192.0.2.5", 101) == ["250"] * 100 + ["421"]


def test_mail_flows_while_the_zone_is_away(site: Site, score_zone: ScoreZone) -> None:
    """Without an answer from DNS a client has the limit of [unavailable], which is unlimited."""
    score_zone.stop()
    assert site.deliveries("192.0.2.5", 105) == ["250"] * 105
