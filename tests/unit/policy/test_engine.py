"""The engine decides by reputation, counter and rules, with fakes behind it."""

import asyncio

import pytest
from fakes import EngineBench, FakeRequest

from senderscore_policy.policy.decision import Reason
from senderscore_policy.policy.engine import MAX_BATCH
from senderscore_policy.policy.reputation import UNKNOWN, Refused, Reputation, Scored, Unavailable

SMALL_TIERS = """
[[tier]]
scores = "0-50"
limit = 2
[[tier]]
scores = "51-100"
limit = 4
"""


@pytest.mark.parametrize(
    ("reputation", "messages", "expected"),
    [
        (Scored(0), 100, "DUNNO"),
        (Scored(0), 101, "421 sender score = 0, you're limited to 100 messages/hour"),
        (Scored(10), 101, "421 sender score = 10, you're limited to 100 messages/hour"),
        (Scored(11), 200, "DUNNO"),
        (Scored(11), 201, "421 sender score = 11, you're limited to 200 messages/hour"),
        (Scored(75), 800, "DUNNO"),
        (Scored(75), 801, "421 sender score = 75, you're limited to 800 messages/hour"),
        (Scored(100), 1000, "DUNNO"),
        (Scored(100), 1001, "421 sender score = 100, you're limited to 1000 messages/hour"),
        (UNKNOWN, 100_000, "DUNNO"),
        (Refused("127.255.255.254"), 100_000, "DUNNO"),
        (Unavailable("timeout"), 100_000, "DUNNO"),
        (None, 100, "DUNNO"),
    ],
)
@pytest.mark.parametrize("by_lookup", [False, True])
async def test_default_tiers(reputation: Reputation | None, messages: int, expected: str, *, by_lookup: bool) -> None:
    """The N-th message of a tier of N passes, the next is deferred; without a score nothing is; known or looked up."""
    bench = EngineBench()
    bench.store.counts["192.0.2.75"] = messages - 1
    if reputation is not None:
        (bench.source.by_lookup if by_lookup else bench.source.at_hand)["192.0.2.75"] = reputation
    action = await bench.one()
    assert action is not None
    assert action.startswith(expected)


async def test_only_accepted_messages_count() -> None:
    """A message above the limit is given back, so that the counter stays at the limit however hard a client retries."""
    bench = EngineBench(SMALL_TIERS)
    bench.source.at_hand["192.0.2.75"] = Scored(75)
    answers = [await bench.one() for _ in range(10)]
    assert answers.count("DUNNO") == 4
    assert bench.store.counts == {"192.0.2.75": 4}


async def test_exactly_the_limit_passes_in_one_batch() -> None:
    """Of ten messages that arrive together with a limit of four, the first four pass."""
    bench = EngineBench(SMALL_TIERS)
    bench.source.by_lookup["192.0.2.75"] = Scored(75)
    answers = await bench.ask(*[FakeRequest(client_address="192.0.2.75", instance=f"i.{n}") for n in range(10)])
    assert answers[:4] == ["DUNNO"] * 4
    assert all(answer and answer.startswith("421 ") for answer in answers[4:])
    assert bench.store.batches[0] == 10


async def test_nobody_asks_for_a_score_that_cannot_matter() -> None:
    """Lazy: no lookup below half the smallest limit, in the background from there on, waited for above the limit."""
    bench = EngineBench()
    bench.store.counts["192.0.2.75"] = 48
    await bench.one()
    assert bench.source.started == []
    await bench.one()
    assert bench.source.started == ["192.0.2.75"]
    assert bench.seen.decisions[-1].tier == "not-asked"
    bench.store.counts["192.0.2.75"] = 100
    await bench.one()
    assert bench.seen.decisions[-1].tier == "unavailable"


async def test_eager_asks_at_the_first_message() -> None:
    """With lookup = "eager" the first message starts a lookup, and still does not wait for it."""
    bench = EngineBench('[reputation]\nlookup = "eager"')
    assert await bench.one() == "DUNNO"
    assert bench.source.started == ["192.0.2.75"]


