"""Counters in memcached, and the daemon's own while memcached cannot count, on fake servers."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import pytest
from fakes import FakeClock, FakeMemcached, Script, StoreRecord, listening
from hypothesis import given, settings
from hypothesis import strategies as st

from senderscore_policy.config.endpoints import Endpoint, Unix
from senderscore_policy.config.model import CounterSettings
from senderscore_policy.counters.memcached.cluster import Cluster
from senderscore_policy.counters.memcached.store import CLOSED_FOR, MemcachedCounters
from senderscore_policy.counters.memory import MemoryStore
from senderscore_policy.policy.ports import Charge, Usage

PLENTY = 20.0


class Site:
    """A daemon's counters and the servers that it knows; they listen while a test says so."""

    def __init__(self, directory: Path, servers: int = 1, *, replicas: int = 1, timeout: float = PLENTY) -> None:
        self.paths = [directory / f"{number}" for number in range(servers)]
        self.fakes = [FakeMemcached() for _ in self.paths]
        self.settings = CounterSettings(
            store="memcached",
            servers=tuple(Unix(str(path)) for path in self.paths),
            replicas=2 if replicas == 2 else 1,
            timeout=timeout,
        )
        self.clock = FakeClock()
        self.watcher = StoreRecord()
        self.local = MemoryStore(self.settings.window_of_time(), self.clock)
        self.counters = self.daemon()

    def daemon(self) -> MemcachedCounters:
        """Another daemon's counters on the same servers."""
        return MemcachedCounters(self.settings, self.local, self.clock, self.watcher, probe_interval=0.001)

    @asynccontextmanager
    async def running(self, *numbers: int, script: Script | None = None) -> AsyncIterator[None]:
        """These servers listen (all, without a number)."""
        async with AsyncExitStack() as stack:
            for number in numbers or range(len(self.paths)):
                await stack.enter_async_context(listening(script or self.fakes[number].serve, self.paths[number]))
            yield

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.counters.close()

    async def charge(self, *clients: str) -> list[Charge]:
        charges = [Charge(client, 1) for client in clients]
        await self.counters.charge(charges, [])
        return charges

    async def count(self, *clients: str) -> list[int]:
        """Count a message of each; the counts."""
        return [charge.count for charge in await self.charge(*clients)]

    async def read(self, client: str) -> int:
        return (await self.counters.read([client]))[0].count

    async def until(self, state: str) -> None:
        """Wait for the state to begin so."""
        while not self.counters.cluster.state.startswith(state):  # noqa: ASYNC110 - the store has no event for it
            await asyncio.sleep(0)


async def test_a_client_counts_across_batches_and_daemons(tmp_path: Path) -> None:
    """Numbers within a batch are distinct, and a second daemon goes on where the first one is."""
    async with Site(tmp_path) as site:
        async with site.running():
            assert await site.count("192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.1") == [1, 1, 2, 3]
            other = site.daemon()
            charge = Charge("192.0.2.1", 5)
            await other.charge([charge], [])
            await other.close()
            assert charge.count == 8
            assert await site.count("192.0.2.1") == [9]
            assert await site.read("192.0.2.1") == 9
        assert site.watcher.failures == 0


async def test_a_batch_is_one_round_trip(tmp_path: Path) -> None:
    """Refunds, new clients, known ones and the buckets to be read."""
    async with Site(tmp_path) as site, site.running():
        [charge] = await site.charge("192.0.2.1")
        charges = [Charge(f"192.0.2.{n}", 1) for n in range(1, 100)]
        await site.counters.charge(charges, [charge])
        assert site.watcher.commands == [3, 1 + 98 + 99 + 1]
        await site.counters.charge([], [])
        assert len(site.watcher.commands) == 2


