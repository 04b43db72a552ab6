"""The installed daemon from outside: what Postfix and systemd see of it."""

import contextlib
import os
import shutil
import signal
import socket
import stat
import struct
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dns.message
import dns.rrset
import pytest
from daemon_process import Daemon
from memcached_server import MemcachedServer
from policy_client import PolicyClient, request
from waiting import eventually, free_port, wait_for_listener

StartDaemon = Callable[..., Daemon]

CLIENT = "192.0.2.75"
"""Has the score 75, and with `TIERS` a limit of three messages."""

OVERRIDES = [{"networks": ["192.0.2.0/24"], "score": 75}]
TIERS = [{"scores": "0-70", "limit": 1}, {"scores": "71-80", "limit": 3}, {"scores": "81-100", "limit": "unlimited"}]
LIMITED = {"override": OVERRIDES, "tier": TIERS}
OVER_LIMIT = "421 sender score = 75, you're limited to 3 messages/hour in our policy, try again later"


def asked(daemon: Daemon, times: int, client_address: str = CLIENT, **attributes: str) -> list[str]:
    """The answers to a number of messages, sent one after the other over one connection."""
    with daemon.client() as postfix:
        return [postfix.ask(client_address, **attributes) for _ in range(times)]


@contextlib.contextmanager
def answered_while_it_stops(start_daemon: StartDaemon) -> Iterator[tuple[Daemon, str, PolicyClient]]:
    """A daemon, its reply to a message whose score was being looked up at SIGTERM, and the connection."""
    with silent_nameserver() as (nameserver, address):
        daemon = start_daemon(**LIMITED, reputation={"nameservers": [address], "deadline": 5})
        assert asked(daemon, 1, "198.51.100.9") == ["DUNNO"]
        with daemon.client() as postfix:
            postfix.socket.sendall(request("198.51.100.9"))
            with daemon.client() as other:
                assert other.ask() == "DUNNO"
            daemon.terminate()
            daemon.wait_for("STOPPING=1")
            answer(nameserver, "127.0.4.0")
            yield daemon, postfix.action(), postfix