async def test_a_stale_score_decides_and_is_refreshed() -> None:
    """A score past its time is used at once while a new lookup runs."""
    bench = EngineBench()
    bench.source.at_hand["192.0.2.75"] = Scored(75)
    bench.source.fresh_until = 0
    bench.store.counts["192.0.2.75"] = 800
    action = await bench.one()
    assert action is not None
    assert action.startswith("421 ")
    assert bench.source.started == ["192.0.2.75"]


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"client_address": "127.0.0.1"}, Reason.EXEMPT),
        ({"client_address": "::1"}, Reason.EXEMPT),
        ({"client_address": "::ffff:127.0.0.1"}, Reason.EXEMPT),
        ({"client_address": "192.0.2.75", "sasl_username": "anna"}, Reason.AUTHENTICATED),
        ({"client_address": "unknown"}, Reason.NO_ADDRESS),
        ({"client_address": ""}, Reason.NO_ADDRESS),
        ({}, Reason.NO_ADDRESS),
        ({"client_address": "192.0.2.300"}, Reason.NO_ADDRESS),
        ({"client_address": "fe80::1%eth0"}, Reason.NO_ADDRESS),
        ({"client_address": "1" * 10_000}, Reason.NO_ADDRESS),
    ],
)
async def test_uncounted(attributes: dict[str, str], reason: Reason) -> None:
    """Exempt and authenticated clients and those without an address pass and are not counted."""
    bench = EngineBench()
    assert await bench.ask(FakeRequest(**attributes)) == ["DUNNO"]
    assert bench.store.counts == {}
    assert bench.seen.decisions[-1].reason is reason


async def test_authenticated_clients_count_when_configured() -> None:
    """With authenticated = false an authenticated client is counted like any other."""
    bench = EngineBench("[exempt]\nauthenticated = false")
    await bench.one(sasl_username="anna")
    assert bench.store.counts == {"192.0.2.75": 1}


async def test_overrides() -> None:
    """An override gives a score or a limit without a lookup; the longest prefix wins."""
    bench = EngineBench("""
        [[override]]
        networks = ["192.0.2.0/24"]
        score = 5
        [[override]]
        networks = ["192.0.2.128/25"]
        limit = 3
        [[override]]
        networks = ["192.0.2.200/32", "2001:db8::/32"]
        limit = "unlimited"
    """)
    bench.store.counts = {"192.0.2.1": 100, "192.0.2.129": 3, "192.0.2.200": 10**6, "2001:db8::/64": 10**6}
    assert (await bench.one("192.0.2.1") or "").startswith("421 sender score = 5, you're limited to 100 ")
    assert (await bench.one("192.0.2.129") or "").startswith("421 sender score = unknown, you're limited to 3 ")
    assert await bench.one("192.0.2.200") == "DUNNO"
    assert await bench.one("2001:db8::7") == "DUNNO"
    assert bench.source.started == []


async def test_ipv6_is_counted_per_prefix_without_a_query() -> None:
    """Two IPv6 clients of one /64 share a counter, and the zone is never asked for them."""
    bench = EngineBench("[unscored]\nlimit = 1")
    assert await bench.one("2001:db8::1") == "DUNNO"
    assert (await bench.one("2001:db8::2") or "").startswith("421 sender score = unknown, you're limited to 1 ")
    assert await bench.one("2001:db8:0:1::2") == "DUNNO"
    assert bench.source.started == []


async def test_a_v4_mapped_address_is_the_ipv4_client() -> None:
    """::ffff:192.0.2.75 and 192.0.2.75 are one client."""
    bench = EngineBench()
    await bench.one("::ffff:192.0.2.75")
    await bench.one("192.0.2.75")
    assert bench.store.counts == {"192.0.2.75": 2}


async def test_one_message_counts_once() -> None:
    """A repeat of instance and client address gets the same answer without a count, in the batch and a minute long."""
    bench = EngineBench(SMALL_TIERS)
    bench.source.at_hand["192.0.2.75"] = Scored(0)
    bench.store.counts["192.0.2.75"] = 2

    def same() -> FakeRequest:
        return FakeRequest(client_address="192.0.2.75", instance="a.1")

    first, second = await bench.ask(same(), same())
    assert first == second
    assert first != "DUNNO"
    bench.store.counts["192.0.2.75"] = 0
    bench.clock.pass_time(59)
    assert await bench.ask(same()) == [first]
    assert bench.seen.decisions[-1].reason is Reason.REPEAT
    bench.clock.pass_time(2)
    assert await bench.ask(same()) == ["DUNNO"]
    assert await bench.one("192.0.2.76", instance="a.1") == "DUNNO"
    assert bench.store.counts["192.0.2.76"] == 1


