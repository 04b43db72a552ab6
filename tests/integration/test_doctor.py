"""What `doctor` finds: every fault is a real one, of a real daemon, Postfix, memcached or name server."""

import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import smtplib
import socket
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from daemon_process import COMMAND, Daemon, run_command
from memcached_server import MemcachedServer
from nameserver import Nameserver, Reply, addresses, garbage, rcode, silence
from postfix_server import Postfix
from waiting import free_port

pytestmark = pytest.mark.real

StartDaemon = Callable[..., Daemon]
StartPostfix = Callable[[int], Postfix]
NO_POSTFIX = ("--postfix-config", "/nonexistent")
CHECK = "check_policy_service { inet:127.0.0.1:%d, timeout=5s, try_limit=1, default_action=DUNNO }"


@dataclass(frozen=True)
class Report:
    """What `doctor --json` printed, and its exit status."""

    status: int
    findings: list[dict[str, str]]

    @property
    def worst(self) -> list[dict[str, str]]:
        """All findings but those that are fine."""
        return [finding for finding in self.findings if finding["status"] != "OK"]

    def only(self, check: str) -> tuple[str, str]:
        """Status and detail with remedy of the one finding of a check."""
        (finding,) = [finding for finding in self.findings if finding["check"] == check]
        return finding["status"], f"{finding['detail']}; {finding['remedy']}"


def doctor(daemon: Daemon, *arguments: str) -> Report:
    """Run it with a daemon's configuration."""
    done = daemon.run("doctor", "--json", *arguments)
    assert done.stderr == ""
    return Report(done.returncode, json.loads(done.stdout))


@pytest.fixture
def nameserver() -> Iterator[Nameserver]:
    """A score zone without a score for any client."""
    with Nameserver() as server:
        yield server


@pytest.fixture
def settings(nameserver: Nameserver) -> dict[str, Any]:
    """The configuration of a healthy daemon on a TCP port; Postfix's log has clients in 192.0.2.0/24."""
    return {
        "listen": {"policy": [f"inet:127.0.0.1:{free_port()}"]},
        "reputation": {"nameservers": [f"127.0.0.1:{nameserver.port}"]},
    }


def port_of(settings: dict[str, Any]) -> int:
    """The TCP port of the policy socket."""
    return int(settings["listen"]["policy"][0].rpartition(":")[2])


class TestHealthy:
    """A site where nothing is wrong."""

    def test_all_is_well(
        self, start_daemon: StartDaemon, start_postfix: StartPostfix, settings: dict[str, Any]
    ) -> None:
        """Each check is one line that begins with OK, and the exit status is 0."""
        daemon = start_daemon(**settings)
        postfix = start_postfix(port_of(settings))
        with postfix.client("192.0.2.75") as client:
            assert client.deliver().startswith("250")
        done = daemon.run("doctor", "--postfix-config", str(postfix.directory))
        assert (done.returncode, done.stderr) == (0, "")
        lines = [line.split(None, 2) for line in done.stdout.splitlines()]
        assert {status for status, _, _ in lines} == {"OK"}
        checks = {
            *("daemon", "configuration", "scores", "state", "budget", "policy", "postfix", "restriction", "timeout"),
            *("default_action", "mynetworks", "references", "log", "requests", "counters", "zone", "resolver", "clock"),
        }
        assert {check for _, check, _ in lines} == checks

    def test_its_own_question_is_no_request_of_postfix(
        self, start_daemon: StartDaemon, settings: dict[str, Any]
    ) -> None:
        """However often `doctor` and `ask` ask the daemon, Postfix has not."""
        daemon = start_daemon(**settings)
        daemon.run("ask", "client_address=192.0.2.75")
        doctor(daemon, *NO_POSTFIX)
        status, text = doctor(daemon, *NO_POSTFIX).only("requests")
        assert (status, text.partition(" since ")[0]) == ("WARN", "no request")


