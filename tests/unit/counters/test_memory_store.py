"""Counters in the daemon's own memory."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from fakes import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from senderscore_policy.counters.memory import CLIENTS_PER_LINE, MemoryStore
from senderscore_policy.policy.ports import Charge, Usage
from senderscore_policy.policy.window import Window

HOUR = Window(3600, 12)
CLOCK_HOUR = Window(3600, 1)

T = TypeVar("T")


def now(work: Coroutine[Any, Any, T]) -> T:
    """The result of a call that has nothing to wait for."""
    with pytest.raises(StopIteration) as done:
        work.send(None)
    result: T = done.value.value
    return result


def charge(store: MemoryStore, *clients: str, amount: int = 1) -> list[int]:
    """Count a message of each; the counts."""
    charges = [Charge(client, amount) for client in clients]
    now(store.charge(charges, []))
    return [charge.count for charge in charges]


def count(store: MemoryStore, client: str) -> int:
    """The client's messages."""
    return now(store.read([client]))[0].count


def test_messages_of_a_batch_get_distinct_numbers() -> None:
    """Each message of a batch counts those before it, so a limit of N lets exactly N through."""
    store = MemoryStore(HOUR, FakeClock())
    assert charge(store, "192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.1") == [1, 1, 2, 3]
    assert charge(store, "192.0.2.1") == [4]