async def test_requests_that_wait_for_one_score_share_a_lookup() -> None:
    """A thousand messages of one client above the smallest limit cost one lookup, and each gets its answer."""
    bench = EngineBench(SMALL_TIERS)
    bench.source.by_lookup["192.0.2.75"] = Scored(0)
    bench.store.counts["192.0.2.75"] = 100
    lookups: list[str] = []
    lookup = bench.source.lookup

    async def counted(address: str) -> Reputation:
        lookups.append(address)
        return await lookup(address)

    bench.source.lookup = counted  # type: ignore[method-assign]
    answers = await bench.ask(*[FakeRequest(client_address="192.0.2.75") for _ in range(1000)])
    assert all(answer is not None and answer.startswith("421") for answer in answers)
    assert lookups == ["192.0.2.75"]


async def test_a_failing_lookup_fails_the_requests_that_wait_for_it() -> None:
    """An error that the program did not foresee ends these requests, and the engine goes on."""
    bench = EngineBench(SMALL_TIERS)
    bench.store.counts["192.0.2.75"] = 100

    async def failing(_address: str) -> Reputation:
        raise ZeroDivisionError

    bench.source.lookup = failing  # type: ignore[method-assign]
    request = FakeRequest(client_address="192.0.2.75")
    assert await bench.ask(request) == [None]
    assert isinstance(request.error, ZeroDivisionError)
    assert await bench.one("192.0.2.76") == "DUNNO"


async def test_the_event_loop_has_its_turn_between_batches() -> None:
    """A flood of uncounted requests does not keep another task from running."""
    bench = EngineBench()
    for _ in range(10 * MAX_BATCH):
        bench.engine.submit(FakeRequest(client_address=""))
    bench.engine.stop()
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await bench.engine.run()
    task.cancel()
    assert turns >= 9


async def test_a_long_instance_is_an_instance() -> None:
    """An instance of any length identifies a message; the table keeps a digest of a long one."""
    bench = EngineBench()
    for instance in ("x" * 9_000, "x" * 9_000, "x" * 9_001):
        assert await bench.one(instance=instance) == "DUNNO"
    assert bench.store.counts == {"192.0.2.75": 2}


async def test_a_repeat_waits_while_the_first_is_being_decided() -> None:
    """A repeat that comes while the first waits for its score gets the answer that the first gets."""
    bench = EngineBench(SMALL_TIERS)
    bench.store.counts["192.0.2.75"] = 4
    release = asyncio.Event()

    async def lookup(_: str) -> Reputation:
        await release.wait()
        return Scored(75)

    bench.source.lookup = lookup  # type: ignore[method-assign]
    first, repeat = (FakeRequest(client_address="192.0.2.75", instance="a.1") for _ in range(2))
    deciding = asyncio.create_task(bench.engine.run())
    bench.engine.submit(first)
    while not bench.engine._waiting:  # noqa: ASYNC110
        await asyncio.sleep(0)
    bench.engine.submit(repeat)
    while bench.engine._arrived:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert repeat.action is None
    release.set()
    bench.engine.stop()
    await deciding
    assert repeat.action == first.action
    assert first.action is not None
    assert first.action.startswith("421 ")
    assert bench.store.counts["192.0.2.75"] == 4


async def test_without_an_instance_every_request_counts() -> None:
    """Without an instance each request is a message of its own."""
    bench = EngineBench()
    await bench.one(instance="")
    await bench.one()
    assert bench.store.counts == {"192.0.2.75": 2}


async def test_observe_mode_permits_and_records() -> None:
    """mode = "observe" answers DUNNO, gives the message back, and records that it was over the limit."""
    bench = EngineBench('mode = "observe"\n' + SMALL_TIERS)
    bench.source.at_hand["192.0.2.75"] = Scored(0)
    assert [await bench.one() for _ in range(4)] == ["DUNNO"] * 4
    assert bench.store.counts == {"192.0.2.75": 2}
    assert [decision.reason for decision in bench.seen.decisions][-2:] == [Reason.OVER_LIMIT] * 2


