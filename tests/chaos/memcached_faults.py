"""What may happen to memcached."""

import socket
import threading
import time

from load import Phase
from relay import Spoiler, garbage, half, honest, late
from target import CLIENTS, Site

from senderscore_policy.config.model import CounterSettings
from senderscore_policy.counters.memcached.protocol import BucketKeys


def killed(site: Site, seconds: float) -> None:
    """Killed and started again, empty, every two seconds."""
    for _ in range(max(1, int(seconds // 2))):
        site.memcached[0].kill()
        site.pass_time(1)
        site.memcached[0].start()
        site.pass_time(1)


def frozen(site: Site, seconds: float) -> None:
    """Twice it stops saying anything, and goes on later."""
    for _ in range(2):
        site.memcached[0].freeze()
        try:
            site.pass_time(seconds / 3)
        finally:
            site.memcached[0].thaw()
        site.pass_time(seconds / 6)


def frozen_in_turn(site: Site, seconds: float) -> None:
    """Each of the servers says nothing for a second, and has time to catch up before the next one's turn."""
    for server in site.memcached:
        server.freeze()
        try:
            site.pass_time(min(1.0, seconds / 7))
        finally:
            server.thaw()
        site.pass_time(4)


def _spoiled(site: Site, seconds: float, spoiler: Spoiler) -> None:
    site.relay.spoiler = spoiler
    site.pass_time(seconds)
    site.relay.spoiler = honest


def nonsense(site: Site, seconds: float) -> None:
    """Its answers are garbage."""
    _spoiled(site, seconds, garbage)


def slow(site: Site, seconds: float) -> None:
    """Every packet of an answer takes 0.1 s, which is within the timeout of 0.25 s."""
    _spoiled(site, seconds, late(0.1))


def too_slow(site: Site, seconds: float) -> None:
    """Every answer takes 0.4 s, which is beyond the timeout."""
    _spoiled(site, seconds, late(0.4))


def mid_reply(site: Site, seconds: float) -> None:
    """It closes the connection in the middle of each answer."""
    _spoiled(site, seconds, half)


def one_dies(site: Site, seconds: float) -> None:
    """The first of the servers is killed, and comes back empty."""
    site.memcached[0].kill()
    site.pass_time(seconds)
    site.memcached[0].start()


def out_of_memory(site: Site, seconds: float) -> None:
    """Another program fills it; it refuses rather than evicts (-M). At the end the counters are empty, too."""
    with socket.create_connection(("127.0.0.1", site.memcached[0].port)) as stranger:
        stranger.settimeout(10)
        # So that no counter is there yet, and each must be made.
        stranger.sendall(b"flush_all\r\n")
        assert stranger.recv(100) == b"OK\r\n"
        number = 0
        # Of every size, so that no class of memcached's slabs has room for a counter.
        for size in (2, 20, 50, 100):
            stored = b"STORED"
            while stored.startswith(b"STORED"):
                lines = b"".join(
                    b"set junk:%d 0 0 %d\r\n%b\r\n" % (number + each, size, b"1" * size) for each in range(100)
                )
                number += 100
                stranger.sendall(lines)
                stored = min(_lines(stranger, 100))
        stranger.sendall(b"add a-counter-of-a-client-would-be-so-long:3600.12:1234567 0 60 1\r\n0\r\n")
        assert stranger.recv(100).startswith(b"SERVER_ERROR out of memory")
        site.pass_time(seconds)
        stranger.sendall(b"flush_all\r\n")


def _lines(stranger: socket.socket, count: int) -> list[bytes]:
    data = b""
    while data.count(b"\r\n") < count:
        data += stranger.recv(65536)
    return data.splitlines()


def invalid(site: Site, seconds: float) -> None:
    """Somebody writes a word into one client's counter, again and again."""
    window = CounterSettings().window_of_time()
    stem = BucketKeys("ssp:", window).stem(CLIENTS[0])
    done = threading.Event()

    def poison() -> None:
        with socket.create_connection(("127.0.0.1", site.memcached[0].port)) as stranger:
            while not done.wait(0.05):
                key = b"%b%d" % (stem, window.view(time.time()).current)
                stranger.sendall(b"set %b 0 60 4 noreply\r\nword\r\n" % key)
            stranger.sendall(b"delete %b\r\n" % key)
            stranger.recv(100)

    thread = threading.Thread(target=poison)
    thread.start()
    try:
        site.pass_time(seconds)
    finally:
        done.set()
        thread.join()
    assert site.metric("store_invalid_keys_total") > 1
    assert site.record.answered[Phase.BEFORE][CLIENTS[0]]