async def test_closed_buckets_are_believed_for_a_minute(tmp_path: Path) -> None:
    """A closed bucket is not read with every message."""
    async with Site(tmp_path) as site, site.running():
        site.clock.pass_time(100)
        closed = b"ssp:192.0.2.1:3600.12:3330"
        site.fakes[0].items[closed] = b"10"
        assert await site.count("192.0.2.1") == [11]
        del site.fakes[0].items[closed]
        site.clock.pass_time(CLOSED_FOR - 1)
        assert await site.count("192.0.2.1") == [12]
        site.clock.pass_time(1)
        assert await site.count("192.0.2.1") == [3]


async def test_a_lost_counter_ends_the_belief(tmp_path: Path) -> None:
    """When memcached was restarted or another daemon reset the client, closed buckets are soon read again."""
    async with Site(tmp_path) as site, site.running():
        site.clock.pass_time(100)
        site.fakes[0].items[b"ssp:192.0.2.1:3600.12:3330"] = b"10"
        assert await site.count("192.0.2.1") == [11]
        site.fakes[0].items.clear()
        assert await site.count("192.0.2.1") == [11]
        assert await site.count("192.0.2.1") == [2]


async def test_a_bucket_that_closes_is_read_anew(tmp_path: Path) -> None:
    """The step into the next bucket, and the end of the five seconds after it, forget what was believed."""
    async with Site(tmp_path) as site, site.running():
        site.clock.pass_time(290)
        assert await site.count("192.0.2.1") == [1]
        for bucket, seconds in ((3334, 10), (3334, 4), (3334, 1), (3334, 5)):
            site.clock.pass_time(seconds)
            site.fakes[0].items[b"ssp:192.0.2.1:3600.12:%d" % bucket] = b"%d" % (100 * seconds)
            [count] = await site.count("192.0.2.1")
            if seconds != 5:
                assert count > 100 * seconds
            else:
                assert count == 100 + 4


async def test_reset_forgets_everywhere(tmp_path: Path) -> None:
    """All buckets on all servers, the daemon's own, and what it believes of closed buckets."""
    async with Site(tmp_path, 2) as site:
        await site.counters.charge([Charge("192.0.2.1", 1)], [])
        await site.until("degraded")
        async with site.running():
            await site.until("ok")
            site.clock.pass_time(10)
            for fake in site.fakes:
                for bucket in (3322, 3330, 3334, 3335):
                    fake.items[b"ssp:192.0.2.1:3600.12:%d" % bucket] = b"7"
            assert await site.count("192.0.2.1") == [7 + 7 + 1]
            await site.counters.reset(["192.0.2.1"])
            assert all(not fake.items for fake in site.fakes)
            assert (await site.local.read(["192.0.2.1"]))[0].count == 0
            assert await site.count("192.0.2.1") == [1]


async def test_without_memcached_the_daemon_counts_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At once, from zero; and it returns by itself, with one log line each way."""
    caplog.set_level(logging.INFO)

    async with Site(tmp_path) as site:
        async with site.running():
            assert await site.count("192.0.2.1", "192.0.2.1") == [1, 2]
        assert await site.count("192.0.2.1", "192.0.2.2", "192.0.2.1") == [1, 1, 2]
        assert site.counters.cluster.state in {
            f"degraded: memcached unix:{site.paths[0]} {reason}"
            for reason in ("closed the connection", "No such file or directory", "Broken pipe")
        }
        assert site.counters.cluster.up == {f"unix:{site.paths[0]}": False}
        [charge] = await site.charge("192.0.2.1")
        assert await site.read("192.0.2.1") == 3
        async with site.running():
            await site.until("ok")
            assert site.counters.cluster.up == {f"unix:{site.paths[0]}": True}
            await site.counters.charge([], [charge])
            assert await site.count("192.0.2.1") == [3]
        assert (await site.local.read(["192.0.2.1"]))[0].count == 2
        assert set(site.fakes[0].items) == {b"ssp:192.0.2.1:3600.12:3334"}
    lines = [record.message for record in caplog.records if "memcached" in record.message]
    assert len(lines) == 2
    assert lines[0].endswith("counting without it until it is back")
    assert lines[1] == f"memcached unix:{site.paths[0]} is back"


async def test_a_batch_that_timed_out_is_not_sent_again(tmp_path: Path) -> None:
    """It may have been counted, never more; its messages are decided on the daemon's own counters."""
    received = b""

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        nonlocal received
        while data := await reader.read(65536):
            received += data

    # Long enough to connect on a busy machine.
    async with Site(tmp_path, timeout=1.0) as site:
        async with site.running(script=silent):
            assert await site.count("192.0.2.1", "192.0.2.1") == [1, 2]
            assert site.counters.cluster.state == f"degraded: memcached unix:{site.paths[0]} no answer within 1 s"
            assert await site.count("192.0.2.1") == [3]
        assert received.count(b"incr ssp:192.0.2.1:") == 1


