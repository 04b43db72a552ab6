"""What a batch of charges asks of memcached, and what it makes of the replies."""

from collections.abc import Mapping

import pytest
from fakes import FakeMemcached
from hypothesis import given
from hypothesis import strategies as st

from senderscore_policy.config.endpoints import Inet
from senderscore_policy.config.model import CounterSettings
from senderscore_policy.counters.memcached.batch import (
    Batch,
    ClientBuckets,
    CountedAt,
    Lags,
    ServerBatch,
    compare,
)
from senderscore_policy.counters.memcached.connection import Server
from senderscore_policy.counters.memcached.protocol import BucketKeys, Pipeline, Replies, ReplyReader, expiry
from senderscore_policy.policy.window import Window

HOUR = Window(3600, 12)
NOW = 1_000_300.0
"""A hundred seconds into bucket 3334; 3323 is the oldest in the window."""
KEYS = BucketKeys("ssp:", HOUR)


class Site:
    """Some memcached servers, and batches on them."""

    def __init__(self, servers: int = 1) -> None:
        self.servers = tuple(Server(Inet("192.0.2.250", port), CounterSettings()) for port in range(servers))
        self.fakes = {server: FakeMemcached() for server in self.servers}
        self.dead: set[Server] = set()
        self.trips = 0
        self.last: Batch

    def run(self, orders: Mapping[Server, Pipeline]) -> dict[Server, Replies]:
        self.trips += bool(orders)
        replies = {}
        for server, order in orders.items():
            if server in self.dead:
                self.last.parts[server].unanswered(None)
            else:
                reader = ReplyReader(len(order.commands), values=bool(order.keys))
                reply = reader.feed(self.fakes[server].answer(order.encoded()))
                assert reply is not None
                replies[server] = reply
        return replies

    def account(self, client: str = "192.0.2.1") -> ClientBuckets:
        return ClientBuckets(client, KEYS.stem(client) + b"3334", self.servers)

    def charge(
        self, amounts: dict[ClientBuckets, int], refunds: Mapping[CountedAt, int] | None = None, now: float = NOW
    ) -> dict[str, tuple[int, tuple[Server, ...]]]:
        """Each client's messages before this charge, and the servers that counted it."""
        for receipt, amount in (refunds or {}).items():
            receipt.refund(amount)
        self.last = batch = Batch(HOUR.view(now), expiry(HOUR.ttl, now), self.servers)
        for account, amount in amounts.items():
            batch.charge(account, amount)
        second = batch.take(self.run(batch.pipelines(ServerBatch.unanswered)))
        if second:
            batch.take_again(self.run(second))
        before = batch.counted_before(until=60.0)
        receipts = {account: batch.receipt(account) for account in before}
        counted = {account: tuple(each.server for each in receipt.deliveries) for account, receipt in receipts.items()}
        return {account.client: (messages, counted[account]) for account, messages in before.items()}

    def one(self, account: ClientBuckets | None = None, amount: int = 1) -> int:
        """Messages before this charge of one client."""
        account = account or self.account()
        return self.charge({account: amount})[account.client][0]

    def put(self, bucket: int, value: bytes, server: int = 0, client: str = "192.0.2.1") -> None:
        self.fakes[self.servers[server]].items[KEYS.stem(client) + b"%d" % bucket] = value

    def value(self, bucket: int = 3334, server: int = 0, client: str = "192.0.2.1") -> bytes | None:
        return self.fakes[self.servers[server]].items.get(KEYS.stem(client) + b"%d" % bucket)


@pytest.mark.parametrize("servers", [1, 2])
def test_new_and_known_clients_alike_take_one_round_trip(servers: int) -> None:
    """A new counter is made, and lives for the window and two buckets, in the trip that counts in it."""
    site = Site(servers)
    account = site.account()
    assert site.one(account) == 0
    assert site.one(account, 5) == 1
    assert site.one(site.account()) == 6
    assert site.trips == 3
    for fake in site.fakes.values():
        assert fake.items == {b"ssp:192.0.2.1:3600.12:3334": b"7"}
        assert fake.exptimes == {b"ssp:192.0.2.1:3600.12:3334": 4200}