class TestDaemon:
    """The daemon and what it says of itself."""

    def test_a_daemon_that_is_down(self, start_daemon: StartDaemon, settings: dict[str, Any]) -> None:
        """FAIL for the daemon and for its policy socket, with the command that starts it; exit status 69."""
        daemon = start_daemon(**settings)
        daemon.stop()
        report = doctor(daemon, *NO_POSTFIX)
        assert report.status == 69
        status, text = report.only("daemon")
        assert status == "FAIL"
        assert f"no answer on {daemon.control}; systemctl start senderscore-policy" in text
        assert report.only("policy")[0] == "FAIL"
        # The checks that do not need the daemon run.
        assert report.only("zone")[0] == "OK"

    def test_state_that_cannot_be_saved(self, start_daemon: StartDaemon, settings: dict[str, Any]) -> None:
        """The daemon is asked to save its state, and cannot: there is a file in the place of its directory."""
        daemon = start_daemon(**settings)
        (daemon.directory / "state").rmdir()
        (daemon.directory / "state").touch()
        report = doctor(daemon, *NO_POSTFIX)
        status, text = report.only("state")
        assert status == "WARN"
        assert "state not saved: [Errno " in text
        assert report.status == 0

    def test_a_file_that_was_changed_and_not_reloaded(
        self, start_daemon: StartDaemon, settings: dict[str, Any]
    ) -> None:
        """It says so, until the daemon has read the file."""
        daemon = start_daemon(**settings)
        changed = settings | {"mode": "observe"}
        daemon.configure(**changed)
        os.utime(daemon.file, (2e9, 2e9))
        remedies = [f["remedy"] for f in doctor(daemon, *NO_POSTFIX).worst if f["check"] == "configuration"]
        assert remedies == ["systemctl reload senderscore-policy", "see senderscore-policy.toml(5)"]
        daemon.reload(**changed)
        details = [f["detail"] for f in doctor(daemon, *NO_POSTFIX).worst if f["check"] == "configuration"]
        assert len(details) == 1
        assert details[0].startswith('mode: with "observe"')

    def test_a_budget_that_is_nearly_spent(self, start_daemon: StartDaemon, settings: dict[str, Any]) -> None:
        """Four of five queries a day are a warning, five a failure; doctor's own question does not count."""
        settings["reputation"]["query_budget"] = 50
        daemon = start_daemon(**settings)
        for number in range(4):
            daemon.json("score", f"192.0.2.{number}")
        status, text = doctor(daemon, *NO_POSTFIX).only("budget")
        assert (status, text.partition(" queries")[0]) == ("WARN", "nearly spent: 4 of 5")
        daemon.json("score", "192.0.2.9")
        status, text = doctor(daemon, *NO_POSTFIX).only("budget")
        assert (status, text.partition(",")[0]) == ("FAIL", "spent")