async def test_an_invalid_key_is_decided_here_and_reported(tmp_path: Path) -> None:
    """The rest of the batch is valid, and memcached stays in use."""
    async with Site(tmp_path) as site, site.running():
        await site.count("192.0.2.1", "192.0.2.2")
        site.fakes[0].items[b"ssp:192.0.2.1:3600.12:3334"] = b"hello"
        assert await site.count("192.0.2.1", "192.0.2.2", "192.0.2.1") == [1, 2, 2]
        assert site.watcher.invalid == 1
        assert site.counters.cluster.state == "ok"
        assert await site.count("192.0.2.1") == [1]


async def test_an_invalid_bucket_reads_as_empty(tmp_path: Path) -> None:
    """What `get` shows is what a message would be counted on."""
    async with Site(tmp_path) as site, site.running():
        site.fakes[0].items[b"ssp:192.0.2.1:3600.12:3334"] = b"hello"
        site.fakes[0].items[b"ssp:192.0.2.1:3600.12:3333"] = b"7 "
        [usage] = await site.counters.read(["192.0.2.1"])
        assert usage == Usage(7, {3333: 7})


CLIENTS = [f"192.0.2.{n}" for n in range(100)]


@pytest.mark.parametrize("replicas", [1, 2])
async def test_one_server_of_three_dies(tmp_path: Path, replicas: int) -> None:
    """With two replicas nothing is forgotten; with one, its share of the clients starts at zero."""
    async with Site(tmp_path, 3, replicas=replicas) as site, site.running(0, 1):
        async with site.running(2):
            for expected in (1, 2, 3):
                assert await site.count(*CLIENTS) == [expected] * 100
            shares = [len(fake.items) for fake in site.fakes]
            assert sum(shares) == 100 * replicas
            assert min(shares) > 15 * replicas
        counts = await site.count(*CLIENTS)
        assert site.counters.cluster.state.startswith(f"degraded: memcached unix:{site.paths[2]} ")
        counts = await site.count(*CLIENTS)
        if replicas == 2:
            assert counts == [5] * 100
        else:
            assert sorted(counts) == [1] * shares[2] + [5] * (100 - shares[2])
        assert all(site.counters.cluster.up[f"unix:{path}"] for path in site.paths[:2])
        async with site.running(2):
            await site.until("ok")
            counts = await site.count(*CLIENTS)
            assert counts == [6] * 100 if replicas == 2 else set(counts) == {4, 6}


def test_all_daemons_agree_where_a_client_belongs() -> None:
    """Whatever order their configurations name the servers in; and a server that dies moves no others' clients."""
    names = tuple(Unix(f"/nonexistent/{n}") for n in range(4))

    def homes(endpoints: tuple[Endpoint, ...], dead: str = "") -> dict[str, list[str]]:
        cluster = Cluster(StoreRecord(), 1.0)
        cluster.configure(CounterSettings(servers=endpoints, replicas=2))
        cluster.live = tuple(server for server in cluster.live if server.name != dead)
        return {client: [server.name for server in cluster.servers_for(client)] for client in CLIENTS}

    before = homes(names)
    assert homes(names[::-1]) == before
    after = homes(names, dead=str(names[1]))
    for client in CLIENTS:
        assert len(set(after[client])) == 2
        stay = [name for name in before[client] if name != str(names[1])]
        assert after[client][: len(stay)] == stay


