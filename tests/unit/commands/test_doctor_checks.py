"""Checks of `doctor` in cases that no real server can be brought into."""

import gzip
import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from senderscore_policy.commands.doctor import traffic as doctor_traffic
from senderscore_policy.commands.doctor.daemon import Running
from senderscore_policy.commands.doctor.finding import Finding, Status
from senderscore_policy.commands.doctor.postconf import Instance, Postfix, Smtpd, networks_in
from senderscore_policy.commands.doctor.postfix import check, postfix_findings, recommended
from senderscore_policy.commands.doctor.sockets import inside_endpoint, is_served
from senderscore_policy.commands.doctor.traffic import clock_finding, traffic_findings
from senderscore_policy.commands.doctor.zone import nameservers_in, resolver_finding, resolvers_of, zone_finding
from senderscore_policy.config.endpoints import Inet, Unix
from senderscore_policy.config.model import Config, ReputationSettings
from senderscore_policy.policy.reputation import UNKNOWN, Unavailable
from senderscore_policy.reputation.guard import LookupResult


def smtpd_service(name: str, parameters: dict[str, str] | None = None) -> Smtpd:
    """A service of the default instance."""
    return Smtpd(Instance(Path("/etc/postfix"), "", "", {}, {}, ()), name, False, parameters or {}, {})


QUEUE = Path("/var/spool/postfix")
Program = Callable[[str, str], None]
MESSAGE = (
    ("postfix/smtpd", "4A0: client=mx.example.net[192.0.2.75]"),
    ("postfix/qmgr", "4A0: from=<a@example.net>, size=9, nrcpt=1 (queue active)"),
)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Puts a shell script in the place of a program."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def put(name: str, script: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    return put


class TestResolver:
    """The resolver that the zone sees."""

    def finding(self, tmp_path: Path, resolv_conf: str, zone: str = "score.senderscore.com") -> Finding:
        """About a host with this resolv.conf, whose systemd-resolved forwards to two servers."""
        (tmp_path / "resolv.conf").write_text(resolv_conf)
        (tmp_path / "upstream").write_text("nameserver 203.0.113.53\nnameserver 2620:fe::fe\n")
        settings = ReputationSettings(zone=zone)
        return resolver_finding(settings, *resolvers_of(settings, tmp_path / "resolv.conf", tmp_path / "upstream"))

    def test_the_one_behind_systemd_resolved_counts(self, tmp_path: Path) -> None:
        """127.0.0.53 forwards to other servers, and one of them may be public."""
        finding = self.finding(tmp_path, "# stub\nnameserver 127.0.0.53\noptions edns0\nsearch example.org\n")
        assert finding.status is Status.WARN
        assert "asks 127.0.0.53, 203.0.113.53, 2620:fe::fe (" in finding.detail
        assert ": 2620:fe::fe shares one quota" in finding.detail

    def test_a_zone_of_the_site_has_no_quota(self, tmp_path: Path) -> None:
        """Any resolver is fine for it, and nothing has to be registered."""
        finding = self.finding(tmp_path, "nameserver 9.9.9.9\n", "score.example.org")
        assert (finding.status, "registered" in finding.detail) == (Status.OK, False)

    @pytest.mark.parametrize(
        ("nameserver", "registered"),
        [
            ("192.0.100.53", "192.0.100.53, unless it forwards"),
            ("10.0.0.2", "the public address behind which 10.0.0.2 asks"),
            ("127.0.0.1", "the public address of this host"),
        ],
    )
    def test_the_address_to_be_registered(self, tmp_path: Path, nameserver: str, registered: str) -> None:
        """The zone sees the address of the resolver, unless a forwarder or a private network hides it."""
        finding = self.finding(tmp_path, f"nameserver {nameserver}\n")
        assert f"; to be registered with the zone: {registered}" in finding.detail
        assert "unless it forwards questions to other servers" in finding.detail

    def test_a_damaged_resolv_conf(self, tmp_path: Path) -> None:
        """Lines without an address are left out; a missing file names no server."""
        (tmp_path / "resolv.conf").write_bytes(b"nameserver\nnameserver dns.example.org\nnameserver ::1 # x\n\xff\n")
        assert nameservers_in(tmp_path / "resolv.conf") == ["::1"]
        assert nameservers_in(tmp_path / "missing") == []


