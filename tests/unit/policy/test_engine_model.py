"""The engine with the real counters against a simple model: the list of each client's accepted messages."""

import asyncio
from collections import defaultdict

import hypothesis.strategies as st
from engine_fakes import Asker, FakeClock, FakeSource, Recorder
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from senderscore_policy.config.load import parse
from senderscore_policy.config.rules import rules_of
from senderscore_policy.counters.memory import MemoryStore
from senderscore_policy.policy.engine import Engine
from senderscore_policy.policy.reputation import Scored

CLIENTS = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
LIMITS = dict(zip(CLIENTS, [2, 5, 9], strict=True))
CONFIG = """
[counters]
window = 600
algorithm = "{algorithm}"
buckets = {buckets}
[[tier]]
scores = "0-30"
limit = 2
[[tier]]
scores = "31-60"
limit = 5
[[tier]]
scores = "61-100"
limit = 9
"""


class EngineAgainstModel(RuleBasedStateMachine):
    """Messages at any times, singly and in batches, repeats, resets and restarts."""

    @initialize(algorithm=st.sampled_from(["sliding", "fixed"]), buckets=st.sampled_from([2, 5, 12]))
    def start(self, algorithm: str, buckets: int) -> None:
        self.config = parse(CONFIG.format(algorithm=algorithm, buckets=buckets), "model.toml")
        self.window = self.config.counters.window_of_time()
        self.clock = FakeClock()
        self.store = MemoryStore(self.window, self.clock)
        source = FakeSource()
        source.at_hand = dict(zip(CLIENTS, [Scored(0), Scored(50), Scored(100)], strict=True))
        self.engine = Engine(rules_of(self.config), self.store, source, self.clock, [Recorder()])
        self.accepted: dict[str, list[float]] = defaultdict(list)
        self.messages = 0

    def ask(self, addresses: list[str]) -> list[str | None]:
        askers = []
        for address in addresses:
            self.messages += 1
            askers.append(Asker(client_address=address, instance=f"m{self.messages}"))
        self.submit(askers)
        return [asker.action for asker in askers]

    def submit(self, askers: list[Asker]) -> None:
        for asker in askers:
            self.engine.submit(asker)
        self.engine.stop()
        asyncio.run(self.engine.run())

    @rule(seconds=st.floats(0, 700))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(addresses=st.lists(st.sampled_from(CLIENTS), min_size=1, max_size=15))
    def messages_come(self, addresses: list[str]) -> None:
        for address, action in zip(addresses, self.ask(addresses), strict=True):
            assert action is not None
            if action == "DUNNO":
                self.accepted[address].append(self.clock.now)
            else:
                # A client above its limit has sent its limit within the window and a bucket.
                reach = self.window.seconds + self.window.bucket_seconds
                recent = [t for t in self.accepted[address] if t > self.clock.now - reach]
                assert len(recent) >= LIMITS[address]

    @rule(address=st.sampled_from(CLIENTS))
    def a_request_is_repeated(self, address: str) -> None:
        same = [Asker(client_address=address, instance="again") for _ in range(3)]
        self.submit(same)
        assert len({asker.action for asker in same}) == 1
        if same[0].action == "DUNNO":
            self.accepted[address].append(self.clock.now)
        self.clock.now += 61

    @rule(address=st.sampled_from(CLIENTS))
    def the_administrator_resets(self, address: str) -> None:
        asyncio.run(self.store.reset([address]))
        self.accepted[address].clear()

    @rule()
    def the_daemon_restarts(self) -> None:
        lines = list(self.store.snapshot())
        self.store = MemoryStore(self.window, self.clock)
        self.store.restore(lines)
        self.engine.store = self.store

    @invariant()
    def nobody_gets_more_than_the_limit(self) -> None:
        """In a fixed window, and within a sliding one less a bucket, never more than the limit is accepted."""
        for address, times in self.accepted.items():
            if self.window.buckets:
                span = self.window.seconds - self.window.bucket_seconds
                for index, first in enumerate(times):
                    assert sum(t < first + span for t in times[index:]) <= LIMITS[address]
            else:
                hours = defaultdict(int)
                for t in times:
                    hours[t // self.window.seconds] += 1
                assert all(count <= LIMITS[address] for count in hours.values())


EngineAgainstModel.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestEngineAgainstModel = EngineAgainstModel.TestCase