async def test_evictions_are_summed_over_the_servers_that_are_up(tmp_path: Path) -> None:
    """None if no server says."""

    async def stats(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(b"STAT evictions 21\r\nEND\r\n")

    async with Site(tmp_path, 3) as site:
        async with site.running(0, 1, script=stats):
            assert await site.counters.cluster.evictions() == 42
        assert await site.counters.cluster.evictions() is None


async def test_texts_are_shared(tmp_path: Path) -> None:
    """What one daemon keeps another one finds, for as long as it said."""
    async with Site(tmp_path, 2) as site, site.running():
        texts = site.counters.scores
        assert await texts.get("192.0.2.75") is None
        await texts.put("192.0.2.75", "scored:75", 86400)
        assert await texts.get("192.0.2.75") == "scored:75"
        [fake] = [fake for fake in site.fakes if fake.items]
        assert fake.items == {b"ssp:s:192.0.2.75": b"scored:75"}
        assert fake.exptimes == {b"ssp:s:192.0.2.75": 86400}
        for odd in (b"", b"\xff\xfe", b"two\r\nlines", b"\0"):
            fake.items[b"ssp:s:192.0.2.75"] = odd
            assert await texts.get("192.0.2.75") is None


async def test_texts_of_a_server_that_is_away_are_just_missing(tmp_path: Path) -> None:
    """Nothing raises, and no message waits longer than allowed."""

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    async with Site(tmp_path, timeout=0.05) as site:
        async with site.running(script=silent):
            texts = site.counters.scores
            assert await texts.get("192.0.2.75") is None
            await texts.put("192.0.2.75", "scored:75", 86400)
        assert await texts.get("192.0.2.75") is None
        await texts.put("192.0.2.75", "scored:75", 86400)


NO_KEYS = st.one_of(
    st.sampled_from(
        [
            "192.0.2.7 0 0 1",
            "fe80::%x\r\nset ssp:192.0.2.7:3600.12:3334 0 3600 4\r\n5000\r\nget ",
            "fe80::%x\nflush_all",
            "fe80::%\x0bflush_all",
            "fe80::%\x7f",
            "fe80::%\N{LATIN SMALL LETTER E WITH ACUTE}",
            "fe80::%\N{FULLWIDTH DIGIT ONE}",
            "fe80::%\ud800",
            "\0",
            "f" * 250,
            "f" * 100_000,
        ]
    ),
    st.text(max_size=300).filter(lambda text: not re.fullmatch(r"[!-~]{0,250}", text)),
)


@settings(max_examples=50)
@given(NO_KEYS)
def test_no_caller_reaches_memcached_with_what_cannot_be_a_key(client: str) -> None:
    """A client with blanks, control characters, other alphabets or too many characters is counted by the daemon alone.

    Other clients of the same batch are counted in memcached, and memcached gets no command but theirs.
    """

    async def test(directory: Path) -> None:
        async with Site(directory) as site, site.running():
            charges = [Charge(client, 1), Charge("192.0.2.1", 1), Charge(client, 1)]
            await site.counters.charge(charges, [])
            assert [charge.count for charge in charges] == [1, 1, 2]
            assert [usage.count for usage in await site.counters.read(["192.0.2.1", client])] == [1, 2]
            await site.counters.charge([], [charges[0]])
            assert await site.read(client) == 1
            await site.counters.reset([client])
            assert await site.read(client) == 0
            await site.counters.scores.put(client, "75:1700000000:score.example.org", 60)
            assert await site.counters.scores.get(client) is None
            assert site.fakes[0].items == {b"ssp:192.0.2.1:3600.12:3334": b"1"}
            assert site.fakes[0].unknown == 0

    with TemporaryDirectory() as directory:
        asyncio.run(test(Path(directory)))


@pytest.mark.parametrize("prefix", ["a b:", "a\r\nflush_all\r\n", "\N{LATIN SMALL LETTER E WITH ACUTE}:", "p" * 250])
def test_a_prefix_that_cannot_be_part_of_a_key_is_refused(tmp_path: Path, prefix: str) -> None:
    """Nothing is sent to memcached under such a prefix, wherever it comes from."""
    site = Site(tmp_path)
    site.settings = replace(site.settings, key_prefix=prefix)
    with pytest.raises(ValueError, match="cannot be a key of memcached"):
        site.daemon()


class StandingStill:
    """A memcached that freezes at its next command until the test releases it; then it executes what it received."""

    def __init__(self, fake: FakeMemcached) -> None:
        self.fake = fake
        self.running = asyncio.Event()
        self.running.set()
        self.forgets = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 20):
            await self.running.wait()
            if self.forgets:
                return
            writer.write(self.fake.answer(data))