class TestPostfix:
    """What main.cf and master.cf make of the daemon."""

    @pytest.fixture
    def site(
        self, start_daemon: StartDaemon, start_postfix: StartPostfix, settings: dict[str, Any]
    ) -> tuple[Daemon, Postfix]:
        """A daemon that Postfix asks."""
        return start_daemon(**settings), start_postfix(port_of(settings))

    @pytest.mark.skipif(os.geteuid() != 0, reason="the mail log is for root only")
    def test_an_endpoint_where_nobody_listens(
        self, start_daemon: StartDaemon, start_postfix: StartPostfix, settings: dict[str, Any]
    ) -> None:
        """Mail passes without a limit; doctor says where Postfix asks, and sees in the mail log that mail comes."""
        daemon, wrong = start_daemon(**settings), free_port()
        postfix = start_postfix(wrong)
        with postfix.client("192.0.2.75") as client:
            assert client.deliver().startswith("250")
        postfix.wait_for_log("queue active")
        report = doctor(daemon, "--postfix-config", str(postfix.directory))
        assert report.status == 69
        status, text = report.only("postfix")
        assert status == "FAIL"
        assert f"asks inet:127.0.0.1:{wrong} in smtpd_end_of_data_restrictions, where nothing listens" in text
        kept = f"permit_mynetworks, {CHECK % wrong}"
        command = f'postconf -c {postfix.directory} -e "smtpd_end_of_data_restrictions = {kept}, '
        assert f'{command}{CHECK % port_of(settings)}" && postfix -c {postfix.directory} reload' in text
        status, text = report.only("requests")
        assert status == "FAIL"
        assert "but Postfix took 1 messages from outside" in text
        assert f"according to {postfix.directory}/mail.log" in text

    def test_no_check_at_all(self, site: tuple[Daemon, Postfix]) -> None:
        """The line for main.cf is the remedy; and without mail no request is missing."""
        daemon, postfix = site
        postfix.configure("-e", "smtpd_end_of_data_restrictions=")
        postfix.client("192.0.2.75").close()
        postfix.wait_for_log("disconnect from")
        report = doctor(daemon, "--postfix-config", str(postfix.directory))
        status, text = report.only("postfix")
        assert status == "FAIL"
        assert "no policy service in " in text
        assert report.only("requests")[0] == "OK"

    def test_asked_before_reject_unauth_destination(
        self, site: tuple[Daemon, Postfix], settings: dict[str, Any]
    ) -> None:
        """Attempts to relay count, although nothing of them is accepted."""
        daemon, postfix = site
        check = CHECK % port_of(settings)
        postfix.configure(
            "-e",
            "smtpd_end_of_data_restrictions=",
            "smtpd_relay_restrictions=",
            f"smtpd_recipient_restrictions={check}, reject_unauth_destination",
        )
        with postfix.client("192.0.2.75") as client:
            client.mail("sender@example.net")
            assert client.rcpt("user@elsewhere.example")[0] == 554
        (client_now,) = daemon.json("get", "192.0.2.75")
        assert client_now["count"] == 1
        status, text = doctor(daemon, "--postfix-config", str(postfix.directory)).only("restriction")
        assert status == "FAIL"
        assert "in smtpd_recipient_restrictions, before reject_unauth_destination" in text
        moved = f'"smtpd_recipient_restrictions = reject_unauth_destination" "smtpd_end_of_data_restrictions = {check}"'
        assert moved in text

    @pytest.mark.parametrize(
        ("parameter", "relay", "expected"),
        [
            ("smtpd_sender_restrictions", "reject_unauth_destination", "FAIL"),
            ("smtpd_recipient_restrictions", "reject_unauth_destination", "WARN"),
            ("smtpd_data_restrictions", "", "WARN"),
        ],
    )
    def test_asked_in_another_list(
        self, site: tuple[Daemon, Postfix], settings: dict[str, Any], parameter: str, relay: str, expected: str
    ) -> None:
        """Before the message is there it counts what may be rejected later; that is the worse the earlier it is."""
        daemon, postfix = site
        postfix.configure(
            "-e",
            "smtpd_end_of_data_restrictions=",
            f"smtpd_relay_restrictions={relay or 'permit'}",
            f"{parameter}={CHECK % port_of(settings)}",
        )
        status, text = doctor(daemon, "--postfix-config", str(postfix.directory)).only("restriction")
        assert status == expected
        assert f" in {parameter}, before " in text

    def test_terms_that_hold_up_or_stop_mail(self, site: tuple[Daemon, Postfix], settings: dict[str, Any]) -> None:
        """Without default_action=DUNNO and timeout= a daemon that is down or hangs stops mail."""
        daemon, postfix = site
        check = f"check_policy_service inet:127.0.0.1:{port_of(settings)}"
        postfix.configure("-e", f"smtpd_end_of_data_restrictions={check}")
        report = doctor(daemon, "--postfix-config", str(postfix.directory))
        status, text = report.only("default_action")
        assert status == "WARN"
        assert "default_action=451 4.3.5 Server configuration problem" in text
        status, text = report.only("timeout")
        assert status == "WARN"
        assert "timeout=100s, 2 tries: a message waits 1 s while the daemon is down, 201 s while it hangs" in text
        assert report.status == 0

    def test_overridden_by_master_cf(self, site: tuple[Daemon, Postfix], settings: dict[str, Any]) -> None:
        """An -o in master.cf that turns the check off is found, though main.cf is right."""
        daemon, postfix = site
        postfix.configure("-P", f"{postfix.service}/smtpd_end_of_data_restrictions=permit_mynetworks")
        with postfix.client("192.0.2.75") as client:
            assert client.deliver().startswith("250")
        assert daemon.json("get", "192.0.2.75")[0]["count"] == 0
        status, text = doctor(daemon, "--postfix-config", str(postfix.directory)).only("postfix")
        assert status == "FAIL"
        assert text.startswith(f"{postfix.service} does not ask this daemon")
        assert "master.cf sets -o smtpd_end_of_data_restrictions=permit_mynetworks" in text
        added = f"smtpd_end_of_data_restrictions = permit_mynetworks, {CHECK % port_of(settings)}"
        assert f"in {postfix.directory}/master.cf, at {postfix.service}: -o {{ {added} }}" in text

    def test_one_of_two_services_overridden(self, site: tuple[Daemon, Postfix]) -> None:
        """The entrance without the check fails; a service for submission without it is usual."""
        daemon, postfix = site
        postfix.configure("-M", "25/inet=25 inet n - n - - smtpd -o smtpd_end_of_data_restrictions=")
        findings = doctor(daemon, "--postfix-config", str(postfix.directory)).findings
        (override,) = [f["detail"] for f in findings if f["check"] == "postfix" and f["status"] == "FAIL"]
        assert override.startswith("25/inet does not ask this daemon")
        assert override.endswith("master.cf sets -o smtpd_end_of_data_restrictions=")
        postfix.configure("-M#", "25/inet")
        postfix.configure("-M", "submission/inet=submission inet n - n - - smtpd -o smtpd_end_of_data_restrictions=")
        assert doctor(daemon, "--postfix-config", str(postfix.directory)).only("postfix")[0] == "OK"

    def test_a_check_that_is_never_reached(self, site: tuple[Daemon, Postfix], settings: dict[str, Any]) -> None:
        """Behind `permit` nothing is asked."""
        daemon, postfix = site
        postfix.configure("-e", f"smtpd_end_of_data_restrictions=permit, {CHECK % port_of(settings)}")
        status, text = doctor(daemon, "--postfix-config", str(postfix.directory)).only("postfix")
        assert status == "FAIL"
        assert "never comes to the check: permit before it ends smtpd_end_of_data_restrictions" in text

    @pytest.mark.skipif(os.geteuid() != 0, reason="the mail log is for root only")
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ("permit_mynetwork, %s", 'warning: unknown smtpd restriction: "permit_mynetwork"'),
            ("%s # limits", 'warning: unknown smtpd restriction: "#"'),
            ("check_policy_service { inet:127.0.0.1:1, retries=3 }, %s", 'fatal: unknown option: "retries = 3"'),
        ],
    )
    def test_a_mistake_that_stops_all_mail(
        self, site: tuple[Daemon, Postfix], settings: dict[str, Any], change: str, words: str
    ) -> None:
        """Both the configuration and smtpd's own words in the mail log are failures."""
        daemon, postfix = site
        postfix.configure("-e", f"smtpd_end_of_data_restrictions={change % (CHECK % port_of(settings))}")
        with contextlib.suppress(smtplib.SMTPException, AssertionError), postfix.client("192.0.2.75") as client:
            assert client.deliver().startswith("451 4.3.5 ")
        postfix.wait_for_log(re.escape(words))
        report = doctor(daemon, "--postfix-config", str(postfix.directory))
        assert report.only("restriction")[0] == "FAIL"
        status, text = report.only("log")
        assert status == "FAIL"
        assert words in text
        assert [f for f in report.findings if f["check"] == "postfix"] == []

    @pytest.mark.skipif(os.geteuid() != 0, reason="the mail log is for root only")
    def test_mail_of_own_networks_needs_no_request(
        self, site: tuple[Daemon, Postfix], settings: dict[str, Any]
    ) -> None:
        """`permit_mynetworks` lets it pass without a request; without it the daemon limits the site's own hosts."""
        daemon, postfix = site
        check = CHECK % port_of(settings)
        postfix.configure("-e", "mynetworks=127.0.0.0/8 192.0.2.0/24", f"smtpd_end_of_data_restrictions={check}")
        status, text = doctor(daemon, "--postfix-config", str(postfix.directory)).only("mynetworks")
        assert status == "WARN"
        assert f'"smtpd_end_of_data_restrictions = permit_mynetworks, {check}"' in text
        postfix.configure("-e", f"smtpd_end_of_data_restrictions=permit_mynetworks, {check}")
        with postfix.client("192.0.2.75") as client:
            assert client.deliver().startswith("250")
        postfix.wait_for_log("queue active")
        report = doctor(daemon, "--postfix-config", str(postfix.directory))
        assert (report.only("mynetworks")[0], report.only("requests")[0]) == ("OK", "OK")


