"""The engine with the real counters against a simple model: the list of each client's accepted messages."""

import asyncio
import math
from collections import defaultdict
from typing import NamedTuple

import hypothesis.strategies as st
from fakes import FakeClock, FakeRequest, FakeSource, Recorder
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from senderscore_policy.config.load import parse
from senderscore_policy.config.model import policy_of
from senderscore_policy.counters.memory import MemoryStore
from senderscore_policy.policy.clients import parse_address
from senderscore_policy.policy.decision import Reason
from senderscore_policy.policy.engine import Engine
from senderscore_policy.policy.reputation import Scored

SCORES = {"192.0.2.1": 0, "192.0.2.2": 50, "192.0.2.3": 100}
"""What the zone says; the last one is asked for with a wait."""
LIMITS = {
    "192.0.2.1": 2, "192.0.2.2": 5, "192.0.2.3": 9,
    "198.51.100.1": 5, "198.51.100.2": 4, "198.51.100.3": 0, "198.51.100.4": math.inf,
    "2001:db8::1": 3,
}  # fmt: skip
"""By score, by an override of the score, by an override of the limit, and for a client that the zone cannot know."""
CLIENTS = sorted(LIMITS)
EXEMPT = "127.0.0.1"
CONFIG = """
[counters]
window = 600
algorithm = "{algorithm}"
buckets = {buckets}
count = "{count}"
[unscored]
limit = 3
[[tier]]
scores = "0-30"
limit = 2
[[tier]]
scores = "31-60"
limit = 5
[[tier]]
scores = "61-100"
limit = 9
[[override]]
networks = ["198.51.100.1"]
score = 50
[[override]]
networks = ["198.51.100.2"]
limit = 4
[[override]]
networks = ["198.51.100.3"]
limit = 0
[[override]]
networks = ["198.51.100.4"]
limit = "unlimited"
"""
WHO = st.sampled_from(CLIENTS)


class CountedRequest(NamedTuple):
    """An accepted message of the model."""

    time: float
    amount: int


