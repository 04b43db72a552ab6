"""Counters in a real memcached, and what happens to them when it dies, hangs or holds nonsense."""

import asyncio
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memcached_server import MemcachedServer
from pymemcache.client.base import Client

from senderscore_policy.config.endpoints import Inet
from senderscore_policy.config.model import CounterSettings
from senderscore_policy.counters.memcached.store import MemcachedCounters
from senderscore_policy.counters.memory import MemoryStore
from senderscore_policy.policy.ports import Charge

pytestmark = pytest.mark.real

StartMemcached = Callable[..., MemcachedServer]


class StillClock:
    """Time that a test moves; memcached itself goes by the machine's clock, within a counter's lifetime."""

    def __init__(self) -> None:
        self.now = 1_000_300.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class Watcher:
    """A store's observer that counts."""

    def __init__(self) -> None:
        self.invalid = 0
        self.round_trips = 0

    def round_trip(self, _seconds: float, _commands: int, _ok: bool) -> None:
        self.round_trips += 1

    def invalid_key(self) -> None:
        self.invalid += 1


class Site:
    """Servers, and the counters of daemons that share them."""

    def __init__(self, *servers: MemcachedServer, **settings: Any) -> None:
        endpoints = tuple(Inet("127.0.0.1", server.port) for server in servers)
        # On a busy machine no answer may be late by accident.
        self.settings = CounterSettings(store="memcached", servers=endpoints, **({"timeout": 20.0} | settings))
        self.clock = StillClock()
        self.watcher = Watcher()
        self.daemons: list[MemcachedCounters] = []

    def daemon(self) -> MemcachedCounters:
        local = MemoryStore(self.settings.window_of_time(), self.clock)
        self.daemons.append(MemcachedCounters(self.settings, local, self.clock, self.watcher, probe_interval=0.01))
        return self.daemons[-1]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for daemon in self.daemons:
            await daemon.close()


async def count(counters: MemcachedCounters, *clients: str) -> list[int]:
    """Count a message of each; the counts."""
    charges = [Charge(client, 1) for client in clients]
    await counters.charge(charges, [])
    return [charge.count for charge in charges]


async def until(counters: MemcachedCounters, state: str) -> None:
    """Wait for the state to begin so."""
    while not counters.cluster.state.startswith(state):  # noqa: ASYNC110 - there is nothing to wait on
        await asyncio.sleep(0.01)


async def until_caught_up(counters: MemcachedCounters) -> None:
    """Wait until no server has to catch up."""
    await until(counters, "ok")
    while counters.lagging:  # noqa: ASYNC110 - nobody else wants to be told
        await asyncio.sleep(0.01)


@contextmanager
def somebody_else(server: MemcachedServer) -> Iterator[Client]:
    """A stranger's connection to the memcached."""
    client = Client(("127.0.0.1", server.port), timeout=20, connect_timeout=20, default_noreply=False)
    try:
        yield client
    finally:
        client.close()


async def accepted(counters: MemcachedCounters, limit: int, batches: int, size: int) -> int:
    """How many messages of a client pass the limit, sent in batches at once; what is over it is given back."""
    passed = 0

    async def send() -> None:
        nonlocal passed
        charges = [Charge("192.0.2.1", 1) for _ in range(size)]
        await counters.charge(charges, [])
        over = [charge for charge in charges if charge.count > limit]
        passed += size - len(over)
        await counters.charge([], over)

    await asyncio.gather(*(send() for _ in range(batches)))
    return passed