def test_a_message_given_back_does_not_count() -> None:
    """What was over the limit is taken back from the bucket that it went to, also when time has gone on."""
    clock = FakeClock()
    store = MemoryStore(HOUR, clock)
    first, second, third = Charge("192.0.2.1", 1), Charge("192.0.2.1", 5), Charge("192.0.2.1", 1)
    now(store.charge([first, second], []))
    clock.pass_time(900)
    assert charge(store, "192.0.2.1") == [7]
    now(store.charge([third], [second]))
    assert third.count == 3
    now(store.charge([], [first]))
    [usage] = now(store.read(["192.0.2.1"]))
    assert usage == Usage(2, {1_001_100 // 300: 2})


def test_a_refund_that_comes_too_late_takes_nothing_from_others() -> None:
    """A refund for a bucket that has left the window is void."""
    clock = FakeClock()
    store = MemoryStore(HOUR, clock)
    message = Charge("192.0.2.1", 1)
    now(store.charge([message], []))
    clock.pass_time(2 * 3600)
    assert charge(store, "192.0.2.1") == [1]
    now(store.charge([], [message]))
    assert count(store, "192.0.2.1") == 1


def test_old_messages_leave_with_their_bucket() -> None:
    """A burst at the start of a bucket counts whole for an hour, then not at all."""
    clock = FakeClock()
    store = MemoryStore(HOUR, clock)
    charge(store, "192.0.2.1", amount=100)
    seen = []
    for seconds in (3300, 299, 1):
        clock.pass_time(seconds)
        seen.append(count(store, "192.0.2.1"))
    assert seen == [100, 100, 0]


def test_a_fixed_window_ends_with_the_clock_hour() -> None:
    """With the fixed algorithm every client starts at zero at the full hour."""
    clock = FakeClock(3600 * 300 + 3599.0)
    store = MemoryStore(CLOCK_HOUR, clock)
    charge(store, "192.0.2.1", amount=100)
    clock.pass_time(1)
    assert charge(store, "192.0.2.1") == [1]


def test_a_step_of_the_wall_clock_changes_nothing() -> None:
    """The counters go by the monotonic clock."""
    clock = FakeClock()
    store = MemoryStore(HOUR, clock)
    charge(store, "192.0.2.1")
    clock.now += 10_000
    assert charge(store, "192.0.2.1") == [2]
    clock.now -= 100_000
    assert charge(store, "192.0.2.1") == [3]


def test_reset_forgets_a_client_and_no_other() -> None:
    """After a reset the client's next message is its first, whatever buckets it had."""
    clock = FakeClock()
    store = MemoryStore(HOUR, clock)
    charge(store, "192.0.2.1", "192.0.2.2")
    clock.pass_time(600)
    charge(store, "192.0.2.1", "192.0.2.2")
    now(store.reset(["192.0.2.1", "192.0.2.3"]))
    assert charge(store, "192.0.2.1", "192.0.2.2") == [1, 3]


def test_a_full_table_forgets_the_oldest_bucket_first() -> None:
    """At the bound clients that were last seen longest ago start at zero; the others keep their counts."""
    clock = FakeClock()
    store = MemoryStore(HOUR, clock, max_entries=3)
    charge(store, "192.0.2.1", "192.0.2.2")
    clock.pass_time(300)
    charge(store, "192.0.2.3")
    clock.pass_time(300)
    assert charge(store, "192.0.2.4") == [1]
    assert charge(store, "192.0.2.3") == [2]
    assert charge(store, "192.0.2.1") == [1]


def test_a_full_bucket_fails_open() -> None:
    """When the current bucket alone fills the table, new clients are let through and known ones are counted on."""
    store = MemoryStore(HOUR, FakeClock(), max_entries=2)
    assert charge(store, "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.3") == [1, 1, 1, 1]
    assert charge(store, "192.0.2.1", "192.0.2.3") == [2, 1]
    message = Charge("192.0.2.3", 1)
    now(store.charge([message], []))
    now(store.charge([], [message]))
    assert charge(store, "192.0.2.1") == [3]


def restarted(store: MemoryStore, clock: FakeClock, window: Window = HOUR, max_entries: int = 1000) -> MemoryStore:
    """The store of the process after: its monotonic clock starts at another value, the wall clock goes on."""
    lines = list(store.snapshot())
    clock.uptime = 1.0
    later = MemoryStore(window, clock, max_entries)
    later.restore(lines)
    return later


def test_counts_outlive_a_restart() -> None:
    """After a restart every client has what it had, less what has left the window meanwhile."""
    clock = FakeClock()
    store = MemoryStore(HOUR, clock)
    charge(store, "192.0.2.1", amount=10)
    clock.pass_time(1200)
    charge(store, "192.0.2.1", "2001:db8::/64", amount=5)
    clock.pass_time(30)
    store = restarted(store, clock)
    assert now(store.read(["192.0.2.1"]))[0] == Usage(15, {3334: 10, 3338: 5})
    clock.pass_time(3000)
    assert charge(store, "192.0.2.1", "2001:db8::/64") == [6, 6]


def test_a_restart_long_after_or_with_another_window_starts_at_zero() -> None:
    """Counts that mean nothing any more are left out, without a complaint."""
    clock = FakeClock()
    store = MemoryStore(HOUR, clock)
    charge(store, "192.0.2.1")
    assert count(restarted(store, clock, Window(3600, 6)), "192.0.2.1") == 0
    clock.now -= 100_000
    assert count(restarted(store, clock), "192.0.2.1") == 0
    clock.now += 200_000
    assert count(restarted(store, clock), "192.0.2.1") == 0


def test_a_restart_with_less_room_keeps_the_newest() -> None:
    """What does not fit is left out, the oldest buckets first."""
    clock = FakeClock()
    store = MemoryStore(HOUR, clock)
    charge(store, "192.0.2.1", "192.0.2.2")
    clock.pass_time(600)
    charge(store, "192.0.2.3", "192.0.2.4")
    store = restarted(store, clock, max_entries=3)
    assert charge(store, "192.0.2.3", "192.0.2.4", "192.0.2.1") == [2, 2, 2]
    assert count(store, "192.0.2.2") == 0


def test_a_snapshot_of_many_clients_comes_in_pieces() -> None:
    """No line holds more than a bounded number of clients, and counting goes on while lines are taken."""
    clock = FakeClock()
    store = MemoryStore(HOUR, clock)
    clients = [f"10.0.{n // 256}.{n % 256}" for n in range(2 * CLIENTS_PER_LINE + 1)]
    charge(store, *clients)
    lines = store.snapshot()
    taken = [next(lines), next(lines)]
    charge(store, *clients, "192.0.2.1")
    taken += lines
    assert len(taken) == 4
    later = MemoryStore(HOUR, clock)
    later.restore(taken)
    assert charge(later, *clients) == [2] * len(clients)


HEADER = '{"window":3600,"buckets":12}'


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["garbage"],
        ["{}"],
        ["[]"],
        ['{"window":3600}'],
        [HEADER, "nonsense"],
        [HEADER, "[]"],
        [HEADER, "[3334]"],
        [HEADER, '["3334",{"192.0.2.1":1}]'],
        [HEADER, '[3334,{"192.0.2.1":1}]', '[3334,{"192.0.2.1":0}]'],
        [HEADER, '[3334,{"192.0.2.1":true}]'],
        [HEADER, '[3334,{"192.0.2.1":1.5}]'],
        [HEADER, '[3334,{"192.0.2.1":"1"}]'],
        [HEADER, '[3334,{"192.0.2.1":NaN}]'],
        [HEADER, '[3334,{"192.0.2.1":1' + "0" * 400 + "}]"],
        [HEADER, '[3334,{"192.0.2.1":1}'],
        [HEADER, "[" * 100_000],
    ],
)
def test_a_malformed_state_is_refused_whole(lines: list[str]) -> None:
    """Damaged lines raise ValueError, and nothing of them is taken up."""
    store = MemoryStore(HOUR, FakeClock())
    with pytest.raises(ValueError, match=r"\S"):
        store.restore(lines)
    assert count(store, "192.0.2.1") == 0


