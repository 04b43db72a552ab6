"""Other policy servers that Debian ships, set up to do the same: 800 messages an hour for each client address.

All run in the foreground on loopback, without their own logging where it can be turned off.
"""

import contextlib
import os
import pwd
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from servers import ENVIRONMENT, Server, find, started, started_in_background
from waiting import free_port, wait_for_listener

LIMIT: Final = 800

_RATE_LIMIT = """\
debug: False
user: "nobody"
group: "nogroup"
pidfile: "{directory}/run/pid"
backend: 0
sqlite_config:
    database: "{directory}/db/db.sqlite3"
SOCKET: ["127.0.0.1", {port}]
limits:
    - [{limit}, 3600]
limits_by_id: {{}}
limit_by_sasl: False
limit_by_sender: False
limit_by_ip: True
limited_networks: ["11.0.0.0/8"]
report: False
delay_to_close: 3600
"""

_POSTFWD = "id=RATE; action=rate(client_address/{limit}/3600/421 4.7.1 limited to {limit} messages an hour)\n"

_MTPOLICYD = """\
user=nobody
group=nogroup
pid_file="{directory}/mtpolicyd.pid"
log_level=0
host=127.0.0.1
port="127.0.0.1:{port}"
min_servers={servers}
min_spare_servers=1
max_spare_servers={servers}
max_servers={most_servers}
max_requests=1000000
keepalive_timeout=60
max_keepalive=0
<Connection db>
  module = "Sql"
  dsn = "dbi:mysql:database=policy;mysql_socket={directory}/mariadb/socket"
  user = "root"
</Connection>
<SessionCache>
  module = "None"
</SessionCache>
<VirtualHost {port}>
  name="quota"
  <Plugin quota>
    module = "Quota"
    field = "client_address"
    metric = "count"
    threshold = {limit}
    time_pattern = "%Y-%m-%d %H"
    action = "421 4.7.1 limited to {limit} messages an hour"
  </Plugin>
  <Plugin accounting>
    module = "Accounting"
    fields = "client_address"
    time_pattern = "%Y-%m-%d %H"
  </Plugin>
</VirtualHost>
"""


@dataclass(frozen=True)
class Peer:
    """Another policy server.

    Args:
        name: as people know it, with its store.
        packages: of Debian.
        programs: all must be there.
        start: serves in a directory of its own, for a number of connections.
        state: the protocol_state that it counts at.
        shared: it keeps its counters outside its process, so that several servers can share them.
    """

    name: str
    packages: tuple[str, ...]
    programs: tuple[str, ...]
    start: Callable[[Path, int], AbstractContextManager[Server]]
    state: str = "END-OF-MESSAGE"
    shared: bool = True

    @property
    def missing(self) -> list[str]:
        """Programs that are not installed."""
        return [program for program in self.programs if find(program) is None]


@contextlib.contextmanager
def policyd_rate_limit(directory: Path, _connections: int) -> Iterator[Server]:
    """policyd-rate-limit with its default store, SQLite."""
    port = free_port()
    for name in ("run", "db"):
        _make_for_nobody(directory / name)
    config = directory / "policyd-rate-limit.yaml"
    config.write_text(_RATE_LIMIT.format(directory=directory, port=port, limit=LIMIT), encoding="ascii")
    with started(["policyd-rate-limit", "--file", str(config)], port, directory / "log") as server:
        yield server


@contextlib.contextmanager
def postfwd2(directory: Path, connections: int) -> Iterator[Server]:
    """postfwd2, which counts in the memory of its cache process."""
    port = free_port()
    rules = directory / "postfwd.cf"
    rules.write_text(_POSTFWD.format(limit=LIMIT), encoding="ascii")
    command = ["postfwd2", "--file", str(rules), "--interface", "127.0.0.1", "--port", str(port)]
    command += ["--cache_port", str(free_port()), "--user", "nobody", "--group", "nogroup"]
    command += ["--pidfile", str(directory / "pid"), "--nodns", "--perfmon", "--cache", "0"]
    command += ["--min_servers", "10", "--max_servers", str(connections + 100)]
    with started_in_background(command, port, directory / "pid", directory / "log") as server:
        yield server


@contextlib.contextmanager
def mtpolicyd(directory: Path, connections: int) -> Iterator[Server]:
    """mtpolicyd with its quota in MariaDB, both with their defaults."""
    port = free_port()
    _make_for_nobody(directory)
    config = directory / "mtpolicyd.conf"
    servers = connections + 5
    text = _MTPOLICYD.format(directory=directory, port=port, limit=LIMIT, servers=servers, most_servers=servers + 5)
    config.write_text(text, encoding="ascii")
    with (
        _mariadb(directory / "mariadb"),
        started(
            ["mtpolicyd", "--foreground", "--config", str(config)],
            port,
            directory / "log",
            group=True,
        ) as server,
    ):
        yield server


PEERS: Final = (
    Peer(
        "policyd-rate-limit, SQLite",
        ("policyd-rate-limit",),
        ("policyd-rate-limit",),
        policyd_rate_limit,
        state="RCPT",
    ),
    Peer("postfwd2, memory", ("postfwd",), ("postfwd2",), postfwd2, shared=False),
    Peer(
        "mtpolicyd, MariaDB",
        ("mtpolicyd", "mariadb-server-core", "mariadb-client-core", "libdbd-mysql-perl"),
        ("mtpolicyd", "mariadbd", "mariadb-install-db", "mariadb"),
        mtpolicyd,
    ),
)


@contextlib.contextmanager
def _mariadb(directory: Path) -> Iterator[None]:
    """A MariaDB with an empty database "policy", on a unix socket."""
    data, log, endpoint = directory / "data", directory / "log", directory / "socket"
    _make_for_nobody(directory)
    _make_for_nobody(data)
    user = ["--user=nobody"] if os.geteuid() == 0 else []
    subprocess.run(
        ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal", *user],
        env=ENVIRONMENT,
        capture_output=True,
        check=True,
    )
    command = ["mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={endpoint}", "--skip-networking", *user]
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=output, stderr=output)
    try:
        wait_for_listener(endpoint)
        client = ["mariadb", "--no-defaults", f"--socket={endpoint}", "--user=root"]
        subprocess.run([*client, "--execute=CREATE DATABASE policy"], env=ENVIRONMENT, check=True)
        yield
    finally:
        process.terminate()
        process.wait()


def _make_for_nobody(directory: Path) -> None:
    """Make the directory, to be written by the user that servers give root's rights up for."""
    directory.mkdir(exist_ok=True)
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(directory, nobody.pw_uid, nobody.pw_gid)