def test_all_buckets_in_view_count() -> None:
    """The newest twelve buckets count whole, and no other does."""
    site = Site()
    for bucket, value in {
        3320: b"1000",
        3321: b"1000",
        3322: b"1000",
        3323: b"20 ",
        3333: b"300",
        3335: b"1000",
    }.items():
        site.put(bucket, value)
    account = site.account()
    assert site.one(account) == 20 + 300
    assert site.one(account) == 1 + 20 + 300


def test_closed_buckets_are_read_once_and_open_ones_always() -> None:
    """What another host still adds to is read with every batch."""
    site = Site()
    site.put(3333, b"10")
    account = site.account()
    assert site.charge({account: 1}, now=1_000_202.0)["192.0.2.1"][0] == 10
    site.put(3333, b"12")
    assert site.charge({account: 1}, now=1_000_203.0)["192.0.2.1"][0] == 13
    assert site.trips == 2


@given(st.integers(0, 400), st.dictionaries(st.integers(3321, 3336), st.integers(1, 1000)))
def test_the_sum_is_the_views(offset: int, counts: dict[int, int]) -> None:
    """However the buckets are read, they add up to what the window says."""
    site = Site()
    view = HOUR.view(1_000_150.0 + offset)
    account = ClientBuckets("192.0.2.1", KEYS.stem("192.0.2.1") + b"%d" % view.current, site.servers)
    for bucket, count in counts.items():
        site.put(bucket, b"%d" % count)
    for earlier in range(2):
        [(messages, _)] = site.charge({account: 1}, now=1_000_150.0 + offset).values()
        assert messages == view.total(counts | {view.current: counts.get(view.current, 0) + earlier})


def test_refunds_come_before_charges() -> None:
    """A place given back in a batch can be taken in the same batch; several refunds of a client are one command."""
    site = Site()
    account = site.account()
    site.one(account, 100)
    assert site.charge({account: 1}, {site.last.receipt(account): 98}) == {"192.0.2.1": (2, site.servers)}
    assert site.value() == b"3  "
    assert site.one(account) == 3


def test_a_counter_that_was_lost_starts_anew() -> None:
    """An evicted counter, or one of a restarted memcached, is made again by the message that misses it."""
    site = Site()
    account, other = site.account(), site.account("192.0.2.2")
    site.charge({account: 3, other: 3})
    del site.fakes[site.servers[0]].items[account.key]
    assert site.charge({account: 2, other: 1}) == {"192.0.2.1": (0, site.servers), "192.0.2.2": (3, site.servers)}
    assert (site.value(), site.value(client="192.0.2.2")) == (b"2", b"4")


def test_an_invalid_counter_harms_itself_alone() -> None:
    """It is deleted; its client is not counted here this time, everybody else is."""
    site = Site()
    site.put(3334, b"hello")
    account, other = site.account(), site.account("192.0.2.2")
    assert site.charge({account: 1, other: 1}) == {"192.0.2.2": (0, site.servers)}
    assert site.last.invalid == 1
    assert site.value() is None
    assert site.one() == 0


def test_an_invalid_refund_is_deleted_too() -> None:
    """Whatever meets the key first."""
    site = Site()
    account = site.account()
    site.one(account)
    receipt = site.last.receipt(account)
    site.put(3334, b"hello")
    site.charge({}, {receipt: 1})
    assert site.last.invalid == 1
    assert site.value() is None


def test_an_invalid_closed_bucket_counts_as_empty() -> None:
    """It is deleted; the client is counted on with what its other buckets hold."""
    site = Site()
    site.put(3330, b"hello")
    site.put(3331, b"7")
    assert site.one() == 7
    assert site.last.invalid == 1
    assert site.value(3330) is None


def test_out_of_memory_harms_new_clients_alone() -> None:
    """Those without a counter are not counted here; the others are."""
    site = Site()
    account, other = site.account(), site.account("192.0.2.2")
    site.one(account)
    site.fakes[site.servers[0]].full = True
    assert site.charge({account: 1, other: 1}) == {"192.0.2.1": (1, site.servers)}


def test_a_server_that_fails_leaves_its_clients_uncounted() -> None:
    """Clients of other servers in the same batch are counted."""
    site = Site(2)
    here = ClientBuckets("192.0.2.1", KEYS.stem("192.0.2.1") + b"3334", site.servers[:1])
    there = ClientBuckets("192.0.2.2", KEYS.stem("192.0.2.2") + b"3334", site.servers[1:])
    site.dead.add(site.servers[0])
    assert site.charge({here: 1, there: 1}) == {"192.0.2.2": (0, site.servers[1:])}