def test_a_host_without_any_resolver() -> None:
    """The finding says that no name server was asked."""
    result = LookupResult(Unavailable("Resolver configuration could not be read"), (), None, 0.001, None, 0)
    finding = zone_finding(result, "score.test", "127.0.0.1", "")
    assert finding.status is Status.FAIL
    assert "no name server was asked" in finding.detail


def test_an_unscored_client_is_not_a_fault() -> None:
    """The zone has no score for most clients."""
    result = LookupResult(UNKNOWN, (), "NXDOMAIN", 0.002, "192.0.2.53:53", 1)
    finding = zone_finding(result, "score.test", "192.0.2.75", "")
    assert finding.status is Status.OK
    assert finding.detail == "score.test about 192.0.2.75: 192.0.2.53:53 says no address (NXDOMAIN, 2 ms): no score"


class TestEndpoints:
    """What an endpoint in main.cf leads to."""

    @pytest.mark.parametrize(
        ("text", "chroot", "endpoint"),
        [
            ("inet:127.0.0.1:10045", True, Inet("127.0.0.1", 10045)),
            ("inet:[::1]:10045", False, Inet("::1", 10045)),
            ("inet:10045", False, Inet("localhost", 10045)),
            ("inet:localhost:no-such-service", False, None),
            ("unix:private/policy", True, Unix("/var/spool/postfix/private/policy")),
            ("unix:private/policy", False, Unix("/var/spool/postfix/private/policy")),
            ("unix:/private/policy", True, Unix("/var/spool/postfix/private/policy")),
            ("unix:/run/policy.sock", False, Unix("/run/policy.sock")),
            ("unix:", False, None),
            ("127.0.0.1:10045", False, None),
            ("", False, None),
        ],
    )
    def test_from_inside_smtpd(self, text: str, chroot: bool, endpoint: Inet | Unix | None) -> None:
        """Relative sockets, and all of a chrooted smtpd, are below the queue directory."""
        assert inside_endpoint(text, chroot=chroot, queue_directory=QUEUE) == endpoint

    @pytest.mark.parametrize(
        ("asked", "served", "same"),
        [
            (Inet("localhost", 10045), Inet("127.0.0.1", 10045), True),
            (Inet("127.0.0.1", 10045), Inet("0.0.0.0", 10045), True),
            (Inet("192.0.2.1", 10045), Inet("0.0.0.0", 10045), False),
            (Inet("127.0.0.1", 10044), Inet("127.0.0.1", 10045), False),
            (Inet("127.0.0.2", 10045), Inet("127.0.0.1", 10045), False),
            (Unix("/a/../run/x"), Unix("/run/x"), True),
            (Unix("/run/x"), Inet("127.0.0.1", 10045), False),
            (None, Inet("127.0.0.1", 10045), False),
        ],
    )
    def test_the_same_place(self, asked: Inet | Unix | None, served: Inet | Unix, same: bool) -> None:
        """Names, wildcards and paths may be written in several ways."""
        assert is_served(asked, [served]) is same

    def test_the_recommended_endpoint(self) -> None:
        """TCP goes before a unix socket, and Postfix cannot connect to a wildcard address."""
        assert recommended([Unix("/run/x"), Inet("0.0.0.0", 1)]) == "inet:127.0.0.1:1"
        assert recommended([Inet("::", 1)]) == "inet:[::1]:1"
        assert recommended([Unix("/run/x")]) == "unix:/run/x"
        assert recommended([]) == "inet:127.0.0.1:10045"

    def test_the_recommended_attributes(self) -> None:
        """Further attributes are kept, those with spaces in braces."""
        added = {"timeout": "100s", "policy_context": "a b"}
        expected = "{ inet:h:1, timeout=5s, { policy_context = a b }, try_limit=1, default_action=DUNNO }"
        assert check("inet:h:1", added) == ["check_policy_service", expected]