async def test_recipients_count() -> None:
    """count = "recipients": a message weighs its recipients; one above the limit passes alone in an empty window."""
    bench = EngineBench('[counters]\ncount = "recipients"\n' + SMALL_TIERS)
    bench.source.at_hand["192.0.2.75"] = Scored(75)
    assert await bench.one(recipient_count=9) == "DUNNO"
    assert (await bench.one(recipient_count=1) or "").startswith("421 ")
    assert bench.store.counts["192.0.2.75"] == 9
    bench.source.at_hand["192.0.2.76"] = Scored(75)
    assert await bench.one("192.0.2.76", recipient_count=0) == "DUNNO"
    assert await bench.one("192.0.2.76", recipient_count="junk") == "DUNNO"
    assert bench.store.counts["192.0.2.76"] == 2


async def test_a_tier_may_have_its_own_reply() -> None:
    """A tier's reply replaces the general one for that tier alone."""
    bench = EngineBench("""
        [[tier]]
        scores = "0-50"
        limit = 0
        reply = "550 5.7.1 score {{ score }} of {{ client_address }}: tier {{ tier }}, {{ count }} sent"
        [[tier]]
        scores = "51-100"
        limit = "unlimited"
    """)
    bench.source.by_lookup["192.0.2.75"] = Scored(7)
    assert await bench.one() == "550 5.7.1 score 7 of 192.0.2.75: tier 0-50, 1 sent"


async def test_an_unforeseen_error_ends_one_question_alone() -> None:
    """An exception while one request is decided reaches its question; the others of the batch are answered."""
    bench = EngineBench()
    broken, sound = FakeRequest(client_address="192.0.2.1"), FakeRequest(client_address="192.0.2.2")
    known = bench.source.known

    def fail(address: str) -> object:
        if address == "192.0.2.1":
            raise ZeroDivisionError
        return known(address)

    bench.source.known = fail  # type: ignore[method-assign,assignment]
    assert await bench.ask(broken, sound) == [None, "DUNNO"]
    assert isinstance(broken.error, ZeroDivisionError)


async def test_no_repeat_waits_for_a_batch_that_failed() -> None:
    """Counters that raise fail the batch; the same message, asked about once more, is decided."""
    bench = EngineBench()
    charge = bench.engine.store.charge

    async def fail(*_: object) -> None:
        raise ZeroDivisionError

    bench.engine.store.charge = fail  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        await bench.ask(FakeRequest(client_address="192.0.2.75", instance="1.2.0"))
    bench.engine.store.charge = charge  # type: ignore[method-assign]
    bench.engine.forget_messages()
    assert await bench.ask(FakeRequest(client_address="192.0.2.75", instance="1.2.0")) == ["DUNNO"]


async def test_the_engine_goes_on_after_a_batch_that_failed() -> None:
    """What arrived behind a batch that failed as a whole is decided by the next run, without another request."""
    bench = EngineBench()
    charge = bench.store.charge

    async def fail(*_: object) -> None:
        raise ZeroDivisionError

    bench.store.charge = fail  # type: ignore[method-assign]
    requests = [FakeRequest(client_address="192.0.2.75") for _ in range(MAX_BATCH + 1)]
    for request in requests:
        bench.engine.submit(request)
    with pytest.raises(ZeroDivisionError):
        await bench.engine.run()
    bench.store.charge = charge  # type: ignore[method-assign]
    deciding = asyncio.create_task(bench.engine.run())
    async with asyncio.timeout(10):
        while requests[-1].action is None:  # noqa: ASYNC110
            await asyncio.sleep(0)
    bench.engine.stop()
    await deciding
    assert [request.action for request in requests] == [None] * MAX_BATCH + ["DUNNO"]


async def test_new_rules_hold_from_the_next_request_on() -> None:
    """After a reload the next request is decided by the new rules, remembered clients included."""
    bench = EngineBench()
    assert await bench.one() == "DUNNO"
    bench.engine.policy = EngineBench('[[override]]\nnetworks = ["192.0.2.75/32"]\nlimit = 1').engine.policy
    assert (await bench.one() or "").startswith("421 ")
