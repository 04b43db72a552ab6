"""What may happen to the daemon itself and to its host."""

import contextlib
import itertools
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from daemon_process import COMMAND
from postfix_server import Postfix
from target import Setting, Site, memcached
from waiting import eventually, free_port

HOUR: Final = 3600
FEW: Final = 120
"""Descriptors of a daemon that has few."""
RELOADS: Final = 100
STALLED: Final = 4900
FLOODS: Final = 50
FLOOD: Final = 256 * 1024
MOST_MEMORY: Final = 250
"""Megabytes of a daemon that is flooded."""
# The daemon, with half a second instead of a minute between two saves of its state.
_SAVING_OFTEN: Final = """
import sys
from senderscore_policy.server import state
state.SAVE_INTERVAL = 0.5
from senderscore_policy.cli import main
sys.exit(main())
"""


def small_disk(site: Site) -> None:
    """A state directory on a file system of 256 kB, saved twice a second."""
    state = site.directory / "state"
    state.mkdir()
    _mount(state, "-t", "tmpfs", "-o", "size=256k", "chaos")
    site.stack.callback(subprocess.run, ["umount", "--lazy", str(state)], check=True)
    site.command = [sys.executable, "-c", _SAVING_OFTEN]


def _mount(directory: Path, *options: str) -> None:
    subprocess.run(["mount", *options, str(directory)], check=True)


def disk_full(site: Site, seconds: float) -> None:
    """Not a byte is left."""
    junk = site.directory / "state" / "junk"
    with contextlib.suppress(OSError), junk.open("wb", buffering=0) as file:
        while file.write(b"0" * 4096):
            pass
    site.pass_time(seconds)
    junk.unlink()


def disk_read_only(site: Site, seconds: float) -> None:
    """The file system is remounted read-only, as the kernel does it after an error."""
    state = site.directory / "state"
    _mount(state, "-o", "remount,ro")
    try:
        site.pass_time(seconds)
    finally:
        _mount(state, "-o", "remount,rw")


def faked_clock(counters: Setting) -> Setting:
    """A daemon whose wall clock can be stepped (libfaketime); its monotonic clock stays right."""

    def setting(site: Site) -> None:
        counters(site)
        _set_clock(site, 0)
        site.environment = {
            "LD_PRELOAD": str(next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))),
            "FAKETIME_TIMESTAMP_FILE": str(site.directory / "clock"),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    return setting


def _set_clock(site: Site, offset: int) -> None:
    # At once: the daemon reads the file whenever it looks at the clock.
    new = site.directory / "clock.new"
    new.write_text(f"{offset:+d}\n")
    new.replace(site.directory / "clock")


def clock_steps(site: Site, seconds: float) -> None:
    """An hour ahead, back, an hour behind, and back."""
    for offset in (HOUR, 0, -HOUR, 0):
        _set_clock(site, offset)
        site.pass_time(seconds / 4)
        eventually(lambda offset=offset: _is_at(site, offset), "a request at the new time of the daemon's clock")


def _is_at(site: Site, offset: float) -> bool:
    """Whether the daemon's last request came at the time that its clock shows."""
    return abs(site.metric("last_request_timestamp_seconds") - offset - time.time()) < HOUR / 60


def few_descriptors(site: Site) -> None:
    """A daemon that may open 120 files, where it would serve 2,000 connections."""
    site.command = ["prlimit", f"--nofile={FEW}:{FEW}", str(COMMAND)]


@contextlib.contextmanager
def _strangers(site: Site, count: int) -> Iterator[None]:
    """A number of connections that ask nothing; every other one has begun a request."""
    with contextlib.ExitStack() as stack:
        for number in range(count):
            stranger = stack.enter_context(socket.socket(socket.AF_UNIX))
            stranger.connect(str(site.daemon.socket))
            if number % 2:
                with contextlib.suppress(OSError):  # closed already
                    stranger.send(b"request=smtpd_access_policy\n")
        yield