@pytest.mark.parametrize(
    ("name", "outside", "submission"),
    [
        ("smtp/inet", True, False),
        ("smtpd/pass", True, False),
        ("192.0.2.1:25/inet", True, False),
        ("[2001:db8::1]:smtp/inet", True, False),
        ("127.0.0.1:10025/inet", False, False),
        ("127.0.0.1:smtp/inet", False, False),
        ("[::1]:25/inet", False, False),
        ("localhost:25/inet", False, False),
        ("submission/inet", False, True),
        ("465/inet", False, True),
    ],
)
def test_the_purpose_of_a_service(name: str, outside: bool, submission: bool) -> None:
    """By the address and port in its name, as master(5) writes it."""
    smtpd = smtpd_service(name)
    assert (smtpd.takes_mail_from_outside, smtpd.takes_submissions) == (outside, submission)


def test_a_loopback_listener_behind_a_proxy_takes_mail_from_outside() -> None:
    """The proxy passes on the connections of other hosts."""
    proxied = {"smtpd_upstream_proxy_protocol": "haproxy"}
    assert smtpd_service("127.0.0.1:smtp/inet", proxied).takes_mail_from_outside
    assert not smtpd_service("smtp/inet", {"inet_interfaces": "loopback-only"}).takes_mail_from_outside


def test_the_networks_of_mynetworks(tmp_path: Path) -> None:
    """Addresses, networks, IPv4 in IPv6 and files are read; tables and exceptions are for Postfix alone."""
    (tmp_path / "networks").write_text("192.0.2.0/24 # office\n\n2001:db8::/32\n")
    networks, others = networks_in(f"[::ffff:127.0.0.0]/104, 198.51.100.7 {tmp_path}/networks hash:/x !192.0.2.1 /none")
    assert list(map(str, networks)) == ["127.0.0.0/8", "198.51.100.7/32", "192.0.2.0/24", "2001:db8::/32"]
    assert others == ["hash:/x", "!192.0.2.1", "/none"]


def test_a_check_is_moved_ahead_of_a_word_that_may_skip_it() -> None:
    """`permit_auth_destination` ends the list for mail to the site's domains; `permit_mynetworks` stays before both."""
    written = "permit_mynetworks, permit_auth_destination, check_policy_service inet:127.0.0.1:10045"
    parameters = {"smtpd_end_of_data_restrictions": written, "queue_directory": str(QUEUE), "mail_owner": "postfix"}
    instance = Instance(Path("/etc/postfix"), "", "", parameters, parameters, ())
    postfix = Postfix((instance,), (Smtpd(instance, "smtp/inet", False, parameters, {}),))
    findings = list(postfix_findings(postfix, [Inet("127.0.0.1", 10045)], Config(), asked=False))
    (finding,) = [each for each in findings if each.check == "restriction"]
    assert finding.detail.endswith("behind permit_auth_destination: what that lets through with OK skips this check")
    assert "permit_mynetworks, check_policy_service inet:127.0.0.1:10045, permit_auth" in finding.remedy