class TestAnswers:
    """Requests and replies."""

    def test_a_limit_of_three_lets_exactly_three_messages_through(self, start_daemon: StartDaemon) -> None:
        """The fourth message and all after it are deferred with score and limit; another client is not."""
        daemon = start_daemon(**LIMITED)
        assert asked(daemon, 6) == ["DUNNO"] * 3 + [OVER_LIMIT] * 3
        assert asked(daemon, 1, "192.0.2.76") == ["DUNNO"]

    def test_it_answers_on_every_listener(self, start_daemon: StartDaemon, short_path: Path) -> None:
        """TCP and unix sockets, several of them, share the counters."""
        port, other = free_port(), short_path / "other.sock"
        unix = short_path / "0" / "policy.sock"
        start_daemon(**LIMITED, listen={"policy": [f"inet:127.0.0.1:{port}", f"unix:{unix}", f"unix:{other}"]})
        actions = []
        for endpoint in (port, unix, other, port):
            with PolicyClient(endpoint) as postfix:
                actions.append(postfix.ask(CLIENT))
        assert actions == ["DUNNO"] * 3 + [OVER_LIMIT]

    def test_pipelined_requests_are_answered_in_order(self, start_daemon: StartDaemon) -> None:
        """Replies come in the order of the requests, also when an earlier one needs DNS and a later one does not."""
        with silent_nameserver() as (nameserver, address):
            daemon = start_daemon(**LIMITED, reputation={"nameservers": [address], "deadline": 30})
            assert asked(daemon, 1, "198.51.100.9") == ["DUNNO"]
            with daemon.client() as postfix:
                postfix.socket.sendall(request("198.51.100.9") + b"".join(request(CLIENT) for _ in range(4)))
                answer(nameserver, "127.0.4.0")
                actions = [postfix.action() for _ in range(5)]
        assert actions[0].startswith("421 sender score = 0, you're limited to 1 messages/hour")
        assert actions[1:] == ["DUNNO"] * 3 + [OVER_LIMIT]

    def test_a_half_closed_connection_gets_its_reply(self, start_daemon: StartDaemon) -> None:
        """A client that shuts down its sending side is answered before the connection closes."""
        daemon = start_daemon(**LIMITED)
        with daemon.client() as postfix:
            postfix.socket.sendall(request())
            postfix.socket.shutdown(socket.SHUT_WR)
            assert postfix.action() == "DUNNO"
            with pytest.raises(EOFError):
                postfix.action()

    @pytest.mark.parametrize(
        "malformed",
        [
            b"no equals sign\n\n",
            b"request=something_else\n\n",
            b"request=smtpd_access_policy\nsender=a\0b\n\n",
            b"request=smtpd_access_policy\nsender=" + b"x" * 17_000 + b"\n\n",
            b"request=smtpd_access_policy\n" + b"a=b\n" * 20_000,
        ],
        ids=["no-equals", "other-request", "nul", "oversized-value", "endless"],
    )
    def test_a_malformed_request_is_disconnected_without_a_reply(
        self, start_daemon: StartDaemon, malformed: bytes
    ) -> None:
        """SMTPD_POLICY_README wants no reply then; others are served on, and the log names the trouble."""
        daemon = start_daemon(**LIMITED)
        with daemon.client() as postfix, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            postfix.socket.sendall(malformed)
            with pytest.raises(EOFError):
                postfix.action()
        assert asked(daemon, 1) == ["DUNNO"]
        daemon.stop()
        assert "malformed request from" in daemon.log

    @pytest.mark.parametrize("address", ["", "unknown", "not an address", "fe80::1%eth0"])
    def test_a_client_without_an_address_passes_uncounted(self, start_daemon: StartDaemon, address: str) -> None:
        """Postfix may not know the client's address; that is never a reason to defer."""
        daemon = start_daemon(**LIMITED, unscored={"limit": 0}, unavailable={"limit": 0})
        assert asked(daemon, 3, address) == ["DUNNO"] * 3

    def test_a_v4_mapped_address_is_the_same_client(self, start_daemon: StartDaemon) -> None:
        """::ffff:192.0.2.75 and 192.0.2.75 are counted together."""
        daemon = start_daemon(**LIMITED)
        assert asked(daemon, 2, f"::ffff:{CLIENT}") + asked(daemon, 2) == ["DUNNO"] * 3 + [OVER_LIMIT]

    def test_ipv6_clients_are_counted_per_prefix(self, start_daemon: StartDaemon) -> None:
        """All addresses of a /64 share one limit, another /64 has its own."""
        daemon = start_daemon(override=[{"networks": ["2001:db8::/32"], "limit": 1}])
        first = asked(daemon, 1, "2001:db8::1") + asked(daemon, 1, "2001:db8::2")
        assert first[0] == "DUNNO"
        assert first[1].startswith("421 ")
        assert asked(daemon, 1, "2001:db8:0:1::1") == ["DUNNO"]

    def test_a_repeated_instance_counts_once(self, start_daemon: StartDaemon) -> None:
        """Postfix repeats a request after a lost connection: same answer, no second count, on any connection."""
        daemon = start_daemon(**LIMITED)
        assert asked(daemon, 2, instance="a.1") + asked(daemon, 2, instance="a.1") == ["DUNNO"] * 4
        assert daemon.json("get", CLIENT)[0]["count"] == 1
        assert asked(daemon, 2) == ["DUNNO"] * 2
        assert asked(daemon, 1) == [OVER_LIMIT]
        assert asked(daemon, 1, instance="a.1") == ["DUNNO"]
        assert asked(daemon, 2, instance="") == [OVER_LIMIT] * 2

    def test_a_repeat_waits_for_the_first(self, start_daemon: StartDaemon) -> None:
        """While the first is still waiting for its score, a repeat on another connection joins it, and one counts."""
        with silent_nameserver() as (nameserver, address):
            daemon = start_daemon(**LIMITED, reputation={"nameservers": [address], "deadline": 30})
            assert asked(daemon, 1, "198.51.100.9") == ["DUNNO"]
            with daemon.client() as first, daemon.client() as repeat:
                for postfix in (first, repeat):
                    postfix.socket.sendall(request("198.51.100.9", instance="a.1"))
                assert asked(daemon, 1) == ["DUNNO"]
                answer(nameserver, "127.0.4.75")
                assert [first.action(), repeat.action()] == ["DUNNO"] * 2
        assert daemon.json("get", "198.51.100.9")[0]["count"] == 2

    def test_a_newcomer_takes_the_place_of_the_longest_idle(self, start_daemon: StartDaemon) -> None:
        """At max_connections a newcomer is served; Postfix reopens the connection that was closed for it."""
        daemon = start_daemon(**LIMITED, listen={"max_connections": 10})
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(daemon.client()) for _ in range(10)]
            for postfix in connections:
                assert postfix.ask("192.0.2.1", instance="a.1") == "DUNNO"
            assert connections[0].ask() == "DUNNO"
            assert stack.enter_context(daemon.client()).ask() == "DUNNO"
            with pytest.raises(EOFError):
                connections[1].action()
            assert connections[0].ask() == "DUNNO"

    def test_a_crowd_that_never_asks_displaces_nobody_who_does(self, start_daemon: StartDaemon) -> None:
        """Newcomers without a request lose their places to each other, however new they are, before an smtpd does."""
        daemon = start_daemon(**LIMITED, listen={"max_connections": 10})
        with daemon.client() as postfix, contextlib.ExitStack() as stack:
            assert postfix.ask("192.0.2.1") == "DUNNO"
            crowd = [stack.enter_context(daemon.client()) for _ in range(20)]
            with pytest.raises(EOFError):
                crowd[0].action()
            assert postfix.ask("192.0.2.1") == "DUNNO"
            assert crowd[-1].ask("192.0.2.1") == "DUNNO"

    def test_many_may_connect_at_the_same_moment(self, start_daemon: StartDaemon) -> None:
        """Where Postfix starts hundreds of smtpd at once, every connection is accepted."""
        daemon = start_daemon(**LIMITED)
        with contextlib.ExitStack() as stack:
            daemon.process.send_signal(signal.SIGSTOP)
            stack.callback(daemon.process.send_signal, signal.SIGCONT)
            os.waitid(os.P_PID, daemon.process.pid, os.WSTOPPED)
            for _ in range(800):
                postfix = stack.enter_context(socket.socket(socket.AF_UNIX))
                postfix.setblocking(False)
                postfix.connect(str(daemon.socket))

    def test_exempt_and_authenticated_clients_are_not_counted(self, start_daemon: StartDaemon) -> None:
        """Neither the site's own networks nor users who logged in have a limit."""
        daemon = start_daemon(**LIMITED, exempt={"networks": ["192.0.2.128/25"]})
        assert asked(daemon, 9, "192.0.2.200") == ["DUNNO"] * 9
        assert asked(daemon, 9, sasl_username="joe") == ["DUNNO"] * 9
        assert asked(daemon, 4) == ["DUNNO"] * 3 + [OVER_LIMIT]

    def test_observe_mode_logs_what_enforce_would_do(self, start_daemon: StartDaemon) -> None:
        """Every answer is DUNNO; the log has the deferral with queue id, client, score, tier, count and limit."""
        daemon = start_daemon(**LIMITED, mode="observe")
        assert asked(daemon, 5, queue_id="4ABCDEF") == ["DUNNO"] * 5
        assert daemon.json("get", CLIENT)[0]["count"] == 3
        daemon.stop()
        (line, _) = [line for line in daemon.log.splitlines() if "reason=over-limit" in line]
        for field in ("client=192.0.2.75", "score=75", "tier=71-80", "count=4", "limit=3", "queue_id=4ABCDEF"):
            assert f" {field} " in line