def without_uvloop(setting: Setting) -> Setting:
    """The daemon on Python's own event loop, which it uses where uvloop is not installed."""

    def plain(site: Site) -> None:
        setting(site)
        (site.directory / "hidden").mkdir()
        (site.directory / "hidden" / "uvloop.py").write_text("raise ImportError\n")
        site.environment["PYTHONPATH"] = str(site.directory / "hidden")

    return plain


def crowded(site: Site, seconds: float) -> None:
    """300 connections that do not ask."""
    with _strangers(site, 300):
        site.pass_time(seconds)


def stalled(site: Site, seconds: float) -> None:
    """4,900 connections on which nothing comes, or the beginning of a request."""
    with _strangers(site, STALLED):
        site.pass_time(seconds)


def floods(site: Site, seconds: float) -> None:
    """50 peers that each send 256 KiB of the smallest requests, read no reply, and stay until the daemon stops."""
    smallest = (b"a=\n\n", b"client_address=198.19.0.9\n\n", b"client_address=192.0.2.9\n\n", b"\n")
    for number in range(FLOODS):
        peer = site.stack.enter_context(socket.socket(socket.AF_UNIX))
        peer.connect(str(site.daemon.socket))
        peer.setblocking(False)
        request = smallest[number % len(smallest)]
        with contextlib.suppress(OSError):  # the daemon reads no more, or has closed the connection
            peer.send(request * (FLOOD // len(request)))
    site.pass_time(seconds)
    # Half a million requests take a busy machine longer than any other fault.
    eventually(lambda: site.health == "ready", "an answer of /healthz", 90)
    status = Path(f"/proc/{site.daemon.process.pid}/status").read_text()
    resident = int(status.split("VmHWM:")[1].split()[0]) // 1024
    assert resident < MOST_MEMORY, f"{resident} MB of memory"


def out_of_descriptors(site: Site, seconds: float) -> None:
    """Not a file more can be opened, while others try to connect and memcached is restarted."""
    pid = site.daemon.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = {int(descriptor.name) for descriptor in Path(f"/proc/{pid}/fd").iterdir()}
    first_free = next(number for number in itertools.count() if number not in used)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (first_free, hard))
    try:
        with _strangers(site, 50):
            site.pass_time(seconds / 2)
            site.memcached[0].kill()
            site.memcached[0].start()
            site.pass_time(seconds / 2)
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def reloads(site: Site, _seconds: float) -> None:
    """A hundred reloads; every third finds a mistake and every third another timeout of memcached."""
    good = site.tables
    other = good | {"counters": good["counters"] | {"timeout": 4}}
    wrong: dict[str, Any] = good | {"mode": "nonsense"}
    for number in range(RELOADS):
        site.daemon.reload(**(good, other, wrong)[number % 3])
        site.pass_time(0.02)
    taken = sum(number % 3 != 2 for number in range(RELOADS))
    assert site.metric("config_generation") == 1 + taken


def behind_postfix(site: Site) -> None:
    """A Postfix that asks the daemon over TCP, as the README says; counters in a memcached."""
    memcached()(site)
    port = free_port()
    site.tables["listen"]["policy"] = [f"unix:{site.directory}/policy.sock", f"inet:127.0.0.1:{port}"]
    site.postfix = Postfix.start(port)
    site.stack.callback(site.postfix.stop)


def sigkill(site: Site, seconds: float) -> None:
    """Killed again and again; started a second later."""
    for _ in range(max(1, int(seconds // 2))):
        site.daemon.kill()
        site.pass_time(1)
        site.daemon.start()
        site.pass_time(1)


def restarts(site: Site, seconds: float) -> None:
    """Restarted by its administrator, again and again."""
    for _ in range(max(1, int(seconds // 2))):
        site.daemon.stop()
        site.daemon.start()
        site.pass_time(1.5)