class TestTraffic:
    """The mail log."""

    @pytest.fixture
    def postfix(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Postfix:
        """A Postfix that logs to the journal; its configuration is old."""
        monkeypatch.setattr(doctor_traffic, "MAIL_LOGS", (tmp_path / "mail.log",))
        for name in ("main.cf", "master.cf"):
            (tmp_path / name).touch()
            os.utime(tmp_path / name, (0, 0))
        return Postfix((Instance(tmp_path, "", "", {"maillog_file": ""}, {}, ()),), ())

    @pytest.fixture
    def running(self) -> Running:
        """A daemon that has run for long and was asked nothing."""
        status: dict[str, Any] = {"service": {"started_at": 0.0}}
        return Running(status, {"last_request_at": None})

    def lines(self, *messages: tuple[str, str], age: float = 10) -> str:
        """Lines of syslog as Debian 12 writes them, and journalctl with -o short-iso."""
        at = datetime.fromtimestamp(time.time() - age, UTC).isoformat(timespec="seconds")
        return "".join(f"{at} mx {name}[7]: {text}\n" for name, text in messages)

    def look(self, running: Running | None, postfix: Postfix, *networks: str) -> dict[str, Finding]:
        """The findings by their check."""
        permitted = [ip_network(network) for network in networks]
        return {finding.check: finding for finding in traffic_findings(running, postfix, permitted)}

    def test_the_journal_is_read(self, postfix: Postfix, running: Running, program: Program) -> None:
        """Messages of this host, of permitted networks and of users who have logged in are not from outside."""
        sent = []
        for number, client in enumerate(
            (
                "mx.example.net[192.0.2.75]",
                "localhost[127.0.0.1]",
                "shop[198.51.100.5]",
                "pc[192.0.2.9], sasl_method=PLAIN, sasl_username=joe",
            )
        ):
            sent.append(("postfix/smtpd", f"4A{number}: client={client}"))
            sent.append(("postfix/qmgr", f"4A{number}: from=<a@example.net>, size=9, nrcpt=1 (queue active)"))
        program("journalctl", f"cat <<'END'\n{self.lines(*sent)}END")
        finding = self.look(running, postfix, "198.51.100.0/24")["requests"]
        assert finding.status is Status.FAIL
        assert "Postfix took 1 messages from outside" in finding.detail
        assert finding.detail.endswith("according to the journal")

    def test_a_mail_log_left_over(self, postfix: Postfix, running: Running, program: Program) -> None:
        """A file of the days before the journal says nothing of today."""
        log = doctor_traffic.MAIL_LOGS[0]
        log.touch()
        os.utime(log, (0, 0))
        program("journalctl", f"cat <<'END'\n{self.lines(*MESSAGE)}END")
        finding = self.look(replace(running, status={"service": {"started_at": 1.0}}), postfix)["requests"]
        assert finding.status is Status.FAIL
        assert finding.detail.endswith("according to the journal")

    @pytest.mark.parametrize("name", ["mail.log.1", "mail.log-20261127", "mail.log.20261127-120000.gz"])
    def test_a_log_that_was_just_rotated(self, postfix: Postfix, running: Running, name: str) -> None:
        """The messages of the last hour are in the older file."""
        log = doctor_traffic.MAIL_LOGS[0]
        log.touch()
        text = self.lines(*MESSAGE).encode()
        (log.parent / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
        os.utime(log.parent / name, (time.time() - 5, time.time() - 5))
        finding = self.look(running, postfix)["requests"]
        assert finding.status is Status.FAIL
        assert finding.detail.endswith(f"according to {log}")

    def test_a_log_that_is_a_stream(self, postfix: Postfix, running: Running) -> None:
        """A container's standard output cannot be read again, and the finding says where to look."""
        instance = replace(postfix.instances[0], main={"maillog_file": "/dev/null"})
        found = self.look(running, replace(postfix, instances=(instance,)))
        assert (found["log"].status, found["requests"].status) == (Status.WARN, Status.WARN)
        assert "Postfix logs to /dev/null, which is not a file" in found["log"].detail
        assert "look for fatal and warning" in found["log"].remedy

    def test_each_name_that_postfix_logs_by(self, postfix: Postfix, running: Running, program: Program) -> None:
        """Instances have names of their own, and services may."""
        instance = replace(postfix.instances[0], main={"maillog_file": "", "syslog_name": "postfix-in"})
        postfix = Postfix((*postfix.instances, instance), (smtpd_service("smtpd/pass", {"syslog_name": "behind"}),))
        program("journalctl", 'echo "$@" >&2; exit 1')
        finding = self.look(running, postfix)["log"]
        for name in ("behind/smtpd", "postfix-in/smtpd", "postfix/qmgr", "postfix-in/master"):
            assert f"--identifier={name} " in finding.detail

    def test_an_empty_journal(self, postfix: Postfix, running: Running, program: Program) -> None:
        """Nothing came in, so no request is missing."""
        program("journalctl", "true")
        found = self.look(running, postfix)
        assert {finding.status for finding in found.values()} == {Status.OK}

    def test_a_log_without_mail(self, postfix: Postfix, running: Running) -> None:
        """On a fresh host only the start of Postfix is logged."""
        doctor_traffic.MAIL_LOGS[0].write_text(self.lines(("postfix/master", "daemon started -- version 3.7.11")))
        assert self.look(running, postfix)["requests"].status is Status.OK

    @pytest.mark.parametrize(
        ("notice", "status", "remedy"),
        [
            ("No journal files were opened due to insufficient permissions.", 1, "run doctor as root or as a member"),
            ("Hint: You are currently not seeing messages from other users.", 0, "run doctor as root or as a member"),
            ("No journal files were found.", 0, "see where maillog_file or syslog sends the log"),
        ],
    )
    def test_a_journal_that_is_closed(
        self, postfix: Postfix, program: Program, notice: str, status: int, remedy: str
    ) -> None:
        """What could not be seen is not OK, and the finding has the reason."""
        program("journalctl", f"echo '{notice}' >&2; echo '-- No entries --'; exit {status}")
        finding = self.look(None, postfix)["log"]
        assert finding.status is Status.WARN
        assert finding.detail.endswith(notice)
        assert finding.remedy.startswith(remedy)

    @pytest.mark.parametrize(
        "words",
        [
            'fatal: unknown option: "retries = 3"',
            'warning: unknown smtpd restriction: "#"',
            "NOQUEUE: reject: RCPT from x[192.0.2.1]: 451 4.3.5 Server configuration error; from=<> to=<a@example.org>",
        ],
    )
    def test_faults_that_smtpd_reports(self, postfix: Postfix, words: str) -> None:
        """They are a failure while no message comes after them, with smtpd's own words."""
        log = doctor_traffic.MAIL_LOGS[0]
        fault = self.lines(("postfix/smtpd", words), age=60)
        log.write_text(self.lines(*MESSAGE, age=90) + fault)
        finding = self.look(None, postfix)["log"]
        assert finding.status is Status.FAIL
        assert words in finding.detail
        log.write_text(fault + self.lines(*MESSAGE, age=30))
        assert self.look(None, postfix)["log"].status is Status.WARN
        # The present configuration does not have the fault.
        os.utime(postfix.instances[0].directory / "main.cf")
        assert self.look(None, postfix)["log"].status is Status.OK

    def test_the_times_of_a_classic_log(self, postfix: Postfix) -> None:
        """A line without a year is from the last twelve months."""
        at = datetime.now().astimezone() - timedelta(minutes=1)
        line = f"{at:%b} {at.day:2} {at:%H:%M:%S} mx postfix/smtpd[7]: fatal: unexpected command-line argument: x\n"
        doctor_traffic.MAIL_LOGS[0].write_text(line)
        assert self.look(None, postfix)["log"].status is Status.FAIL

    @pytest.mark.parametrize(("requests", "status"), [(3, Status.WARN), (30, Status.OK)])
    def test_a_daemon_that_is_asked_a_little(self, postfix: Postfix, requests: int, status: Status) -> None:
        """A restriction before the check may let most of the mail through: the numbers are compared."""
        doctor_traffic.MAIL_LOGS[0].write_text(
            "".join(self.lines(*((n, t.replace("4A0", f"4A{k}")) for n, t in MESSAGE)) for k in range(30))
        )
        minute = {"start": time.time() - 600, "passed": {"none": requests}, "deferred": {}}
        status_of = {"service": {"started_at": 0.0}, "minutes": [minute]}
        finding = self.look(Running(status_of, {"last_request_at": time.time() - 4}), postfix)["requests"]
        assert finding.status is status
        if status is Status.WARN:
            assert "only 3 requests for 30 messages from outside" in finding.detail


@pytest.mark.parametrize(("answer", "status"), [("echo yes", "OK"), ("echo no", "WARN"), ("exit 1", "WARN")])
def test_the_clock_of_a_site(program: Program, answer: str, status: str) -> None:
    """Hosts that share counters must agree on the time."""
    program("timedatectl", answer)
    assert clock_finding(shared=True).status == status
    assert clock_finding(shared=False).status is Status.OK