async def settled(site: Site) -> None:
    """Wait until no server has anything to catch up."""
    await site.until("ok")
    while site.counters.lagging or any(server.owed for server in site.counters.cluster.servers):  # noqa: ASYNC110
        await asyncio.sleep(0)


@pytest.mark.parametrize("forgets", [False, True])
async def test_refunds_are_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, forgets: bool) -> None:
    """While memcached is frozen the daemon keeps refunds; afterwards only accepted messages count.

    It makes no difference whether memcached executes the interrupted batch later, or the batch is lost.
    """
    monkeypatch.setattr("senderscore_policy.counters.memcached.connection.LATE_ANSWER", 0.0 if forgets else PLENTY)
    async with Site(tmp_path, timeout=0.1) as site:
        script = StandingStill(site.fakes[0])
        async with site.running(script=script.serve):
            accepted = await site.charge("192.0.2.1", "192.0.2.1")
            deferred = await site.charge("192.0.2.1", "192.0.2.1", "192.0.2.1")
            script.running.clear()
            late = [Charge("192.0.2.1", 1), Charge("192.0.2.1", 1)]
            await site.counters.charge(late, deferred)
            assert [charge.count for charge in late] == [1, 2]
            await site.counters.charge([], [late[0]])
            assert await site.read("192.0.2.1") == 1
            await site.counters.charge([], accepted[:1])
            script.forgets = forgets
            script.running.set()
            await asyncio.sleep(0)
            script.forgets = False
            await settled(site)
            counted = {b"ssp:192.0.2.1:3600.12:3334": b"1" if forgets else b"2"}
            while {key: value.strip() for key, value in site.fakes[0].items.items()} != counted:  # noqa: ASYNC110
                await asyncio.sleep(0)


async def test_kept_refunds_do_not_pile_up(tmp_path: Path) -> None:
    """However often memcached goes away, the daemon owes it no more refunds than one batch had requests."""
    clients = [f"192.0.2.{number}" for number in range(9)]
    async with Site(tmp_path) as site:
        [server] = site.counters.cluster.servers
        for _ in range(3):
            async with site.running():
                await site.until("ok")
                deferred = await site.charge(*clients)
            await site.counters.charge([], deferred)
            assert sum(server.owed.values()) == len(clients)
        async with site.running():
            await settled(site)
            while {int(value) for value in site.fakes[0].items.values()} != {0}:  # noqa: ASYNC110
                await asyncio.sleep(0)


