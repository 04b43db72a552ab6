"""A real rbldnsd on loopback that serves score zones."""

import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import dns.exception
import dns.message
import dns.query

RBLDNSD = shutil.which("rbldnsd", path="/usr/sbin:/usr/bin:/sbin:/bin")
EVERYBODY = "0-255"
"""All clients, as rbldnsd writes it: it knows no network shorter than /8."""
_SOA = "$SOA 10 ns.test admin.test 0 600 300 86400 10\n$NS 10 ns.test\n"


class Rbldnsd(NamedTuple):
    """Where the server listens; UDP only."""

    host: str
    port: int


@contextlib.contextmanager
def rbldnsd(zones: Mapping[str, Mapping[str, str]]) -> Iterator[Rbldnsd]:
    """Serve these zones.

    Args:
        zones: for each zone's name the answer (an A record) by client: an address, a network of /8 or
            longer, or `EVERYBODY`.
    """
    assert RBLDNSD, "rbldnsd is not installed"
    with tempfile.TemporaryDirectory(prefix="ssp-rbldnsd-") as directory:
        # rbldnsd gives up root's rights before it reads the zones.
        Path(directory).chmod(0o755)
        arguments = []
        for number, (zone, answers) in enumerate(zones.items()):
            lines = (f"{client} :{answer}:\n" for client, answer in answers.items())
            (Path(directory) / str(number)).write_text(_SOA + "".join(lines), encoding="ascii")
            arguments.append(f"{zone}:ip4set:{number}")
        address = Rbldnsd("127.0.0.1", _free_udp_port())
        command = [RBLDNSD, "-n", "-q", "-w", directory, "-b", f"{address.host}/{address.port}", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            _wait_until_it_answers(process, address, next(iter(zones)))
            yield address
        finally:
            process.terminate()
            process.communicate(timeout=10)


def _free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_it_answers(process: "subprocess.Popen[str]", address: Rbldnsd, zone: str) -> None:
    """Ask for the SOA until there is an answer; each try waits for one, so this does not spin."""
    query = dns.message.make_query(zone, "SOA")
    for _ in range(100):
        if process.poll() is not None:
            raise AssertionError(f"rbldnsd ended: {process.stderr and process.stderr.read()}")
        with contextlib.suppress(dns.exception.Timeout):
            dns.query.udp(query, address.host, port=address.port, timeout=0.1)
            return
    raise AssertionError("rbldnsd does not answer")
