"""Scores over DNS: every answer of a zone, a resolver or an attacker, and a daemon that asks for scores."""

import asyncio
import json
import os
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dns.resolver
import pytest
from daemon_process import Daemon
from nameserver import (
    ZONE,
    Held,
    Nameserver,
    Question,
    Reply,
    addresses,
    alias,
    garbage,
    late,
    rcode,
    referral,
    silence,
    truncated,
    wrong_id,
)
from rbldnsd_server import EVERYBODY, RBLDNSD, Rbldnsd, rbldnsd
from waiting import eventually, free_port, wait_for_listener

from senderscore_policy.config.endpoints import Inet
from senderscore_policy.config.model import ReputationSettings
from senderscore_policy.policy.reputation import UNKNOWN, Refused, Scored, Unavailable
from senderscore_policy.reputation.budget import QueryBudget
from senderscore_policy.reputation.guard import LookupResult
from senderscore_policy.reputation.resolver import ScoreResolver
from senderscore_policy.reputation.source import LazyResolver, open_source

CLIENT = "192.0.2.75"
NAME = f"75.2.0.192.{ZONE}."
PATIENCE = 30.0
"""Seconds until a lookup is given up: no machine is so slow that an answer comes later."""
LITTLE_PATIENCE = 0.5
"""For lookups without an answer."""