def test_the_larger_replica_decides() -> None:
    """For the current bucket as for the closed ones."""
    site = Site(2)
    site.put(3334, b"10", 0)
    site.put(3334, b"30", 1)
    site.put(3330, b"200", 0)
    site.put(3330, b"100", 1)
    assert site.one() == 30 + 200


@pytest.mark.parametrize("bucket", [3330, 3334])
def test_servers_that_disagree_are_noticed(bucket: int) -> None:
    """Whether one of them lost the current counter or a closed one; where they agree there is nothing to correct."""
    site = Site(2)
    site.one(amount=5)
    assert site.last.lagging == []
    site.put(bucket, b"200", 0)
    site.one()
    assert site.last.lagging == ["192.0.2.1"]


def lasting(*observed: tuple[int, int]) -> int:
    """By how much the first server's counter is lower, after these observations of both servers' counters."""
    first, second = Site(2).servers
    lags: Lags = {}
    for numbers in observed:
        values = [Replies([], {b"k": b"%d" % number}, {}) for number in numbers]
        lags = compare(lags, [b"k"], dict(zip((first, second), values, strict=True)))
        assert bool(lags) == (numbers[0] != numbers[1])
    times, least = lags.get((first, b"k"), (0, 0))
    return least if times >= 3 else 0


def test_only_a_difference_that_lasts_is_one() -> None:
    """Increments that reach one server before the other make their counters differ for a moment."""
    assert lasting((7, 9), (8, 10)) == 0
    assert lasting((7, 9), (8, 10), (9, 11)) == 2
    assert lasting((7, 9), (8, 11), (9, 10)) == 1
    assert lasting((7, 9), (10, 10), (9, 11)) == 0
    assert lasting((7, 9), (11, 10), (9, 11)) == 0
    assert lasting((0, 0), (7, 9), (7, 9), (7, 9)) == 2


def test_a_replica_that_dies_is_not_missed() -> None:
    """The other one's answer decides, and a refund goes to it alone."""
    site = Site(2)
    account = site.account()
    site.one(account, 10)
    site.dead.add(site.servers[1])
    assert site.charge({account: 1}) == {"192.0.2.1": (10, site.servers[:1])}


def test_an_invalid_replica_is_not_missed() -> None:
    """The other one's answer decides."""
    site = Site(2)
    account = site.account()
    site.one(account, 10)
    site.put(3334, b"hello", 1)
    assert site.one(account) == 10
    assert site.one(account) == 11
    assert site.value(3334, 1) == b"1"
    assert site.last.lagging == ["192.0.2.1"]


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 3)), min_size=1, max_size=12))
def test_two_daemons_on_two_replicas_never_undercount(charges: list[tuple[int, int]]) -> None:
    """Each message gets a larger count than all messages before it, whichever daemon counts it."""
    site = Site(2)
    daemons = (site.account(), site.account())
    counted = 0
    for daemon, amount in charges:
        assert site.one(daemons[daemon], amount) == counted
        counted += amount


def test_long_windows_end_at_a_date() -> None:
    """Memcached takes more than 30 days for a date, and 28 days and two buckets are more."""
    assert expiry(4200, NOW) == 4200
    assert expiry(30 * 86400, NOW) == 30 * 86400
    assert expiry(Window(2_419_200, 12).ttl, NOW) == 1_000_300 + 2_419_200 + 2 * 201_600


def test_daemons_with_different_windows_share_no_counter() -> None:
    """The window is part of a counter's name."""
    windows = (HOUR, Window(7200, 24), Window(3600, 1), Window(300, 1), Window(3600, 7))
    stems = {BucketKeys("ssp:", window).stem("192.0.2.1") for window in windows}
    assert len(stems) == len(windows)


def test_a_counters_name_fits_memcached() -> None:
    """The longest prefix, client, window and bucket stay below 250 bytes."""
    longest = BucketKeys("p" * 100, Window(2_419_200, 100_000))
    assert len(longest.stem("2001:db8:1111:2222:3333:4444:5555:6666/128") + b"%d" % 2**40) < 250