class TestService:
    """What systemd and an administrator see."""

    def test_sockets_from_systemd_are_served(self, make_daemon: StartDaemon, short_path: Path) -> None:
        """A passed socket is matched by address to [listen]; one without an entry is served too, and logged."""
        listed, unlisted = socket.socket(socket.AF_UNIX), socket.create_server(("127.0.0.1", 0))
        with listed, unlisted:
            listed.bind(str(short_path / "listed.sock"))
            listed.listen()
            daemon = make_daemon(**LIMITED, listen={"policy": [f"unix:{short_path}/listed.sock"]})
            daemon.start([("policy", listed), ("policy", unlisted)])
            port = unlisted.getsockname()[1]
        with PolicyClient(short_path / "listed.sock") as one, PolicyClient(port) as other:
            assert [one.ask(), other.ask(), one.ask(), other.ask()] == ["DUNNO"] * 3 + [OVER_LIMIT]
        daemon.stop()
        assert f"127.0.0.1:{port}" in daemon.log
        assert (short_path / "listed.sock").exists(), "a socket that systemd made is not the daemon's to remove"

    def test_reload_takes_the_new_file_and_keeps_the_counts(self, start_daemon: StartDaemon) -> None:
        """After SIGHUP the new limits hold for what is already counted, on connections already open."""
        daemon = start_daemon(**LIMITED)
        with daemon.client() as postfix:
            assert [postfix.ask() for _ in range(3)] == ["DUNNO"] * 3
            daemon.reload(override=OVERRIDES, tier=[{"scores": "0-100", "limit": 4}])
            assert postfix.ask() == "DUNNO"
            assert postfix.ask().startswith("421 sender score = 75, you're limited to 4 messages/hour")

    def test_a_list_of_networks_is_loaded_again(self, start_daemon: StartDaemon) -> None:
        """A changed networks_file is in force after a reload; one with a mistake changes nothing."""
        daemon = start_daemon(**LIMITED)
        networks = daemon.file.with_name("networks.cidr")
        tables = LIMITED | {"exempt": {"networks_file": str(networks)}}
        networks.write_text("# newsletters\n192.0.2.0/24 OK\n")
        daemon.reload(**tables)
        assert asked(daemon, 5) == ["DUNNO"] * 5
        networks.write_text("192.0.2.300\n")
        daemon.reload(**tables)
        assert asked(daemon, 5) == ["DUNNO"] * 5
        networks.write_text("198.51.100.0/24\n")
        daemon.reload(**tables)
        assert asked(daemon, 4) == ["DUNNO"] * 3 + [OVER_LIMIT]
        daemon.stop()
        assert f"exempt.networks_file: {networks}:1: must be a network" in daemon.log

    def test_requests_are_answered_during_a_reload(self, start_daemon: StartDaemon) -> None:
        """However long the new file takes to load, the limits of the old one stay in force until then."""
        daemon = start_daemon(**LIMITED)
        text = daemon.file.read_text()
        daemon.file.unlink()
        os.mkfifo(daemon.file)
        daemon.process.send_signal(signal.SIGHUP)
        with daemon.file.open("w") as fifo:  # the daemon has begun to read it when this returns
            assert asked(daemon, 4) == ["DUNNO"] * 3 + [OVER_LIMIT]
            fifo.write(text)
        daemon.wait_for("RELOADING=1")
        daemon.wait_for("READY=1")
        daemon.file.unlink()

    def test_reload_of_an_invalid_file_changes_nothing(self, start_daemon: StartDaemon) -> None:
        """The old configuration stays in force and the log has every reason."""
        daemon = start_daemon(**LIMITED)
        daemon.reload(mode="sometimes", tier=[{"scores": "0-99", "limit": 4}])
        assert asked(daemon, 4) == ["DUNNO"] * 3 + [OVER_LIMIT]
        daemon.stop()
        assert "mode" in daemon.log
        assert "tier" in daemon.log

    def test_a_reload_during_the_start_happens_after_it(self, make_daemon: StartDaemon) -> None:
        """SIGHUP while the daemon still reads its files does not end it: it reloads once it serves."""
        daemon = make_daemon(**LIMITED)
        text = daemon.file.read_text()
        daemon.file.unlink()
        os.mkfifo(daemon.file)
        daemon.launch()
        with daemon.file.open("w") as fifo:  # the daemon has begun to read it when this returns
            daemon.process.send_signal(signal.SIGHUP)
            daemon.file.unlink()
            daemon.file.write_text(text)
            fifo.write(text)
        for notification in ("READY=1", "RELOADING=1", "READY=1"):
            daemon.wait_for(notification)

    def test_sigterm_finishes_the_request_in_hand(self, start_daemon: StartDaemon) -> None:
        """A message whose score is being looked up gets its answer before the daemon exits with status 0."""
        with answered_while_it_stops(start_daemon) as (daemon, reply, _):
            assert reply.startswith("421 sender score = 0, you're limited to 1 messages/hour")
        daemon.stop()

    def test_the_watchdog_is_fed(self, make_daemon: StartDaemon) -> None:
        """With WatchdogSec= in its unit the daemon shows systemd that it lives."""
        daemon = make_daemon()
        daemon.start(WATCHDOG_USEC="200000")
        daemon.wait_for("WATCHDOG=1")
        daemon.wait_for("WATCHDOG=1")

    def test_counts_survive_a_restart(self, start_daemon: StartDaemon) -> None:
        """The embedded store is saved at exit and read at start."""
        daemon = start_daemon(**LIMITED)
        assert asked(daemon, 2) == ["DUNNO"] * 2
        daemon.stop()
        daemon.start()
        assert asked(daemon, 2) == ["DUNNO", OVER_LIMIT]

    @pytest.mark.parametrize("without_uvloop", [False, True])
    def test_connections_survive_a_restart(
        self, make_daemon: StartDaemon, short_path: Path, without_uvloop: bool
    ) -> None:
        """With systemd's store, Postfix's requests before, during and after a restart are all answered and counted."""
        (short_path / "uvloop.py").write_text("raise ImportError\n")
        environment = {"PYTHONPATH": str(short_path)} if without_uvloop else {}
        port = free_port()
        daemon = make_daemon(**LIMITED, listen={"policy": [f"inet:127.0.0.1:{port}", f"unix:{short_path}/p.sock"]})
        daemon.start(**environment)
        with PolicyClient(port) as tcp, PolicyClient(short_path / "p.sock") as unix:
            assert [tcp.ask(), unix.ask()] == ["DUNNO"] * 2
            stored = daemon.stop_for_restart()
            assert [name for name, _ in stored] == ["connection"] * 2
            tcp.socket.sendall(request())
            daemon.launch(stored, **environment)
            for _, connection in stored:
                connection.close()
            # systemd would else keep what the daemon closes.
            daemon.wait_for("FDSTOREREMOVE=1")
            daemon.wait_for("READY=1")
            assert [tcp.action(), unix.ask(), tcp.ask()] == ["DUNNO", OVER_LIMIT, OVER_LIMIT]
            unix.socket.sendall(b"nonsense\n\n")
            with pytest.raises(EOFError):
                unix.action()
            stored = daemon.stop_for_restart()
            assert len(stored) == 1
            stored[0][1].close()
            with pytest.raises(EOFError):
                tcp.action()

    def test_a_restart_keeps_no_connection_with_half_a_request(self, start_daemon: StartDaemon) -> None:
        """The beginning of a request is only in the process that ends, so the connection ends with it."""
        daemon = start_daemon(**LIMITED)
        with daemon.client() as postfix, daemon.client() as slow:
            assert slow.ask() == "DUNNO"
            slow.socket.sendall(request()[:40])
            assert postfix.ask() == "DUNNO"
            stored = daemon.stop_for_restart()
            with pytest.raises(EOFError):
                slow.action()
            daemon.start(stored)
            for _, connection in stored:
                connection.close()
            assert [postfix.ask(), postfix.ask()] == ["DUNNO", OVER_LIMIT]

    def test_a_connection_with_a_request_in_hand_survives_a_restart(self, start_daemon: StartDaemon) -> None:
        """The process that ends answers the request; the next one serves the connection."""
        with answered_while_it_stops(start_daemon) as (daemon, reply, postfix):
            assert reply.startswith("421 sender score = 0")
            stored = daemon.stop_for_restart()
            daemon.start(stored)
            for _, connection in stored:
                connection.close()
            assert [postfix.ask() for _ in range(3)] == ["DUNNO", "DUNNO", OVER_LIMIT]

    def test_a_peer_may_leave_during_a_restart(self, start_daemon: StartDaemon) -> None:
        """A connection that its peer has closed or reset meanwhile does not disturb the others."""
        port = free_port()
        daemon = start_daemon(**LIMITED, listen={"policy": [f"inet:127.0.0.1:{port}"]})
        with PolicyClient(port) as postfix:
            with PolicyClient(port) as closed, PolicyClient(port) as reset:
                assert [each.ask() for each in (postfix, closed, reset)] == ["DUNNO"] * 3
                stored = daemon.stop_for_restart()
                reset.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            assert len(stored) == 3
            daemon.start(stored)
            for _, connection in stored:
                connection.close()
            assert postfix.ask() == OVER_LIMIT
        daemon.stop()

    def test_the_state_is_closed_to_others(self, start_daemon: StartDaemon) -> None:
        """What the daemon saves is readable by its user alone."""
        daemon = start_daemon(**LIMITED)
        asked(daemon, 1)
        daemon.stop()
        files = [path for path in (daemon.directory / "state").rglob("*") if path.is_file()]
        assert files
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00nonsense", b"[]", b'{"version": 1, "counters": 7}'])
    def test_a_malformed_state_file_is_set_aside(self, start_daemon: StartDaemon, content: bytes) -> None:
        """The daemon starts empty, says so, and keeps the file as .bad."""
        daemon = start_daemon(**LIMITED)
        asked(daemon, 3)
        daemon.stop()
        saved = sorted(path for path in (daemon.directory / "state").iterdir() if path.is_file())
        for path in saved:
            path.write_bytes(content)
        daemon.start()
        assert asked(daemon, 4) == ["DUNNO"] * 3 + [OVER_LIMIT]
        daemon.stop()
        assert all(path.with_name(f"{path.name}.bad").read_bytes() == content for path in saved)
        assert ".bad" in daemon.log

    def test_an_unwritable_state_directory_is_no_reason_to_stop(
        self, start_daemon: StartDaemon, short_path: Path
    ) -> None:
        """Mail is decided as usual; the log has a warning."""
        (short_path / "file").write_text("")
        daemon = start_daemon(**LIMITED)
        shutil.rmtree(daemon.directory / "state")
        (daemon.directory / "state").symlink_to(short_path / "file" / "below")
        assert asked(daemon, 4) == ["DUNNO"] * 3 + [OVER_LIMIT]
        daemon.stop()
        assert "state" in daemon.log

    def test_the_control_socket_is_closed_to_others(self, start_daemon: StartDaemon) -> None:
        """Only the daemon's user and group may write counters."""
        daemon = start_daemon()
        wait_for_listener(daemon.control)
        assert stat.S_IMODE(daemon.control.stat().st_mode) == 0o660

    def test_sockets_left_behind_by_a_killed_daemon_are_no_obstacle(self, start_daemon: StartDaemon) -> None:
        """A daemon that was killed starts again on the same unix sockets."""
        daemon = start_daemon(**LIMITED)
        daemon.kill()
        daemon.start()
        assert asked(daemon, 4) == ["DUNNO"] * 3 + [OVER_LIMIT]

    def test_a_second_daemon_does_not_take_the_address(
        self, start_daemon: StartDaemon, make_daemon: StartDaemon
    ) -> None:
        """It ends with an error of one line that names the address, and the first one serves on."""
        port = free_port()
        start_daemon(**LIMITED, listen={"policy": [f"inet:127.0.0.1:{port}"]})
        second = make_daemon(**LIMITED, listen={"policy": [f"inet:127.0.0.1:{port}"]})
        second.launch()
        assert second.process.wait(timeout=30) != 0
        assert f"127.0.0.1:{port}" in second.log
        assert "Traceback" not in second.log
        second.expected_status = second.process.returncode
        with PolicyClient(port) as postfix:
            assert postfix.ask() == "DUNNO"

    def test_a_second_daemon_does_not_take_the_state_directory(
        self, start_daemon: StartDaemon, make_daemon: StartDaemon
    ) -> None:
        """It ends with an error of one line that names the directory; the counters of the first one are safe."""
        first, second = start_daemon(**LIMITED), make_daemon(**LIMITED)
        shutil.rmtree(second.directory / "state")
        (second.directory / "state").symlink_to(first.directory / "state")
        second.launch()
        second.expected_status = 69
        assert second.process.wait(timeout=30) == 69
        assert f"another daemon uses the state directory {second.directory / 'state'}" in second.log
        first.kill()
        second.start()

    @pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir], ids=["fifo", "directory"])
    def test_what_is_not_a_file_does_not_stop_the_start(
        self, make_daemon: StartDaemon, make: Callable[[Path], None]
    ) -> None:
        """Something else in the place of a state file is renamed, and counters are saved again."""
        daemon = make_daemon(**LIMITED)
        make(daemon.directory / "state" / "counters")
        daemon.start()
        asked(daemon, 3)
        daemon.stop()
        daemon.start()
        assert asked(daemon, 1) == [OVER_LIMIT]

    def test_localhost_stands_for_both_families(self, start_daemon: StartDaemon) -> None:
        """Postfix reaches `inet:localhost` by 127.0.0.1 or ::1, whichever it tries."""
        port = free_port()
        daemon = start_daemon(**LIMITED, listen={"policy": [f"inet:localhost:{port}"]})
        found = {address[0] for *_, address in socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)}
        for address in found:
            with socket.create_connection((str(address), port), timeout=30):
                pass
        eventually(lambda: all(str(address) in daemon.log for address in found), "the addresses in the log")

    def test_an_invalid_file_is_refused_at_start(self, make_daemon: StartDaemon) -> None:
        """Exit status 78 with every error and its key path."""
        daemon = make_daemon(mode="sometimes", exempt={"networks": ["192.0.2.300"]})
        daemon.launch()
        assert daemon.process.wait(timeout=30) == 78
        assert "mode" in daemon.log
        assert "exempt.networks" in daemon.log
        daemon.expected_status = 78

    def test_healthz_is_ready(self, start_daemon: StartDaemon) -> None:
        """The status listener shows a load balancer that the daemon serves."""
        port = free_port()
        start_daemon(**LIMITED, listen={"status": f"127.0.0.1:{port}"})
        assert fetched(port, "/healthz") == "ready"