def uvloop_loop() -> asyncio.AbstractEventLoop:
    """A loop of uvloop, where it is installed."""
    loop: asyncio.AbstractEventLoop = pytest.importorskip("uvloop").new_event_loop()
    return loop


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop_loop])
@pytest.mark.parametrize("daemons", [1, 2])
def test_exactly_the_limit_passes(
    memcached: MemcachedServer, daemons: int, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Of many more concurrent messages exactly 100 pass a limit of 100, on one daemon or on two."""

    async def test() -> None:
        async with Site(memcached) as site:
            sites = [site.daemon() for _ in range(daemons)]
            passed = await asyncio.gather(*(accepted(counters, 100, 30, 7) for counters in sites))
            assert sum(passed) == 100
            assert (await sites[0].read(["192.0.2.1"]))[0].count == 100
            assert await count(sites[-1], "192.0.2.1") == [101]

    # The hook for coroutine tests knows one loop.
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(test())


async def test_never_more_than_the_limit_with_two_replicas(start_memcached: StartMemcached) -> None:
    """Also while two daemons count on two servers at once."""
    async with Site(start_memcached(), start_memcached(), replicas=2) as site:
        passed = await asyncio.gather(*(accepted(site.daemon(), 100, 30, 7) for _ in range(2)))
        assert 0 < sum(passed) <= 100


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("advance"), st.integers(1, 4000)),
        st.tuples(
            st.just("charge"),
            st.lists(st.tuples(st.sampled_from(["192.0.2.1", "2001:db8::/64"]), st.integers(1, 5)), max_size=4),
        ),
        st.tuples(st.just("refund"), st.integers(0, 3)),
        st.tuples(st.just("reset"), st.none()),
    ),
    max_size=25,
)


@pytest.fixture
def pair(start_memcached: StartMemcached) -> tuple[MemcachedServer, MemcachedServer]:
    """Two memcached servers for all examples of a test."""
    return start_memcached(), start_memcached()


@given(STEPS, st.sampled_from([(3600, 12), (3600, 0), (60, 2)]), st.sampled_from([1, 2]))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_memcached_counts_as_the_memory_does(
    pair: tuple[MemcachedServer, MemcachedServer], steps: list[tuple[str, Any]], window: tuple[int, int], replicas: int
) -> None:
    """Both stores give the same counts, whatever happens in whatever order and however many servers there are."""
    seconds, buckets = window
    algorithm = "sliding" if buckets else "fixed"
    shape = {"window": seconds, "algorithm": algorithm, "buckets": buckets or 12, "replicas": replicas}

    # Hypothesis runs no coroutines.
    async def test() -> None:
        async with Site(*pair, key_prefix=f"{uuid.uuid4().hex}:", **shape) as site:
            shared = site.daemon()
            memory = MemoryStore(site.settings.window_of_time(), site.clock)
            last: list[tuple[Charge, Charge]] = []
            for step, value in steps:
                if step == "advance":
                    site.clock.now += value
                    last = []
                elif step == "charge":
                    last = [(Charge(*each), Charge(*each)) for each in value]
                    for number, store in enumerate((shared, memory)):
                        await store.charge([each[number] for each in last], [])
                    assert all(first.count == second.count for first, second in last)
                elif step == "refund":
                    for number, store in enumerate((shared, memory)):
                        await store.charge([], [each[number] for each in last[:value]])
                    last = last[value:]
                else:
                    for store in (shared, memory):
                        await store.reset(["192.0.2.1"])
                    last = []
            clients = ["192.0.2.1", "192.0.2.9", "2001:db8::/64"]
            assert await shared.read(clients) == await memory.read(clients)
            assert shared.cluster.state == "ok"

    asyncio.run(test())


@pytest.mark.parametrize("per_batch", [1, 2000])
async def test_large_and_small_batches_of_new_clients(memcached: MemcachedServer, per_batch: int) -> None:
    """Two thousand clients with twelve buckets each are 24,000 keys in one round trip."""
    clients = [f"10.0.{n // 250}.{n % 250}" for n in range(per_batch)]
    async with Site(memcached) as site:
        counters = site.daemon()
        for _ in range(3):
            assert await count(counters, *clients) == [1] * per_batch
            site.clock.now += 7200
        for expected in (1, 2):
            assert await count(counters, *clients) == [expected] * per_batch
        assert site.watcher.round_trips == 5


async def test_memcached_dies_and_comes_back(memcached: MemcachedServer) -> None:
    """The daemon counts by itself at once, from zero, and returns by itself to counters that start at zero."""
    async with Site(memcached) as site:
        counters = site.daemon()
        assert await count(counters, *["192.0.2.1"] * 5) == [1, 2, 3, 4, 5]
        memcached.kill()
        assert await count(counters, "192.0.2.1", "192.0.2.1") == [1, 2]
        assert counters.cluster.state.startswith(f"degraded: memcached {memcached.address} ")
        assert await count(counters, "192.0.2.1") == [3]
        memcached.start()
        await until(counters, "ok")
        assert await count(counters, "192.0.2.1", "192.0.2.1") == [1, 2]


async def test_a_restart_between_two_messages_is_no_failure(memcached: MemcachedServer) -> None:
    """The lost connection is noticed before anything is sent over it."""
    async with Site(memcached) as site:
        counters = site.daemon()
        assert await count(counters, "192.0.2.1", "192.0.2.1") == [1, 2]
        memcached.kill()
        memcached.start()
        for _ in range(3):
            # The event loop reads what has arrived.
            await asyncio.sleep(0)
        assert await count(counters, "192.0.2.1") == [1]
        assert counters.cluster.state == "ok"


async def test_a_memcached_that_hangs_costs_one_timeout(memcached: MemcachedServer) -> None:
    """Then the daemon counts by itself, until memcached answers again; nothing is sent twice."""
    async with Site(memcached) as patient, Site(memcached, timeout=0.2) as hasty:
        counters, other = hasty.daemon(), patient.daemon()
        assert await count(other, "192.0.2.1") == [1]
        memcached.freeze()
        try:
            assert await count(counters, "192.0.2.1", "192.0.2.1") == [1, 2]
            assert counters.cluster.state == f"degraded: memcached {memcached.address} no answer within 0.2 s"
            assert await count(counters, "192.0.2.1") == [3]
        finally:
            memcached.thaw()
        await until(counters, "ok")
        [messages] = await count(other, "192.0.2.1")
        # The batch that timed out was counted once it woke up, or not at all.
        assert messages in {2, 4}


@pytest.mark.parametrize("replicas", [1, 2])
async def test_one_of_two_servers_dies(start_memcached: StartMemcached, replicas: int) -> None:
    """With two replicas nothing is forgotten, not even when the other one dies after the first is back."""
    servers = [start_memcached(), start_memcached()]
    clients = [f"192.0.2.{n}" for n in range(50)]
    async with Site(*servers, replicas=replicas) as site:
        counters = site.daemon()
        await count(counters, *clients)
        assert await count(counters, *clients) == [2] * 50
        servers[0].kill()
        third = await count(counters, *clients)
        fourth = await count(counters, *clients)
        if replicas == 1:
            assert set(third) == {1, 3}
            assert sorted(fourth) == [1] * third.count(1) + [4] * third.count(3)
            return
        assert (set(third), set(fourth)) == ({3}, {4})
        servers[0].start()
        await until(counters, "ok")
        assert await count(counters, *clients) == [5] * 50
        await until_caught_up(counters)
        servers[1].kill()
        assert await count(counters, *clients) == [6] * 50


async def test_closed_buckets_survive_on_the_other_replica(start_memcached: StartMemcached) -> None:
    """A server that comes back empty gets what was counted before it died, too."""
    servers = [start_memcached(), start_memcached()]
    async with Site(*servers, replicas=2) as site:
        counters = site.daemon()
        await count(counters, *["192.0.2.1"] * 10)
        site.clock.now += 900
        assert await count(counters, "192.0.2.1") == [11]
        servers[0].kill()
        assert await count(counters, "192.0.2.1") == [12]
        servers[0].start()
        await until(counters, "ok")
        assert await count(counters, "192.0.2.1") == [13]
        assert await count(counters, "192.0.2.1") == [14]
        await until_caught_up(counters)
        servers[1].kill()
        assert await count(counters, "192.0.2.1") == [15]
        assert (await counters.read(["192.0.2.1"]))[0].buckets == {3334: 10, 3337: 5}


@pytest.mark.parametrize(
    "poison",
    [b"hello", b"", b"END\r\nVALUE k 0 1\r\n7", b"-5", b"x" * 500_000],
    ids=["word", "empty", "reply", "negative", "large"],
)
async def test_an_invalid_key_harms_itself_alone(memcached: MemcachedServer, poison: bytes) -> None:
    """Whatever somebody wrote there: it is deleted, and the other clients of the batch are counted on."""
    async with Site(memcached) as site:
        counters = site.daemon()
        assert await count(counters, "192.0.2.1", "192.0.2.2") == [1, 1]
        with somebody_else(memcached) as stranger:
            stranger.set("ssp:192.0.2.1:3600.12:3334", poison)
            stranger.set("ssp:192.0.2.3:3600.12:3330", poison)
        assert await count(counters, "192.0.2.1", "192.0.2.2", "192.0.2.3") == [1, 2, 1]
        assert site.watcher.invalid == 2
        assert await count(counters, "192.0.2.1", "192.0.2.2", "192.0.2.3") == [1, 3, 2]
        with somebody_else(memcached) as stranger:
            assert stranger.get("ssp:192.0.2.3:3600.12:3330") is None
        assert counters.cluster.state == "ok"


async def test_counters_of_the_longest_window_live_as_long(memcached: MemcachedServer) -> None:
    """Memcached would take 28 days and two buckets, in seconds, for a date long past."""
    async with Site(memcached, window=2_419_200) as site:
        counters = site.daemon()
        # Here memcached's own clock matters.
        site.clock.now = time.time()
        assert await count(counters, "192.0.2.1") == [1]
        assert await count(counters, "192.0.2.1") == [2]
    with socket.create_connection(("127.0.0.1", memcached.port), timeout=20) as connection:
        index = int(site.clock.now // 201_600)
        connection.sendall(b"mg ssp:192.0.2.1:2419200.12:%d t v\r\n" % index)
        reply = connection.recv(100)
    assert reply.startswith(b"VA 1 t")
    assert abs(int(reply.split()[2][1:]) - (2_419_200 + 2 * 201_600)) < 600


async def test_texts_and_counters_share_the_servers(start_memcached: StartMemcached) -> None:
    """Scores find their way through memcached between batches; they are away while it is."""
    server = start_memcached()
    async with Site(server) as site:
        counters = site.daemon()
        texts = counters.scores
        await texts.put("192.0.2.75", "scored:75", 86400)
        found = await asyncio.gather(*(texts.get("192.0.2.75") for _ in range(10)), count(counters, "192.0.2.75"))
        assert found == ["scored:75"] * 10 + [[1]]
        assert await counters.cluster.evictions() == 0
        server.kill()
        assert await texts.get("192.0.2.75") is None
        await texts.put("192.0.2.75", "scored:75", 86400)
        assert await counters.cluster.evictions() is None


async def test_an_evicted_counter_is_noticed(start_memcached: StartMemcached) -> None:
    """A memcached that is too small forgets clients, and says how many items it threw out."""
    server = start_memcached("-m", "2")
    async with Site(server) as site:
        counters = site.daemon()
        for n in range(40):
            await count(counters, *(f"10.{n}.{m // 250}.{m % 250}" for m in range(1000)))
        assert (await counters.cluster.evictions() or 0) > 0
        assert counters.cluster.state == "ok"


def certificates(directory: Path) -> None:
    """A certification authority (ca), and what it has certified: server and client."""
    # Memcached does not run as root.
    for place in (directory, *directory.parents[:2]):
        place.chmod(0o755)
    openssl = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for name in ("ca", "server", "client"):
        signed = [] if name == "ca" else ["-CA", str(directory / "ca.pem"), "-CAkey", str(directory / "ca.key")]
        extensions = [] if name == "ca" else ["-addext", "basicConstraints=critical,CA:FALSE"]
        command = [*openssl, *signed, *extensions, "-addext", "subjectAltName=IP:127.0.0.1", "-subj", f"/CN={name}"]
        files = ["-keyout", str(directory / f"{name}.key"), "-out", str(directory / f"{name}.pem"), "-days", "2"]
        subprocess.run([*command, *files], check=True, capture_output=True)
        for suffix in ("key", "pem"):
            (directory / f"{name}.{suffix}").chmod(0o644)


async def test_counters_travel_over_tls(tmp_path: Path, start_memcached: StartMemcached) -> None:
    """With a memcached that asks for a client's certificate; a daemon without one counts by itself."""
    certificates(tmp_path)
    chain = f"ssl_chain_cert={tmp_path}/server.pem,ssl_key={tmp_path}/server.key,ssl_ca_cert={tmp_path}/ca.pem"
    memcached = start_memcached("-Z", "-o", f"{chain},ssl_verify_mode=2")
    tls = {f"tls_{name}": str(tmp_path / file) for name, file in TLS_FILES.items()}
    async with Site(memcached, **tls) as encrypted, Site(memcached, tls_ca=tls["tls_ca"], timeout=5.0) as anonymous:
        counters, refused = encrypted.daemon(), anonymous.daemon()
        assert await count(counters, "192.0.2.1", "192.0.2.1") == [1, 2]
        assert await counters.cluster.evictions() == 0
        assert await count(refused, "192.0.2.1") == [1]
        assert refused.cluster.state.startswith(f"degraded: memcached {memcached.address} ")
        assert await count(counters, "192.0.2.1") == [3]


TLS_FILES = {"ca": "ca.pem", "certificate": "client.pem", "key": "client.key"}