class TestUnixSocket:
    """Policy sockets in the file system."""

    @pytest.fixture
    def site(
        self, start_daemon: StartDaemon, start_postfix: StartPostfix, nameserver: Nameserver
    ) -> tuple[Daemon, Postfix]:
        """A daemon on a unix socket that Postfix asks, not chrooted."""
        daemon = start_daemon(reputation={"nameservers": [f"127.0.0.1:{nameserver.port}"]})
        daemon.directory.parent.chmod(0o755)
        postfix = start_postfix(free_port())
        check = f"check_policy_service {{ unix:{daemon.socket}, timeout=10s, default_action=DUNNO }}"
        postfix.configure("-e", f"smtpd_end_of_data_restrictions={check}")
        return daemon, postfix

    def deliver(self, site: tuple[Daemon, Postfix]) -> int:
        """How many messages the daemon has counted after one was sent; Postfix takes it in any case."""
        daemon, postfix = site
        with postfix.client("192.0.2.75") as client:
            assert client.deliver().startswith("250")
        count: int = daemon.json("get", "192.0.2.75")[0]["count"]
        return count

    def test_it_works_without_a_chroot(self, site: tuple[Daemon, Postfix]) -> None:
        """An absolute path is right then."""
        assert self.deliver(site) == 1
        report = doctor(site[0], "--postfix-config", str(site[1].directory))
        assert report.only("postfix")[0] == "OK"
        assert report.status == 0

    def test_outside_the_chroot(self, site: tuple[Daemon, Postfix]) -> None:
        """A chrooted smtpd does not see the path; doctor names the chroot, and the ways out."""
        daemon, postfix = site
        postfix.configure("-F", f"{postfix.service}/chroot=y")
        assert self.deliver(site) == 0
        report = doctor(daemon, "--postfix-config", str(postfix.directory))
        assert report.status == 69
        status, text = report.only("chroot")
        assert status == "FAIL"
        assert f"asks unix:{daemon.socket} in smtpd_end_of_data_restrictions" in text
        assert f"in the chroot {postfix.directory}/queue" in text
        assert "inet:127.0.0.1:10045" in text
        assert [finding for finding in report.worst if finding["check"] == "postfix"] == []

    def test_closed_to_postfix(self, site: tuple[Daemon, Postfix]) -> None:
        """A directory on the way that only root may enter is named."""
        daemon, postfix = site
        daemon.directory.chmod(0o700)
        assert self.deliver(site) == 0
        status, text = doctor(daemon, "--postfix-config", str(postfix.directory)).only("socket")
        assert status == "FAIL"
        assert f"the user postfix may not pass {daemon.directory}; chmod o+x {daemon.directory}" in text


