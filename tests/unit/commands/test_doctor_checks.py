"""Checks of `doctor` in cases that no real server can be brought into."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from senderscore_policy.commands.doctor import traffic as doctor_traffic
from senderscore_policy.commands.doctor.daemon import Running
from senderscore_policy.commands.doctor.finding import Status
from senderscore_policy.commands.doctor.postconf import Postfix, Smtpd
from senderscore_policy.commands.doctor.postfix import recommended
from senderscore_policy.commands.doctor.sockets import inside_endpoint, is_served
from senderscore_policy.commands.doctor.traffic import clock_finding, traffic_findings
from senderscore_policy.commands.doctor.zone import nameservers_in, resolver_finding, zone_finding
from senderscore_policy.config.endpoints import Inet, Unix
from senderscore_policy.config.model import ReputationSettings
from senderscore_policy.policy.reputation import UNKNOWN, Unavailable
from senderscore_policy.reputation.lookup import LookupResult

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
    """Whose resolver it is."""

    def test_the_one_behind_systemd_resolved_counts(self, tmp_path: Path) -> None:
        """127.0.0.53 asks somebody else, and that may be a public one."""
        (tmp_path / "resolv.conf").write_text("# stub\nnameserver 127.0.0.53\noptions edns0\nsearch example.org\n")
        (tmp_path / "upstream").write_text("nameserver 192.0.2.53\nnameserver 2620:fe::fe\n")
        finding = resolver_finding(ReputationSettings(), tmp_path / "resolv.conf", tmp_path / "upstream")
        assert finding.status is Status.WARN
        assert "asks 127.0.0.53, 192.0.2.53, 2620:fe::fe (" in finding.detail
        assert ": 2620:fe::fe shares one quota" in finding.detail

    def test_for_a_zone_of_ones_own_any_resolver_will_do(self, tmp_path: Path) -> None:
        """There is no quota to share."""
        (tmp_path / "resolv.conf").write_text("nameserver 9.9.9.9\n")
        settings = ReputationSettings(zone="score.example.org")
        assert resolver_finding(settings, tmp_path / "resolv.conf", tmp_path / "no").status is Status.OK

    def test_a_damaged_resolv_conf(self, tmp_path: Path) -> None:
        """What is no address is passed over; a missing file names nobody."""
        (tmp_path / "resolv.conf").write_bytes(b"nameserver\nnameserver dns.example.org\nnameserver ::1 # x\n\xff\n")
        assert nameservers_in(tmp_path / "resolv.conf") == ["::1"]
        assert nameservers_in(tmp_path / "missing") == []


def test_a_host_without_any_resolver() -> None:
    """Nobody was asked, and the line says so."""
    probe = LookupResult(Unavailable("Resolver configuration could not be read"), (), None, 0.001, None, 0)
    finding = zone_finding(probe, "score.test", "127.0.0.1")
    assert finding.status is Status.FAIL
    assert "nobody was asked" in finding.detail


def test_an_unscored_client_is_no_fault() -> None:
    """The zone has no score for most clients."""
    probe = LookupResult(UNKNOWN, (), "NXDOMAIN", 0.002, "192.0.2.53:53", 1)
    finding = zone_finding(probe, "score.test", "192.0.2.75")
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

    def test_the_line_for_main_cf(self) -> None:
        """TCP goes before a unix socket, and nobody connects to a wildcard address."""
        line = "smtpd_end_of_data_restrictions = check_policy_service { %s, timeout=10s, default_action=DUNNO }"
        assert recommended([Unix("/run/x"), Inet("0.0.0.0", 1)]) == line % "inet:127.0.0.1:1"
        assert recommended([Inet("::", 1)]) == line % "inet:[::1]:1"
        assert recommended([Unix("/run/x")]) == line % "unix:/run/x"
        assert recommended([]) == line % "inet:127.0.0.1:10045"


@pytest.mark.parametrize(
    ("name", "outside", "submission"),
    [
        ("smtp/inet", True, False),
        ("smtpd/pass", True, False),
        ("192.0.2.1:25/inet", True, False),
        ("[::1]:smtp/inet", True, False),
        ("127.0.0.1:10025/inet", False, False),
        ("submission/inet", False, True),
        ("465/inet", False, True),
    ],
)
def test_the_purpose_of_a_service(name: str, outside: bool, submission: bool) -> None:
    """By the port in its name, as master(5) writes it."""
    smtpd = Smtpd(name, False, {}, frozenset())
    assert (smtpd.takes_mail_from_outside, smtpd.takes_submissions) == (outside, submission)


class TestTraffic:
    """The mail log, where there is no file."""

    @pytest.fixture
    def postfix(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Postfix:
        """One that logs to the journal; its configuration is old."""
        monkeypatch.setattr(doctor_traffic, "MAIL_LOGS", (tmp_path / "mail.log",))
        for name in ("main.cf", "master.cf"):
            (tmp_path / name).touch()
            os.utime(tmp_path / name, (0, 0))
        return Postfix({"config_directory": str(tmp_path), "maillog_file": ""}, ())

    @pytest.fixture
    def running(self) -> Running:
        """A daemon that has run for long and was asked nothing."""
        status: dict[str, Any] = {"service": {"started_at": 0.0}}
        return Running(status, {"last_request_at": None})

    def journal(self, *messages: tuple[str, str]) -> str:
        """A script that prints entries as journalctl(1) does, with the fields that matter, written now."""
        lines = [
            f'printf \'{{"__REALTIME_TIMESTAMP":"%s000000","_HOSTNAME":"mx","SYSLOG_IDENTIFIER":"{name}",'
            f'"_PID":"7","MESSAGE":"{text}"}}\\n\' "$(date +%s)"'
            for name, text in messages
        ]
        return "\n".join(lines)

    def test_the_journal_is_read(self, postfix: Postfix, running: Running, program: Program) -> None:
        """Messages from outside count, those of this host and of users who have logged in do not."""
        sent = []
        for number, client in enumerate(
            (
                "mx.example.net[192.0.2.75]",
                "localhost[127.0.0.1]",
                "pc[192.0.2.9], sasl_method=PLAIN, sasl_username=joe",
            )
        ):
            sent.append(("postfix/smtpd", f"4A{number}: client={client}"))
            sent.append(("postfix/qmgr", f"4A{number}: from=<a@example.net>, size=9, nrcpt=1 (queue active)"))
        program("journalctl", self.journal(*sent))
        (finding,) = traffic_findings(running, postfix)
        assert finding.status is Status.FAIL
        assert "Postfix took 1 messages from outside" in finding.detail
        assert finding.detail.endswith("says the journal")

    def test_a_mail_log_left_over(self, postfix: Postfix, running: Running, program: Program) -> None:
        """A file of the days before the journal says nothing of today."""
        log = doctor_traffic.MAIL_LOGS[0]
        log.touch()
        os.utime(log, (0, 0))
        program("journalctl", self.journal(*MESSAGE))
        (finding,) = traffic_findings(replace(running, status={"service": {"started_at": 1.0}}), postfix)
        assert finding.status is Status.FAIL
        assert finding.detail.endswith("says the journal")

    def test_each_name_that_postfix_logs_by(self, postfix: Postfix, running: Running, program: Program) -> None:
        """Instances have names of their own, and services may."""
        postfix = Postfix(
            {**postfix.main, "syslog_name": "postfix-in"},
            (Smtpd("smtpd/pass", False, {"syslog_name": "behind"}, frozenset()),),
        )
        program("journalctl", 'echo "$@" >&2; exit 1')
        (finding,) = traffic_findings(running, postfix)
        for name in ("behind/smtpd", "postfix-in/smtpd", "postfix-in/qmgr"):
            assert f"--identifier={name} " in finding.detail

    def test_an_empty_journal(self, postfix: Postfix, running: Running, program: Program) -> None:
        """Nothing came in, so nothing is missing."""
        program("journalctl", "true")
        (finding,) = traffic_findings(running, postfix)
        assert finding.status is Status.OK

    def test_a_journal_that_is_closed(self, postfix: Postfix, running: Running, program: Program) -> None:
        """What could not be seen is said, with the reason."""
        program("journalctl", "echo 'No journal files were opened due to insufficient permissions.' >&2; exit 1")
        (finding,) = traffic_findings(running, postfix)
        assert finding.status is Status.WARN
        assert finding.detail.endswith(
            "could not be seen: No journal files were opened due to insufficient permissions."
        )


@pytest.mark.parametrize(("answer", "status"), [("echo yes", "OK"), ("echo no", "WARN"), ("exit 1", "WARN")])
def test_the_clock_of_a_site(program: Program, answer: str, status: str) -> None:
    """Hosts that share counters must agree on the time."""
    program("timedatectl", answer)
    assert clock_finding(shared=True).status == status
    assert clock_finding(shared=False).status is Status.OK