CLIENTS = st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::/64"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("advance"), st.integers(1, 4000)),
        st.tuples(st.just("charge"), st.lists(st.tuples(CLIENTS, st.integers(1, 5)), min_size=1, max_size=5)),
        st.tuples(st.just("refund"), st.integers(0, 30)),
        st.tuples(st.just("restart"), st.none()),
    ),
    max_size=40,
)


@given(STEPS, st.sampled_from([HOUR, CLOCK_HOUR, Window(60, 2), Window(7200, 5)]))
def test_the_store_counts_as_a_list_of_messages_would(steps: list[tuple[str, Any]], window: Window) -> None:
    """Whatever happens in whatever order, a tally is what a plain list of accepted messages gives."""
    clock = FakeClock()
    store = MemoryStore(window, clock)
    messages: list[tuple[str, int]] = []
    given_out: list[tuple[Charge, int]] = []
    length = window.bucket_seconds

    def expected(client: str) -> int:
        current = int(clock.now // length)
        ages = [current - index for who, index in messages if who == client]
        return sum(age < window.buckets for age in ages)

    for step, value in steps:
        index = int(clock.now // length)
        if step == "advance":
            clock.pass_time(value)
        elif step == "charge":
            charges = [Charge(*each) for each in value]
            now(store.charge(charges, []))
            for charge in charges:
                messages += [(charge.key, index)] * charge.amount
                given_out.append((charge, index))
                assert charge.count == expected(charge.key)
        elif step == "refund" and given_out:
            charge, index = given_out.pop(value % len(given_out))
            now(store.charge([], [charge]))
            for _ in range(charge.amount):
                messages.remove((charge.key, index))
        elif step == "restart":
            store = restarted(store, clock, window)
    for client in ("192.0.2.1", "192.0.2.2", "2001:db8::/64"):
        assert count(store, client) == expected(client)


async def test_concurrent_messages_never_share_a_number() -> None:
    """Many tasks at once get the numbers 1 to N, each once."""
    store = MemoryStore(HOUR, FakeClock())
    batches = [[Charge("192.0.2.1", 1) for _ in range(3)] for _ in range(50)]
    await asyncio.gather(*(store.charge(batch, []) for batch in batches))
    assert sorted(charge.count for batch in batches for charge in batch) == list(range(1, 151))