class TestMemcached:
    """Servers of shared counters."""

    def report(self, start_daemon: StartDaemon, settings: dict[str, Any], *servers: str) -> Report:
        """The report about a daemon that counts on these servers."""
        return doctor(start_daemon(**settings, counters={"store": "memcached", "servers": servers}), *NO_POSTFIX)

    def test_one_that_counts(
        self, start_daemon: StartDaemon, settings: dict[str, Any], memcached: MemcachedServer
    ) -> None:
        """OK, and nothing is left there."""
        report = self.report(start_daemon, settings, memcached.address)
        status, text = report.only("memcached")
        assert status == "OK"
        assert text.startswith(f"{memcached.address} counts")
        with socket.create_connection(("127.0.0.1", memcached.port)) as connection:
            connection.sendall(b"get ssp:doctor\r\n")
            assert connection.recv(100) == b"END\r\n"

    def test_one_of_two_that_is_down(
        self, start_daemon: StartDaemon, settings: dict[str, Any], memcached: MemcachedServer
    ) -> None:
        """A line for each server; the exit status says that something is wrong."""
        closed = f"127.0.0.1:{free_port()}"
        report = self.report(start_daemon, settings, memcached.address, closed)
        lines = [(f["status"], f["detail"]) for f in report.findings if f["check"] == "memcached"]
        assert [status for status, _ in lines] == ["OK", "FAIL"]
        assert lines[1][1] == f"{closed}: Connection refused"
        assert report.status == 69

    def test_one_that_hangs(
        self, start_daemon: StartDaemon, settings: dict[str, Any], memcached: MemcachedServer
    ) -> None:
        """The port is open, and no answer comes."""
        memcached.freeze()
        status, text = self.report(start_daemon, settings, memcached.address).only("memcached")
        assert status == "FAIL"
        assert "no answer within 0.25 s" in text

    def test_another_service_in_its_place(
        self, start_daemon: StartDaemon, settings: dict[str, Any], start_postfix: StartPostfix
    ) -> None:
        """The finding shows the answer, here that of an SMTP server."""
        postfix = start_postfix(free_port())
        settings |= {"counters": {"store": "memcached", "servers": [f"127.0.0.1:{postfix.port}"], "timeout": 10}}
        status, text = doctor(start_daemon(**settings), *NO_POSTFIX).only("memcached")
        assert status == "FAIL"
        assert "answered b'220 mx.example.org ESMTP Postfix" in text
        assert "check that memcached listens there" in text

    def test_one_that_is_too_small(
        self, start_daemon: StartDaemon, settings: dict[str, Any], start_memcached: Callable[..., MemcachedServer]
    ) -> None:
        """The finding counts the evicted items: a counter among them starts at zero."""
        server = start_memcached("-m", "2")
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            for number in range(200):
                connection.sendall(b"set filler%d 0 0 100000 noreply\r\n" % number + 100_000 * b"x" + b"\r\n")
            connection.sendall(b"version\r\n")
            assert connection.recv(100).startswith(b"VERSION")
        report = self.report(start_daemon, settings, server.address)
        status, text = report.only("memcached")
        assert status == "WARN"
        assert "has evicted " in text
        assert report.status == 0