class EngineAgainstModel(RuleBasedStateMachine):
    """Messages at any times, singly and in batches, with recipients, repeats, resets and restarts."""

    @initialize(
        algorithm=st.sampled_from(["sliding", "fixed"]),
        buckets=st.sampled_from([2, 5, 12]),
        count=st.sampled_from(["messages", "recipients"]),
        phase=st.floats(0, 1200),
    )
    def start(self, algorithm: str, buckets: int, count: str, phase: float) -> None:
        self.config = parse(CONFIG.format(algorithm=algorithm, buckets=buckets, count=count), "model.toml")
        self.window = self.config.counters.window_of_time()
        self.by_recipients = count == "recipients"
        self.clock = FakeClock()
        self.clock.pass_time(phase)
        self.store = MemoryStore(self.window, self.clock)
        source = FakeSource()
        source.at_hand = {"192.0.2.1": Scored(0), "192.0.2.2": Scored(50)}
        source.by_lookup = {"192.0.2.3": Scored(100)}
        self.seen = Recorder()
        self.engine = Engine(policy_of(self.config), self.store, source, self.clock, [self.seen])
        self.accepted: dict[str, list[CountedRequest]] = defaultdict(list)
        self.count = 0
        self.runner = asyncio.Runner()

    def teardown(self) -> None:
        # An example may end before `start`.
        if hasattr(self, "runner"):
            self.runner.close()

    def submit(self, askers: list[FakeRequest]) -> None:
        for asker in askers:
            self.engine.submit(asker)
        self.engine.stop()
        self.runner.run(self.engine.run())
        assert all(asker.error is None and asker.action is not None for asker in askers)

    def amount(self, recipients: int) -> int:
        return max(1, recipients) if self.by_recipients else 1

    def recent(self, address: str, reach: float) -> int:
        """The number of the client's messages that passed within the last `reach` seconds."""
        return sum(message.amount for message in self.accepted[address] if message.time > self.clock.now - reach)

    @rule(seconds=st.floats(0, 700))
    def time_passes(self, seconds: float) -> None:
        self.clock.pass_time(seconds)

    @rule(messages=st.lists(st.tuples(WHO, st.integers(0, 6)), min_size=1, max_size=15))
    def messages_come(self, messages: list[tuple[str, int]]) -> None:
        """In one batch; an answer must be one that the list of accepted messages allows."""
        askers = []
        for address, recipients in messages:
            self.count += 1
            attributes = {"client_address": address, "recipient_count": recipients, "instance": f"m{self.count}"}
            askers.append(FakeRequest(**attributes))
        self.submit(askers)
        largest = 0
        for (address, recipients), asker in zip(messages, askers, strict=True):
            amount = self.amount(recipients)
            largest = max(largest, amount)
            if asker.action == "DUNNO":
                self.accepted[address].append(CountedRequest(self.clock.now, amount))
                continue
            # Refused: with those of its batch that were refused before it, and are given back only after the batch,
            # the client had more than its limit within the window and a bucket.
            reach = self.window.seconds + self.window.bucket_seconds
            beside = sum(
                self.amount(others) for (other, others), each in zip(messages, askers, strict=True)
                if other == address and each.action != "DUNNO"
            )  # fmt: skip
            assert self.recent(address, reach) + beside > LIMITS[address]

    @rule(address=WHO)
    def a_message_alone_is_let_through_or_the_limit_is_reached(self, address: str) -> None:
        """Nothing that was refused before is held against a client: all of it was given back."""
        asker = FakeRequest(client_address=address)
        self.submit([asker])
        if asker.action == "DUNNO":
            self.accepted[address].append(CountedRequest(self.clock.now, 1))
        else:
            reach = self.window.seconds + self.window.bucket_seconds
            assert self.recent(address, reach) >= LIMITS[address]

    @rule(address=WHO, together=st.booleans())
    def a_request_is_repeated(self, address: str, together: bool) -> None:
        """In the same batch or later: the same answer, and one message counted."""
        self.count += 1
        same = [FakeRequest(client_address=address, instance=f"m{self.count}") for _ in range(3)]
        for askers in [same] if together else [[asker] for asker in same]:
            self.submit(askers)
        assert len({asker.action for asker in same}) == 1
        assert [decision.reason for decision in self.seen.decisions[-2:]] == [Reason.REPEAT] * 2
        if same[0].action == "DUNNO":
            self.accepted[address].append(CountedRequest(self.clock.now, 1))

    @rule()
    def nobody_counts_who_is_not_to_be_counted(self) -> None:
        """Exempt networks, authenticated clients and those without an address pass, always."""
        askers = [
            FakeRequest(client_address=EXEMPT),
            FakeRequest(client_address="198.51.100.3", sasl_username="joe"),
            FakeRequest(),
        ]
        self.submit(askers)
        assert [asker.action for asker in askers] == ["DUNNO"] * 3

    @rule(address=WHO)
    def the_administrator_resets(self, address: str) -> None:
        """The client's count starts at zero."""
        self.runner.run(self.store.reset([self.key(address)]))
        self.accepted[address].clear()

    def key(self, text: str) -> str:
        """What the client is counted under."""
        address = parse_address(text)
        assert address is not None
        return self.engine.policy.directory.client(address).key

    @rule()
    def the_daemon_restarts(self) -> None:
        lines = list(self.store.snapshot())
        self.store = MemoryStore(self.window, self.clock)
        self.store.restore(lines)
        self.engine.store = self.store

    @invariant()
    def nobody_gets_more_than_the_limit(self) -> None:
        """In a fixed window, and within a sliding one less a bucket, never more than the limit is accepted.

        Only a message of more recipients than the limit passes alone.
        """
        for address, messages in self.accepted.items():
            for within in self.spans(messages):
                total = sum(message.amount for message in within)
                assert total <= LIMITS[address] or len(within) == 1

    def spans(self, messages: list[CountedRequest]) -> list[list[CountedRequest]]:
        """The messages of each stretch of time in which no more than the limit may pass."""
        if self.window.buckets == 1:
            hours: dict[float, list[CountedRequest]] = defaultdict(list)
            for message in messages:
                hours[message.time // self.window.seconds].append(message)
            return list(hours.values())
        span = self.window.seconds - self.window.bucket_seconds
        return [
            [message for message in messages[index:] if message.time < first.time + span]
            for index, first in enumerate(messages)
        ]

    @invariant()
    def the_counters_hold_what_was_accepted(self) -> None:
        """After every batch the store has counted exactly the accepted messages that are still in view."""
        view = self.window.view(self.clock.now)
        usages = self.runner.run(self.store.read([self.key(address) for address in CLIENTS]))
        for address, usage in zip(CLIENTS, usages, strict=True):
            expected: dict[int, int] = defaultdict(int)
            for message in self.accepted[address]:
                expected[int(message.time // self.window.bucket_seconds)] += message.amount
            assert usage.count == view.total(expected)


EngineAgainstModel.TestCase.settings = settings(max_examples=40, stateful_step_count=30)
TestEngineAgainstModel = EngineAgainstModel.TestCase
