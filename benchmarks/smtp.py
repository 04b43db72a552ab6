"""Messages through a real Postfix, with the policy check, with one that does nothing, and without any."""

import contextlib
import os
import pwd
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from bench import Bench
from servers import PATH, always_dunno, find, free_port, memcached, wait_for_listener

SESSIONS: Final = 20
SIZE: Final = 5_000
"""Bytes of a message."""
NEEDED: Final = ("postfix", "smtp-source")
_ROOT: Final = [] if os.geteuid() == 0 else ["sudo", "-n"]

_MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {directory}/queue
data_directory = {directory}/data
maillog_file = {directory}/mail.log
maillog_file_prefixes = {directory}
inet_interfaces = 127.0.0.1
myhostname = mx.example.org
mydestination =
mynetworks =
alias_maps =
relay_domains = example.org
relay_transport = discard:
default_transport = discard:
smtpd_peername_lookup = no
smtpd_relay_restrictions = reject_unauth_destination
smtpd_client_event_limit_exceptions = static:all
default_process_limit = 200
in_flow_delay = 0
checked = check_policy_service {{ inet:127.0.0.1:{policy}, timeout=5s, try_limit=1, default_action=DUNNO }}
waved_through = check_policy_service {{ inet:127.0.0.1:{baseline}, timeout=5s, try_limit=1, default_action=DUNNO }}
"""

_MASTER_CF = """\
127.0.0.1:{plain} inet n - n - - smtpd
127.0.0.1:{checked} inet n - n - - smtpd
  -o {{ smtpd_end_of_data_restrictions = $checked }}
127.0.0.1:{waved_through} inet n - n - - smtpd
  -o {{ smtpd_end_of_data_restrictions = $waved_through }}
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
proxymap  unix  - - n - - proxymap
error     unix  - - n - - error
discard   unix  - - n - - discard
anvil     unix  - - n - 1 anvil
postlog   unix-dgram n - n - 1 postlogd
"""


@dataclass(frozen=True)
class Messages:
    """Messages a second through smtpd.

    Args:
        without: the check.
        checked: by the daemon, which counts in memcached.
        waved_through: by a server that parses nothing: what asking any policy server costs.
    """

    without: float
    checked: float
    waved_through: float


def missing() -> list[str]:
    """Programs that are not installed."""
    return [program for program in NEEDED if find(program) is None]


def postfix(bench: Bench) -> Messages:
    """All three ways in turns; the medians.

    The client is 127.0.0.1, so the exemption of loopback is taken away and a limit given that is never reached.
    """
    tables = {
        "exempt": {"networks": []},
        "override": [{"networks": ["127.0.0.0/8"], "limit": 100_000_000}],
    }
    with (
        bench.directory() as directory,
        memcached(directory) as store,
        bench.daemon(directory, store, **tables) as daemon,
        always_dunno(directory) as baseline,
        _postfix(directory / "postfix", daemon.port, baseline.port) as ports,
    ):
        for port in ports:
            _send(port, bench.plan.messages // 4)
        rounds = [[_send(port, bench.plan.messages) for port in ports] for _ in range(4 * bench.plan.rounds)]
    return Messages(*map(median, zip(*rounds, strict=True)))


@contextlib.contextmanager
def _postfix(directory: Path, policy: int, baseline: int) -> Iterator[list[int]]:
    """A Postfix of its own: the ports of an smtpd without a check, and of one with each of the two."""
    ports = [free_port() for _ in range(3)]
    for path in (directory, directory / "queue", directory / "data"):
        path.mkdir()
    main = _MAIN_CF.format(directory=directory, policy=policy, baseline=baseline)
    (directory / "main.cf").write_text(main, encoding="ascii")
    master = _MASTER_CF.format(**dict(zip(("plain", "checked", "waved_through"), ports, strict=True)))
    (directory / "master.cf").write_text(master, encoding="ascii")
    _as_root("chown", "-R", "root:root", str(directory))
    _as_root("chown", str(pwd.getpwnam("postfix").pw_uid), str(directory / "data"))
    _as_root("postfix", "-c", str(directory), "start")
    try:
        for port in ports:
            wait_for_listener(port)
        yield ports
    finally:
        _as_root("postfix", "-c", str(directory), "stop")
        _as_root("rm", "-rf", str(directory))


def _send(port: int, messages: int) -> float:
    """Messages a second, each over a connection of its own."""
    source = find("smtp-source")
    assert source is not None
    command = [source, "-s", str(SESSIONS), "-m", str(messages), "-l", str(SIZE)]
    command += ["-f", "sender@example.net", "-t", "user@example.org", f"127.0.0.1:{port}"]
    begin = time.monotonic()
    subprocess.run(command, check=True)
    return messages / (time.monotonic() - begin)


def _as_root(*command: str) -> None:
    subprocess.run([*_ROOT, *command], env={"PATH": PATH}, check=True, capture_output=True, timeout=60)