class TestZone:
    """The one question to the score zone."""

    @pytest.mark.parametrize(
        ("reply", "said"),
        [
            (addresses("127.255.255.254"), ["says 127.255.255.254 (NOERROR, ", "refuses", "my.validity.com"]),
            (addresses("10.1.2.3"), ["says 10.1.2.3 (NOERROR, ", "rewrites NXDOMAIN"]),
            (addresses("127.0.4.50"), ["a score, 50, for an address that sends no mail", "rewrites NXDOMAIN"]),
            (rcode("SERVFAIL"), ["(SERVFAIL, ", "cannot reach the zone"]),
            (rcode("REFUSED"), ["(REFUSED, ", "does not resolve names for this host"]),
            (garbage, ["(no response, "]),
            (silence, ["(no response, ", "firewall"]),
        ],
    )
    def test_a_zone_that_does_not_answer(
        self, start_daemon: StartDaemon, settings: dict[str, Any], nameserver: Nameserver, reply: Reply, said: list[str]
    ) -> None:
        """FAIL with the raw answer, its rcode, the time, who was asked, and the way out."""
        nameserver.otherwise = reply
        report = doctor(start_daemon(**settings), *NO_POSTFIX)
        assert report.status == 69
        status, text = report.only("zone")
        assert status == "FAIL"
        assert text.startswith(f"score.test about 127.0.0.1: 127.0.0.1:{nameserver.port} says ")
        assert [part for part in said if part not in text] == []
        assert " ms)" in text

    def test_a_client_with_a_score(
        self, start_daemon: StartDaemon, settings: dict[str, Any], nameserver: Nameserver
    ) -> None:
        """Proves that the zone is the right one."""
        nameserver.answers["192.0.2.75"] = addresses("127.0.4.75")
        status, text = doctor(start_daemon(**settings), "192.0.2.75", *NO_POSTFIX).only("zone")
        assert (status, text.rpartition(": ")[2]) == ("OK", "score 75; ")

    def test_a_zone_that_does_not_exist(
        self, start_daemon: StartDaemon, settings: dict[str, Any], nameserver: Nameserver
    ) -> None:
        """A misspelt zone answers like one without any score; the question for its SOA record shows the difference."""
        nameserver.zone = rcode("NXDOMAIN")
        status, text = doctor(start_daemon(**settings), *NO_POSTFIX).only("zone")
        assert status == "FAIL"
        assert "there is no zone score.test (NXDOMAIN for its SOA record)" in text
        assert "correct zone in [reputation]" in text

    def test_a_server_that_does_not_know_the_zone(
        self, start_daemon: StartDaemon, settings: dict[str, Any], nameserver: Nameserver
    ) -> None:
        """What could not be seen is not OK."""
        nameserver.zone = rcode("SERVFAIL")
        status, text = doctor(start_daemon(**settings), *NO_POSTFIX).only("zone")
        assert (status, "could not be seen (SERVFAIL)" in text) == ("WARN", True)

    def test_it_goes_past_the_breaker(
        self, start_daemon: StartDaemon, settings: dict[str, Any], nameserver: Nameserver
    ) -> None:
        """While the daemon does not ask after a refusal, doctor does, once: so a remedy shows at once."""
        nameserver.otherwise = addresses("127.255.255.255")
        daemon = start_daemon(**settings)
        for number in range(3):
            assert daemon.json("score", f"192.0.2.{number}", status=69)[0]["reputation"] == "refused"
        assert len(nameserver.questions) == 1
        nameserver.otherwise = rcode("NXDOMAIN")
        report = doctor(daemon, *NO_POSTFIX)
        assert report.only("zone")[0] == "OK"
        assert [question.type for question in nameserver.questions] == ["A", "A", "SOA"]
        status, text = report.only("daemon")
        assert status == "WARN"
        assert "score.test refuses to answer (127.255.255.255)" in text

    def test_a_nameserver_that_is_not_there(self, start_daemon: StartDaemon) -> None:
        """The configured port is closed."""
        status, text = doctor(start_daemon(), *NO_POSTFIX).only("zone")
        assert status == "FAIL"
        assert "check that the name server runs" in text


