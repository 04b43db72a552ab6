"""The commands while no daemon runs: they use memcached and DNS directly."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_fakes import Memcached, Nameserver, Run, running

Configure = Callable[..., list[str]]


@pytest.fixture
def memcached() -> Iterator[Memcached]:
    """A memcached."""
    with running(Memcached()) as server:
        yield server


@pytest.fixture
def nameserver() -> Iterator[Nameserver]:
    """A name server of a zone in which every client has the score 42."""
    with running(Nameserver()) as server:
        yield server


@pytest.fixture
def configure(place: Path, nameserver: Nameserver) -> Configure:
    """Writes the configuration with these memcached servers (none: memory), and returns the arguments that name it."""

    def write(*servers: int, replicas: int = 1) -> list[str]:
        text = f"""
listen.control = "{place}/control.sock"
reputation = {{ zone = "score.test", nameservers = ["127.0.0.1:{nameserver.server_address[1]}"], deadline = 30 }}
override = [{{ networks = ["192.0.2.0/24"], limit = 500 }}]
"""
        if servers:
            names = json.dumps([f"127.0.0.1:{port}" for port in servers])
            text += f'counters = {{ store = "memcached", servers = {names}, replicas = {replicas}, timeout = 10 }}\n'
        (place / "policy.toml").write_text(text)
        return ["-c", str(place / "policy.toml")]

    return write


def port(server: Memcached) -> int:
    """The port of a server."""
    return int(server.server_address[1])


def closed_port() -> int:
    """A port without a server."""
    server = Memcached()
    server.server_close()
    return port(server)


def test_memcached_is_read_and_changed(run: Run, configure: Configure, memcached: Memcached) -> None:
    """The counters of daemons are there without them; only a daemon knows how many messages were deferred."""
    here = configure(port(memcached))
    assert run("increment", "192.0.2.75", "--by", "3", *here)[0] == 0
    status, out, err = run("get", "--json", "192.0.2.75", "198.51.100.1", *here)
    assert (status, err) == (0, "")
    assert json.loads(out) == [
        {
            "client": "192.0.2.75", "count": 3, "deferred": 0, "score": None, "reputation": "override",
            "tier": "override", "limit": 500, "left": 497,
        },
        {
            "client": "198.51.100.1", "count": 0, "deferred": 0, "score": None, "reputation": "not-asked",
            "tier": "not-asked", "limit": 100, "left": 100,
        },
    ]  # fmt: skip
    status, out, err = run("reset", "192.0.2.75", *here)
    assert status == 0
    assert "follow within 60 s" in out
    assert json.loads(run("get", "--json", "192.0.2.75", *here)[1])[0]["count"] == 0


def test_get_shows_a_score_that_daemons_share(
    run: Run, configure: Configure, memcached: Memcached, nameserver: Nameserver
) -> None:
    """`get` shows a score only if it is known, and asks no question."""
    here = configure(port(memcached))
    memcached.items[b"ssp:s:198.51.100.7"] = b"88:%d:score.test" % time.time()
    [client] = json.loads(run("get", "--json", "198.51.100.7", *here)[1])
    assert (client["score"], client["reputation"], client["tier"], client["limit"]) == (88, "scored", "81-90", 900)
    assert nameserver.questions == []


@pytest.mark.parametrize("command", ["get", "increment", "reset"])
def test_memcached_down_is_69(run: Run, configure: Configure, command: str) -> None:
    """One line that names the server and the reason."""
    dead = closed_port()
    status, out, err = run(command, "192.0.2.75", *configure(dead))
    assert (status, out) == (69, "")
    assert err == f"senderscore-policy: no daemon is running, nor memcached: 127.0.0.1:{dead} Connection refused\n"


def test_one_memcached_of_two_is_enough(run: Run, configure: Configure, memcached: Memcached) -> None:
    """As a daemon does, a command counts on the servers that are up."""
    here = configure(closed_port(), port(memcached), replicas=2)
    status, out, err = run("increment", "--json", "192.0.2.75", *here)
    assert (status, err) == (0, "")
    assert json.loads(out)[0]["count"] == 1


def test_a_score_is_looked_up(run: Run, configure: Configure, nameserver: Nameserver) -> None:
    """Also with counters in memory; the source is DNS."""
    status, out, err = run("score", "--json", "198.51.100.7", *configure())
    assert (status, err) == (0, "")
    assert json.loads(out) == [
        {
            "client": "198.51.100.7", "score": 42, "reputation": "scored", "tier": "41-50", "limit": 500,
            "source": "dns", "age": 0, "detail": "",
        }
    ]  # fmt: skip
    assert nameserver.questions == ["7.100.51.198.score.test."]


def test_an_override_costs_no_query(run: Run, configure: Configure, nameserver: Nameserver) -> None:
    """The source is "override", without an age."""
    status, out, _ = run("score", "192.0.2.75", *configure())
    assert status == 0
    assert out.splitlines()[1].split() == ["192.0.2.75", "-", "override", "override", "500", "override", "-"]
    assert json.loads(run("score", "--json", "192.0.2.75", *configure())[1])[0]["age"] is None
    assert nameserver.questions == []


def test_a_looked_up_score_is_shared(
    run: Run, configure: Configure, memcached: Memcached, nameserver: Nameserver
) -> None:
    """The next lookup of this site, by whatever daemon or command, costs no query."""
    here = configure(port(memcached))
    assert json.loads(run("score", "--json", "198.51.100.7", *here)[1])[0]["source"] == "dns"
    assert json.loads(run("score", "--json", "198.51.100.7", *here)[1])[0]["source"] == "cache"
    assert len(nameserver.questions) == 1


def test_a_network_must_be_counted_as_one_client(run: Run, configure: Configure, memcached: Memcached) -> None:
    """`reset` and `get` act on exactly the network that they name, or refuse it."""
    here = configure(port(memcached))
    assert run("increment", "2001:db8::25", "--by", "7", *here)[0] == 0
    assert json.loads(run("get", "--json", "2001:db8::/64", *here)[1])[0]["count"] == 7
    for command in ("get", "reset"):
        status, out, err = run(command, "2001:db8::/32", *here)
        assert (status, out) == (64, "")
        assert err.startswith("senderscore-policy: 2001:db8::/32 is not counted as one client")
    assert json.loads(run("get", "--json", "2001:db8::25", *here)[1])[0]["count"] == 7


def test_a_lookup_that_failed_is_69_with_its_reason(run: Run, file: Path) -> None:
    """In text and JSON; the scores of the other clients are shown, too."""
    here = ["-c", str(file)]
    status, out, err = run("score", "198.51.100.7", "192.0.2.75", *here)
    assert (status, err) == (69, "")
    assert "192.0.2.75" in out
    assert "\n198.51.100.7 unavailable: " in out
    assert "senderscore-policy doctor" in out
    status, out, _ = run("score", "--json", "198.51.100.7", *here)
    assert status == 69
    assert json.loads(out)[0]["reputation"] == "unavailable"
    assert json.loads(out)[0]["detail"]