@pytest.mark.parametrize("empty", [False, True])
async def test_a_server_that_was_away_catches_up(tmp_path: Path, *, empty: bool) -> None:
    """The counters of current and closed buckets, without another message; whether or not the server is empty."""
    async with Site(tmp_path, 2, replicas=2) as site:
        async with site.running(0):
            async with site.running(1):
                assert await site.count(*["192.0.2.1"] * 3) == [1, 2, 3]
            await site.count(*["192.0.2.1"] * 10, "192.0.2.2")
            site.clock.pass_time(600)
            assert await site.count("192.0.2.1") == [14]
            if empty:
                site.fakes[1].items.clear()
            async with site.running(1):
                await settled(site)
        assert site.fakes[1].items == site.fakes[0].items
        assert site.fakes[1].items[b"ssp:192.0.2.1:3600.12:3334"] == b"13"


async def test_a_client_that_is_compared_may_be_dropped(tmp_path: Path) -> None:
    """When too many clients lag, the daemon may drop one whose comparison is under way, and goes on with the others."""
    async with Site(tmp_path, 2, replicas=2) as site, site.running():
        await site.count("192.0.2.1")
        site.counters.lagging = {"192.0.2.2": {}}
        await site.counters._compare(["192.0.2.1", "192.0.2.2"])
        assert not site.counters.lagging


async def test_a_reset_is_repeated_on_servers_that_were_away(tmp_path: Path) -> None:
    """The reset names the servers that it has not reached, and their counters are deleted once they are back."""
    async with Site(tmp_path, 2, replicas=2) as site, site.running(0):
        async with site.running(1):
            await site.count(*["192.0.2.1"] * 3, "192.0.2.2")
        assert await site.count("192.0.2.2") == [2]
        assert await site.counters.reset(["192.0.2.1"]) == [f"unix:{site.paths[1]}"]
        async with site.running(1):
            await settled(site)
            while any(b"ssp:192.0.2.1:3600.12:3334" in fake.items for fake in site.fakes):  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert await site.count("192.0.2.1", "192.0.2.2") == [1, 3]


async def test_other_settings_inherit_what_is_left_to_be_done(tmp_path: Path) -> None:
    """After a reload the daemon sends kept refunds over new connections, and those of before are closed."""
    async with Site(tmp_path) as site:
        async with site.running():
            charges = await site.charge(*["192.0.2.1"] * 3)
        await site.count("192.0.2.2")
        await site.counters.charge([], charges[:1])
        site.counters.configure(site.settings)
        await site.counters.charge([], charges[1:2])
        async with site.running():
            await settled(site)
            while site.fakes[0].items[b"ssp:192.0.2.1:3600.12:3334"] != b"1":  # noqa: ASYNC110
                await asyncio.sleep(0)


async def test_a_reload_does_not_disturb_a_batch_under_way(tmp_path: Path) -> None:
    """The batch is counted by the servers of before, and the next one by the servers of now."""
    async with Site(tmp_path) as site:
        script = StandingStill(site.fakes[0])
        async with site.running(script=script.serve):
            assert await site.count("192.0.2.1") == [1]
            script.running.clear()
            batch = asyncio.create_task(site.count("192.0.2.1"))
            await asyncio.sleep(0)
            [before] = site.counters.cluster.servers
            site.counters.configure(site.settings)
            script.running.set()
            assert await batch == [2]
            assert before not in site.counters.cluster.servers
            assert before._connection is None
            assert await site.count("192.0.2.1") == [3]
            assert site.counters.cluster.state == "ok"


async def test_a_score_that_is_waited_for_does_not_hold_up_mail(tmp_path: Path) -> None:
    """Memcached answers the counters although it does not answer the scores; a lookup given up changes nothing."""
    async with Site(tmp_path) as site:
        asked = asyncio.Event()

        async def no_scores(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65536):
                if b":s:" in data:
                    asked.set()
                else:
                    writer.write(site.fakes[0].answer(data))

        async with site.running(script=no_scores):
            lookup = asyncio.create_task(site.counters.scores.get("192.0.2.75"))
            await asked.wait()
            assert await site.count("192.0.2.1") == [1]
            lookup.cancel()
            await asyncio.wait([lookup])
            assert await site.count("192.0.2.1") == [2]
            assert site.counters.cluster.state == "ok"