@pytest.mark.parametrize(
    ("resolv_conf", "nameservers", "source"),
    [("192.0.2.53", '"8.8.8.8"', "reputation.nameservers"), ("1.1.1.1", "", "/etc/resolv.conf")],
)
def test_a_public_resolver(short_path: Path, resolv_conf: str, nameservers: str, source: str) -> None:
    """The resolver of all the world, configured here or in the system, is warned of, as it shares one quota.

    In a network of its own, without a way to anywhere.
    """
    (short_path / "resolv.conf").write_text(f"nameserver {resolv_conf}\n")
    (short_path / "policy.toml").write_text(
        f'listen.control = "{short_path}/control.sock"\nreputation.nameservers = [{nameservers}]\n'
    )
    isolate = ["unshare", "--net", "--mount", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"']
    command = [*isolate, f"{short_path}/resolv.conf"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a network namespace is for root only")
    arguments = ["doctor", "--json", "-c", f"{short_path}/policy.toml", *NO_POSTFIX]
    done = subprocess.run([*command, str(COMMAND), *arguments], capture_output=True, text=True, check=False, timeout=60)
    status, text = Report(done.returncode, json.loads(done.stdout)).only("resolver")
    public = "8.8.8.8" if nameservers else resolv_conf
    assert status == "WARN"
    assert text.startswith(f"asks {public} ({source}): {public} shares one quota of the zone")


def test_an_ipv6_address_is_a_usage_error() -> None:
    """The zone cannot be asked about it: one line, status 64."""
    done = run_command("doctor", "2001:db8::1")
    assert (done.returncode, done.stdout) == (64, "")
    assert "'2001:db8::1' is not an IPv4 address" in done.stderr


@pytest.mark.parametrize(("no_color", "head"), [("", "\x1b[31mFAIL  \x1b[0mdaemon"), ("1", "FAIL  daemon")])
def test_on_a_terminal_lines_are_wrapped_and_summed_up(short_path: Path, no_color: str, head: str) -> None:
    """No line is wider than the screen, no word is cut, the remedy has lines of its own and can be pasted."""
    (short_path / "policy.toml").write_text(
        f'listen.control = "{short_path}/control.sock"\nlisten.policy = ["inet:127.0.0.1:{free_port()}"]\n'
        f'reputation = {{ zone = "score.test", nameservers = ["127.0.0.1:{free_port()}"] }}\n'
    )
    shutil.copytree(Path(__file__).parents[1] / "postfix" / "other-service", short_path / "postfix")
    arguments = ["doctor", "-c", f"{short_path}/policy.toml", "--postfix-config", f"{short_path}/postfix"]
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": no_color}
    environment.pop("COLUMNS", None)
    process = subprocess.Popen([COMMAND, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    out = b""
    # The end of a terminal is an error (EIO).
    with contextlib.suppress(OSError):
        while part := os.read(ours, 65536):
            out += part
    os.close(ours)
    assert process.wait(60) == 69
    text = out.decode().replace("\r\n", "\n")
    assert text.startswith(head)
    lines = re.sub(r"\x1b\[[\d;]*m", "", text).splitlines()
    assert max(map(len, lines)) <= 80
    assert re.fullmatch(r"\d+ FAIL, (\d+ WARN, )?\d+ OK", lines[-1])
    command = "\n".join(lines).partition("Remedy:        postconf")[2].partition("&&")[0]
    done = subprocess.run(["bash", "-c", f"printf '%s|'{command}"], capture_output=True, text=True, check=True)
    value = re.sub(r"\s+", " ", done.stdout.split("|")[3])
    assert value.startswith(
        "smtpd_end_of_data_restrictions = check_policy_service unix:private/quota, check_policy_service {"
    )
    assert value.endswith("timeout=5s, try_limit=1, default_action=DUNNO }")