class TestCommands:
    """The commands that talk to a running daemon."""

    def test_increment_get_and_reset(self, start_daemon: StartDaemon) -> None:
        """The counter is shown, raised and forgotten."""
        daemon = start_daemon(**LIMITED)
        asked(daemon, 1)
        assert daemon.run("increment", CLIENT, "--by", "2").returncode == 0
        assert asked(daemon, 1) == [OVER_LIMIT]
        (client,) = daemon.json("get", CLIENT)
        assert client == {
            "client": CLIENT, "count": 3, "deferred": 1, "score": 75, "reputation": "override",
            "tier": "71-80", "limit": 3, "left": 0,
        }  # fmt: skip
        assert daemon.run("reset", CLIENT).returncode == 0
        assert daemon.json("get", CLIENT)[0]["count"] == 0
        assert asked(daemon, 1) == ["DUNNO"]

    def test_reset_of_networks(self, start_daemon: StartDaemon) -> None:
        """All clients of a network that are counted are forgotten, after a restart of the daemon too; no others are."""
        daemon = start_daemon(**LIMITED)
        others = ["198.51.100.1", "2001:db8:1::1"]
        for address in ("203.0.113.1", "203.0.113.255", "2001:db8::1", *others):
            assert daemon.run("increment", address).returncode == 0
        daemon.terminate()
        daemon.wait_for("STOPPING=1")
        daemon.process.wait()
        daemon.start()
        assert daemon.run("increment", "2001:db8::1").returncode == 0
        reset = [each["client"] for each in daemon.json("reset", "203.0.113.0/24", "2001:db8::/48")]
        assert reset == ["203.0.113.1", "203.0.113.255", "2001:db8::/64"]
        counts = {each["client"]: each["count"] for each in daemon.json("get", *reset[:2], "2001:db8::1", *others)}
        assert counts == dict.fromkeys(reset, 0) | {"198.51.100.1": 1, "2001:db8:1::/64": 1}
        again = daemon.run("reset", "203.0.113.0/24")
        assert (again.returncode, "no client in 203.0.113.0/24 is counted" in again.stderr) == (64, True)

    def test_score_says_where_it_comes_from(self, start_daemon: StartDaemon) -> None:
        """An override costs no query."""
        daemon = start_daemon(**LIMITED)
        (answer,) = daemon.json("score", CLIENT)
        assert (answer["client"], answer["score"], answer["tier"], answer["limit"]) == (CLIENT, 75, "71-80", 3)
        assert answer["source"] == "override"

    def test_ask_prints_the_action(self, start_daemon: StartDaemon) -> None:
        """Each `ask` is a message of its own, as if Postfix had sent it."""
        port = free_port()
        daemon = start_daemon(**LIMITED, listen={"policy": [f"inet:127.0.0.1:{port}"]})
        answers = [daemon.run("ask", f"client_address={CLIENT}").stdout for _ in range(4)]
        assert answers == ["action=DUNNO\n"] * 3 + [f"action={OVER_LIMIT}\n"]
        assert daemon.json("ask", f"client_address={CLIENT}") == {"action": OVER_LIMIT}

    def test_ask_takes_an_endpoint(self, start_daemon: StartDaemon) -> None:
        """The endpoint is written as in Postfix's configuration."""
        daemon = start_daemon(**LIMITED)
        assert daemon.json("ask", "--endpoint", f"unix:{daemon.socket}") == {"action": "DUNNO"}

    @pytest.mark.parametrize("command", [["get", CLIENT], ["increment", CLIENT], ["reset", CLIENT], ["ask"]])
    def test_without_a_daemon_it_is_exit_69(self, make_daemon: StartDaemon, command: list[str]) -> None:
        """One line on stderr says what cannot be reached."""
        done = make_daemon(**LIMITED).run(*command)
        assert done.returncode == 69
        assert len(done.stderr.splitlines()) == 1

    @pytest.mark.parametrize("arguments", [["get"], ["get", "300.1.1.1"], ["increment", CLIENT, "--by", "x"], ["nope"]])
    def test_wrong_usage_is_exit_64(self, make_daemon: StartDaemon, arguments: list[str]) -> None:
        """Distinct from every failure of the daemon."""
        assert make_daemon().run(*arguments).returncode == 64


