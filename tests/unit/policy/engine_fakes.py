"""Fakes written against the engine's ports."""

from collections.abc import Sequence
from types import TracebackType

from senderscore_policy.config.load import parse
from senderscore_policy.config.model import rules_of
from senderscore_policy.policy.decision import Decision
from senderscore_policy.policy.engine import Engine
from senderscore_policy.policy.ports import Charge, Usage
from senderscore_policy.policy.protocol import Request
from senderscore_policy.policy.reputation import Known, Reputation, Unavailable

FOREVER = 1e12


class FakeClock:
    """Time that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class FakeStore:
    """Counts in a dictionary without a window."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.batches: list[int] = []

    async def charge(self, charges: Sequence[Charge], refunds: Sequence[Charge]) -> None:
        self.batches.append(len(charges))
        for refund in refunds:
            self.counts[str(refund.receipt)] -= refund.amount
        for charge in charges:
            self.counts[charge.key] = charge.messages = self.counts.get(charge.key, 0) + charge.amount
            charge.receipt = charge.key

    async def read(self, clients: Sequence[str]) -> list[Usage]:
        return [Usage(self.counts.get(client, 0), {}) for client in clients]

    async def reset(self, clients: Sequence[str]) -> None:
        for client in clients:
            self.counts.pop(client, None)


class FakeSource:
    """Reputations from a dictionary: `at_hand` at once, `by_lookup` after a wait."""

    def __init__(self) -> None:
        self.at_hand: dict[str, Reputation] = {}
        self.by_lookup: dict[str, Reputation] = {}
        self.started: list[str] = []
        self.fresh_until = FOREVER

    def known(self, address: str) -> Known | None:
        reputation = self.at_hand.get(address)
        return reputation and Known(reputation, 0, self.fresh_until, "dns")

    def start(self, address: str) -> None:
        self.started.append(address)

    async def lookup(self, address: str) -> Reputation:
        return self.by_lookup.get(address, Unavailable("timeout"))


class Asker:
    """A question that keeps its answer."""

    def __init__(self, **attributes: object) -> None:
        lines = "".join(f"{name}={value}\n" for name, value in attributes.items())
        self.request = Request(f"\nrequest=smtpd_access_policy\n{lines}".encode())
        self.action: str | None = None
        self.error: BaseException | None = None

    def answer(self, action: str) -> None:
        assert self.action is None
        self.action = action

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.error = error
        return isinstance(error, Exception)


class Recorder:
    """An observer that keeps every decision."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []

    def decided(self, decisions: Sequence[Decision]) -> None:
        self.decisions.extend(decisions)


class Bench:
    """An engine with fakes around it."""

    def __init__(self, toml: str = "") -> None:
        self.clock = FakeClock()
        self.store = FakeStore()
        self.source = FakeSource()
        self.seen = Recorder()
        self.engine = Engine(rules_of(parse(toml, "test.toml")), self.store, self.source, self.clock, [self.seen])

    async def ask(self, *askers: Asker) -> list[str | None]:
        """Submit these in one batch and wait for every answer."""
        for asker in askers:
            self.engine.submit(asker)
        self.engine.stop()
        await self.engine.run()
        return [asker.action for asker in askers]

    async def one(self, address: str = "192.0.2.75", **attributes: object) -> str | None:
        """The answer to one request."""
        return (await self.ask(Asker(client_address=address, **attributes)))[0]