class SystemClock:
    """The machine's clocks."""

    def time(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()


class NoObserver:
    """Receives lookups and drops them."""

    def looked_up(self, outcome: str, seconds: float) -> None:
        """Take note of the end of a lookup."""

    def cache(self, result: str) -> None:
        """Take note of a look into the cache."""


@pytest.fixture
def nameserver() -> Iterator[Nameserver]:
    """A name server that says NXDOMAIN until a test scripts it."""
    with Nameserver() as server:
        yield server


def settings_for(*servers: Nameserver | Rbldnsd, zone: str = ZONE) -> ReputationSettings:
    """Return the settings for the test zone at these servers."""
    return ReputationSettings(zone=zone, nameservers=tuple(Inet(server.host, server.port) for server in servers))


def ask(
    settings: ReputationSettings, budget: QueryBudget | None = None, address: str = CLIENT, patience: float = PATIENCE
) -> LookupResult:
    """Return the result of a lookup."""
    resolver = ScoreResolver(settings, budget or QueryBudget(0, SystemClock()), patience=patience)
    return asyncio.run(resolver.query_raw(address))


ANSWERS: dict[str, tuple[Reply, object]] = {
    "the worst score is a score": (addresses("127.0.4.0"), Scored(0)),
    "a score": (addresses("127.0.4.50"), Scored(50)),
    "the best score": (addresses("127.0.4.100"), Scored(100)),
    "above the scale": (addresses("127.0.4.101"), Unavailable),
    "another blocklist's code": (addresses("127.0.0.4"), Unavailable),
    "refused by .254": (addresses("127.255.255.254"), Refused("127.255.255.254")),
    "refused by .255": (addresses("127.255.255.255"), Refused("127.255.255.255")),
    "a resolver that rewrites NXDOMAIN": (addresses("10.1.2.3"), Unavailable),
    "two scores: the lower": (addresses("127.0.4.80", "127.0.4.20"), Scored(20)),
    "a score and a refusal": (addresses("127.0.4.80", "127.255.255.255"), Refused),
    "a score and nonsense": (addresses("10.1.2.3", "127.0.4.80"), Scored(80)),
    "an alias of a score": (alias("other.test.", "127.0.4.60"), Scored(60)),
    "an alias of nothing": (alias("other.test."), UNKNOWN),
    "no such name": (rcode("NXDOMAIN"), UNKNOWN),
    "no data": (rcode("NOERROR"), UNKNOWN),
    "server failure": (rcode("SERVFAIL"), Unavailable),
    "query refused": (rcode("REFUSED"), Unavailable),
    "format error": (rcode("FORMERR"), Unavailable),
    "not implemented": (rcode("NOTIMP"), Unavailable),
    "a referral is no answer": (referral, Unavailable),
    "truncated, whole over TCP": (truncated(addresses("127.0.4.75")), Scored(75)),
    "truncated, unknown over TCP": (truncated(rcode("NXDOMAIN")), UNKNOWN),
}

NO_ANSWERS: dict[str, Reply] = {
    "truncated, nothing over TCP": truncated(silence),
    "another query's answer": wrong_id(addresses("127.0.4.75")),
    "garbage": garbage,
    "silence": silence,
}


@pytest.mark.parametrize(("reply", "outcome"), ANSWERS.values(), ids=list(ANSWERS))
def test_every_answer_means_one_of_four_outcomes_and_every_question_is_counted(
    nameserver: Nameserver, reply: Reply, outcome: object
) -> None:
    """Each answer has its outcome of four, and the budget counts each question sent."""
    nameserver.answers[CLIENT] = reply
    budget = QueryBudget(10_000, SystemClock())
    probe = ask(settings_for(nameserver), budget)
    assert probe.outcome == outcome or (isinstance(outcome, type) and isinstance(probe.outcome, outcome))
    assert len(nameserver.questions) == budget.used == probe.questions > 0
    assert probe.nameserver == f"127.0.0.1:{nameserver.port}"


@pytest.mark.parametrize("sound", [0, 1])
def test_two_name_servers_at_one_address(sound: int) -> None:
    """Each nameserver is asked at its own port; the answer of the working one counts, first or second."""
    with Nameserver() as first, Nameserver() as second:
        servers = (first, second)
        for server in servers:
            server.answers[CLIENT] = rcode("SERVFAIL")
        servers[sound].answers[CLIENT] = addresses("127.0.4.75")
        assert ask(settings_for(*servers)).outcome == Scored(75)
        assert len(servers[sound].questions) == 1


@pytest.mark.parametrize("reply", NO_ANSWERS.values(), ids=list(NO_ANSWERS))
def test_what_is_no_answer_is_unavailable_and_every_question_is_counted(nameserver: Nameserver, reply: Reply) -> None:
    """Without a usable answer the lookup fails after its time."""
    nameserver.answers[CLIENT] = reply
    budget = QueryBudget(10_000, SystemClock())
    probe = ask(settings_for(nameserver), budget, patience=LITTLE_PATIENCE)
    assert isinstance(probe.outcome, Unavailable)
    assert len(nameserver.wait_for_questions(budget.used)) == budget.used == probe.questions > 0


def test_the_reason_of_a_failure_names_the_nameservers_and_not_the_client(nameserver: Nameserver) -> None:
    """Each nameserver appears with its rcode or error; /healthz may be public, so the client's address does not."""
    nameserver.otherwise = rcode("SERVFAIL")
    with Nameserver("127.0.0.2") as down:
        pass
    outcome = ask(settings_for(down, nameserver)).outcome
    assert outcome == Unavailable(f"127.0.0.2:{down.port}: Connection refused; 127.0.0.1:{nameserver.port}: SERVFAIL")
    nameserver.otherwise = silence
    silent = ask(settings_for(nameserver), patience=LITTLE_PATIENCE).outcome
    assert isinstance(silent, Unavailable)
    assert "75.2.0.192" not in silent.detail


def test_only_the_absolute_reversed_name_is_asked_and_only_for_an_a_record(nameserver: Nameserver) -> None:
    """AAAA records and a search list would each cost one more question of the quota."""
    nameserver.answers[CLIENT] = addresses("127.0.4.75")
    ask(settings_for(nameserver))
    assert nameserver.questions == [Question("udp", NAME, "A")]


def test_a_truncated_answer_costs_two_questions(nameserver: Nameserver) -> None:
    """The second question of a truncated answer goes over TCP."""
    nameserver.answers[CLIENT] = truncated(addresses("127.0.4.75"))
    ask(settings_for(nameserver))
    assert [question.transport for question in nameserver.questions] == ["udp", "tcp"]


def test_a_lone_nameserver_that_is_silent_is_asked_twice(nameserver: Nameserver) -> None:
    """A datagram may get lost, so a single nameserver is asked twice; more questions would only cost budget."""
    nameserver.otherwise = silence
    assert ask(settings_for(nameserver), patience=2).questions == 2


@pytest.mark.parametrize("first", [silence, rcode("SERVFAIL"), garbage], ids=["silent", "failing", "insane"])
def test_the_next_nameserver_is_asked_when_one_fails(nameserver: Nameserver, first: Reply) -> None:
    """Each of two nameservers is asked once."""
    with Nameserver("127.0.0.2") as second:
        nameserver.otherwise = first
        second.otherwise = addresses("127.0.4.75")
        probe = ask(settings_for(nameserver, second), patience=3)
    assert probe.outcome == Scored(75)
    assert probe.questions == 2
    assert probe.nameserver == f"127.0.0.2:{second.port}"


def test_a_nameserver_that_is_down_is_noticed_at_once(nameserver: Nameserver) -> None:
    """After a closed port the daemon asks the next nameserver at once, with a patience shorter than any timeout."""
    with Nameserver("127.0.0.2") as down:
        pass
    nameserver.otherwise = addresses("127.0.4.75")
    assert ask(settings_for(down, nameserver), patience=3600).outcome == Scored(75)


def test_a_question_beyond_the_budget_is_not_sent(nameserver: Nameserver) -> None:
    """The budget also refuses the retry over TCP after a truncated answer."""
    nameserver.answers[CLIENT] = truncated(addresses("127.0.4.75"))
    budget = QueryBudget(10, SystemClock())
    probe = ask(settings_for(nameserver), budget)
    assert isinstance(probe.outcome, Refused)
    assert "budget" in probe.outcome.detail
    assert not probe.addresses
    assert ask(settings_for(nameserver), budget).questions == 0
    assert len(nameserver.questions) == budget.used == 1


def test_the_raw_answer_is_at_hand_for_people(nameserver: Nameserver) -> None:
    """The result has the addresses and the rcode of the answer, which doctor shows."""
    nameserver.answers[CLIENT] = addresses("127.255.255.255")
    refused = ask(settings_for(nameserver))
    assert (refused.addresses, refused.rcode) == (("127.255.255.255",), "NOERROR")
    assert ask(settings_for(nameserver), address="127.0.0.1").rcode == "NXDOMAIN"
    nameserver.answers[CLIENT] = rcode("SERVFAIL")
    assert ask(settings_for(nameserver)).rcode == "SERVFAIL"


def test_without_a_resolver_configuration_lookups_fail_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without /etc/resolv.conf gets "unavailable", not a traceback."""

    def no_configuration(*_: object, **__: object) -> None:
        raise dns.resolver.NoResolverConfiguration

    monkeypatch.setattr("dns.asyncresolver.Resolver", no_configuration)
    probe = ask(ReputationSettings(zone=ZONE))
    assert isinstance(probe.outcome, Unavailable)
    assert probe.questions == 0


async def test_an_answer_after_the_deadline_serves_the_next_request(nameserver: Nameserver) -> None:
    """The request goes on without the score; the lookup goes on too, and costs no second question."""
    held = nameserver.answers[CLIENT] = Held(addresses("127.0.4.75"))
    source = open_source(replace(settings_for(nameserver), deadline=0.05), SystemClock(), NoObserver(), None)
    assert isinstance(await source.lookup(CLIENT), Unavailable)
    held.release()
    source.reconfigure(replace(settings_for(nameserver), deadline=30))
    assert await source.lookup(CLIENT) == Scored(75)
    known = source.known(CLIENT)
    assert known is not None
    assert known.reputation == Scored(75)
    await source.close()
    assert len(nameserver.questions) == 1


def test_a_lookup_goes_on_as_long_as_a_request_waits(nameserver: Nameserver) -> None:
    """With a long deadline an answer that comes after the usual patience still counts."""
    nameserver.answers[CLIENT] = late(addresses("127.0.4.75"), 1.5)
    assert ask(replace(settings_for(nameserver), deadline=30), patience=0.1).outcome == Scored(75)


def test_a_lookup_given_up_before_its_answer_is_over(nameserver: Nameserver) -> None:
    """A lookup does not wait for an answer after its last second of patience."""
    held = nameserver.answers[CLIENT] = Held(addresses("127.0.4.75"))
    assert isinstance(ask(settings_for(nameserver), patience=LITTLE_PATIENCE).outcome, Unavailable)
    held.release()


async def test_dnspython_is_loaded_by_the_first_lookup(nameserver: Nameserver) -> None:
    """Lookups that start together load dnspython once."""
    nameserver.otherwise = addresses("127.0.4.75")
    resolver = LazyResolver(settings_for(nameserver), QueryBudget(0, SystemClock()))
    results = await asyncio.gather(*(resolver.query_raw(f"192.0.2.{n}") for n in range(3)))
    assert [result.outcome for result in results] == [Scored(75)] * 3


def test_a_change_of_resolv_conf_is_noticed(tmp_path: Path) -> None:
    """The daemon looks at the file once a second and notices a change, a removal and a new file, each once."""
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 127.0.0.2\n")
    resolver = LazyResolver(ReputationSettings(zone=ZONE), QueryBudget(0, SystemClock()), file)
    assert not resolver.changed(1)
    file.write_text("nameserver 127.0.0.22\n")
    assert [resolver.changed(now) for now in (1.5, 2, 2.5, 4)] == [False, True, False, False]
    file.unlink()
    assert [resolver.changed(now) for now in (5, 6)] == [True, False]
    file.write_text("nameserver 127.0.0.3\n")
    assert resolver.changed(7)
    resolver.reconfigure(ReputationSettings(zone=ZONE, nameservers=(Inet("127.0.0.1", 53),)))
    file.unlink()
    assert not resolver.changed(8), "configured nameservers count, not the system's"


def scores(daemon: Daemon, *clients: str) -> list[dict[str, Any]]:
    """Return what `score --json` prints, whether the lookups succeed (exit 0) or fail (69)."""
    objects: list[dict[str, Any]] = json.loads(daemon.run("score", "--json", *clients).stdout)
    return objects


def shown(port: int) -> tuple[str, str, str]:
    """Return the state of the zone by the metric and by the API, and the text of /healthz."""

    def fetched(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as response:
            body: bytes = response.read()
            return body.decode().strip()

    (state,) = re.findall(r'^senderscore_policy_zone_state\{state="([^"]+)"\} 1\.0$', fetched("/metrics"), re.MULTILINE)
    return state, json.loads(fetched("/api/status"))["scores"]["zone_state"], fetched("/healthz")


def test_every_view_shows_the_same_state_of_the_zone(
    start_daemon: Callable[..., Daemon], nameserver: Nameserver
) -> None:
    """Metric, API, /healthz and log agree before the first lookup, after its failure, and after a reload that helps."""
    port = free_port()
    tables = {
        "listen": {"status": f"127.0.0.1:{port}"},
        "reputation": {"zone": ZONE, "nameservers": [f"127.0.0.1:{nameserver.port}"]},
    }
    daemon = start_daemon(**tables)
    wait_for_listener(port)
    assert shown(port) == ("not asked yet", "not asked yet", "ready")
    nameserver.otherwise = rcode("SERVFAIL")
    (failed,) = scores(daemon, CLIENT)
    assert failed["reputation"] == "unavailable"
    assert "SERVFAIL" in failed["detail"]
    metric, api, health = eventually(lambda: (view := shown(port))[0] == "failing" and view, "the metric's next second")
    assert (metric, api) == ("failing", "failing")
    assert health.startswith(f"degraded: {ZONE} is failing (")
    assert "SERVFAIL" in health
    assert f"{ZONE} is failing (" in daemon.log
    nameserver.otherwise = addresses("127.0.4.75")
    daemon.reload(**tables)
    assert scores(daemon, CLIENT)[0]["score"] == 75
    view = eventually(lambda: (view := shown(port))[0] == "answers" and view, "the metric's next second")
    assert view == ("answers", "answers", "ready")
    assert f"{ZONE} is asked again at once" in daemon.log
    assert f"{ZONE} answers" in daemon.log


def test_private_addresses_are_never_asked_for(start_daemon: Callable[..., Daemon], nameserver: Nameserver) -> None:
    """A private address is not shown to the zone; its neighbours in public networks are looked up."""
    reputation = {"zone": ZONE, "nameservers": [f"127.0.0.1:{nameserver.port}"], "lookup": "eager"}
    daemon = start_daemon(reputation=reputation, exempt={"networks": []})
    private = (
        *("0.0.0.0", "10.0.0.5", "100.64.0.1", "127.0.0.1", "169.254.1.1", "172.31.255.255", "192.0.0.1"),
        *("192.168.1.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::ffff:10.0.0.5"),
    )
    public = ("9.255.255.255", "100.128.0.1", "172.32.0.1", "198.51.100.1", "192.169.0.1")
    with daemon.client() as postfix:
        assert {postfix.ask(client) for client in (*private, *public)} == {"DUNNO"}
    found = scores(daemon, *private, *public)
    assert {score["reputation"] for score in found} == {"unknown"}
    assert {score["source"] for score in found[: len(private)]} == {"none"}
    assert len(nameserver.wait_for_questions(len(public))) == len(public)


@pytest.mark.real
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a nameserver at port 53, a mount")
def test_the_daemon_follows_a_change_of_resolv_conf(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """After ten failed lookups the daemon asks the new nameservers at once, without a reload."""
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 127.0.0.8\n")  # not even a port is open there
    daemon = make_daemon(reputation={"zone": ZONE, "nameservers": []})
    isolate = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"', str(file)]
    daemon.command = isolate + daemon.command
    daemon.start()
    failed = scores(daemon, *(f"192.0.2.{number}" for number in range(12)))
    assert {score["reputation"] for score in failed} == {"unavailable"}
    with Nameserver("127.0.0.9", 53) as nameserver:
        nameserver.otherwise = addresses("127.0.4.5")
        file.write_text("nameserver 127.0.0.9\n")
        eventually(lambda: scores(daemon, CLIENT)[0]["score"] == 5, "a score from the new nameserver")
        assert scores(daemon, "192.0.2.1")[0]["score"] == 5
    assert "nameservers have changed" in daemon.log


@pytest.mark.real
@pytest.mark.skipif(not RBLDNSD, reason="rbldnsd is not installed")
def test_a_real_zone_scores_knows_not_and_refuses() -> None:
    """Scores come from rbldnsd, which large sites use for their copy of the zone."""
    scores = {CLIENT: "127.0.4.75", "192.0.2.6": "127.0.4.0"}
    with rbldnsd({"score.test": scores, "refused.test": {EVERYBODY: "127.255.255.255"}}) as server:
        budget = QueryBudget(10_000, SystemClock())
        scored = settings_for(server)
        assert ask(scored, budget).outcome == Scored(75)
        assert ask(scored, budget, "192.0.2.6").outcome == Scored(0)
        assert ask(scored, budget, "192.0.2.7").outcome == UNKNOWN
        refused = ask(settings_for(server, zone="refused.test"), budget)
        assert refused.addresses
        assert refused.outcome == Refused("127.255.255.255")
        assert budget.used == 4