@pytest.mark.real
class TestSharedCounters:
    """Daemons that share a memcached."""

    def test_two_daemons_let_exactly_the_limit_through(
        self, start_daemon: StartDaemon, memcached: MemcachedServer
    ) -> None:
        """Of N + k messages sent at the same moment to two daemons exactly N pass."""
        shared = {
            "override": [{"networks": ["192.0.2.0/24"], "limit": 40}],
            "counters": {"store": "memcached", "servers": [memcached.address], "timeout": 10},
        }
        daemons = [start_daemon(**shared), start_daemon(**shared)]
        start = threading.Barrier(10)

        def smtpd(number: int) -> list[str]:
            with daemons[number % 2].client() as postfix:
                start.wait()
                return [postfix.ask() for _ in range(6)]

        with ThreadPoolExecutor(10) as smtpds:
            actions = [action for answers in smtpds.map(smtpd, range(10)) for action in answers]
        assert actions.count("DUNNO") == 40
        assert sum(action.startswith("421 ") for action in actions) == 20
        assert [daemon.json("get", CLIENT)[0]["count"] for daemon in daemons] == [40, 40]

    def test_the_commands_work_without_a_daemon(self, make_daemon: StartDaemon, memcached: MemcachedServer) -> None:
        """What memcached counts is there to read and change while no daemon runs."""
        servers = {"store": "memcached", "servers": [memcached.address]}
        daemon = make_daemon(**LIMITED, counters=servers)
        assert daemon.run("increment", CLIENT, "--by", "3").returncode == 0
        assert daemon.json("get", CLIENT)[0]["count"] == 3
        daemon.start()
        assert asked(daemon, 1) == [OVER_LIMIT]
        daemon.stop()
        assert daemon.run("reset", CLIENT).returncode == 0
        assert daemon.json("get", CLIENT)[0]["count"] == 0


@contextlib.contextmanager
def silent_nameserver() -> Iterator[tuple[socket.socket, str]]:
    """A nameserver's socket, to be answered from by hand, and its address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nameserver:
        nameserver.bind(("127.0.0.1", 0))
        nameserver.settimeout(30)
        yield nameserver, f"127.0.0.1:{nameserver.getsockname()[1]}"


def answer(nameserver: socket.socket, address: str) -> None:
    """Take the next query and answer it with an A record."""
    wire, peer = nameserver.recvfrom(4096)
    query = dns.message.from_wire(wire)
    response = dns.message.make_response(query)
    response.answer.append(dns.rrset.from_text(query.question[0].name, 10, "IN", "A", address))
    nameserver.sendto(response.to_wire(), peer)


def fetched(port: int, path: str) -> str:
    """A page of the status listener, which follows READY=1."""
    wait_for_listener(port)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as response:
        body: bytes = response.read()
        return body.decode().strip()
