"""The engine: takes requests in batches, counts them, and answers.

A batch is everything that arrived while the one before it was being counted. It is planned (which
requests count, under which key), charged to the counters in one await, and concluded. A request
whose score matters and is not at hand leaves its batch and finishes by itself.
"""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Protocol

from senderscore_policy.policy.address import Client, parse_address
from senderscore_policy.policy.decision import Decision, Reason
from senderscore_policy.policy.generations import GenerationalCache
from senderscore_policy.policy.ports import Charge, Clock, CounterStore, Observer, Refund, ReputationSource, Tally
from senderscore_policy.policy.protocol import Request
from senderscore_policy.policy.repeats import RepeatTable
from senderscore_policy.policy.reply import PERMIT
from senderscore_policy.policy.reputation import Reputation
from senderscore_policy.policy.rules import Rules, within
from senderscore_policy.policy.tiers import UNLIMITED, Rule

MAX_BATCH: Final = 1000
"""Requests decided together at most, so that a flood on one connection does not hold up the others."""
MAX_CLIENTS: Final = 50_000
"""Clients whose parsed address is kept; the others are parsed again."""
LONGEST_ADDRESS: Final = 45
"""Characters of an IPv6 address that ends in an IPv4 one (RFC 4291, 2.2); nothing longer is looked at."""
_NO_CLIENT: Final = Client("")


class Question(Protocol):
    """A request with somebody who waits for its answer.

    The engine works on it inside `with question:`; what nobody foresaw there ends this question
    alone, without an answer.
    """

    request: Request

    def answer(self, action: str) -> None:
        """Send the action to Postfix."""

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Take an exception over, so that the engine goes on with the next question."""


class Message:
    """A counted message on its way to a decision; `with message:` is `with question:` for all who ask for it.

    Attributes:
        questions: who asked first, then those whose request repeats the same message. Empty once
            there is an answer.
        action: the answer, once there is one.
    """

    __slots__ = ("action", "amount", "client", "questions")

    def __init__(self, question: Question, client: Client, amount: int) -> None:
        self.questions: tuple[Question, ...] = (question,)
        self.client = client
        self.amount = amount
        self.action: str | None = None

    def __enter__(self) -> None:
        """Begin work on the message."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Let its questions take an exception over; a later repeat is permitted, it must not wait for ever."""
        if error is None:
            return False
        questions, self.questions, self.action = self.questions, (), PERMIT
        taken_over = True
        for question in questions:
            taken_over &= question.__exit__(kind, error, trace)
        return taken_over


class Engine:
    """Decides requests. `stopped` tells whether it has been asked to stop.

    Args:
        rules: the site's policy; assign anew to change it.
        store: the counters; assign anew to change them.
        source: the reputations.
        clock: time.
        observers: told of every batch of decisions.
    """

    def __init__(
        self, rules: Rules, store: CounterStore, source: ReputationSource, clock: Clock, observers: Sequence[Observer]
    ) -> None:
        self._rules = rules
        self.store = store
        self._source = source
        self._clock = clock
        self._observers = observers
        self._clients: GenerationalCache[bytes, Client] = GenerationalCache(MAX_CLIENTS)
        self._repeats: RepeatTable[Message] = RepeatTable()
        self._arrived: list[Question] = []
        self._refunds: list[Refund] = []
        self._decisions: list[Decision] = []
        self._waiting: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self.stopped = False
        self._time = self._monotonic = 0.0

    @property
    def rules(self) -> Rules:
        """The policy in force."""
        return self._rules

    @rules.setter
    def rules(self, rules: Rules) -> None:
        self._rules = rules
        self._clients.clear()

    def submit(self, question: Question) -> None:
        """Take a request into the next batch."""
        self._arrived.append(question)
        self._wake.set()

    def stop(self) -> None:
        """Let `run` return once everything in hand is answered."""
        self.stopped = True
        self._wake.set()

    async def run(self) -> None:
        """Decide batch after batch, until `stop` and everything in hand is answered."""
        while not self.stopped or self._arrived or self._refunds or self._waiting:
            await self._wake.wait()
            self._wake.clear()
            while self._arrived or self._refunds:
                await self._next_batch()
                # What has arrived meanwhile joins the refunds of this batch in one round trip.
                await asyncio.sleep(0)
            if self.stopped and self._waiting:
                # Lookups end by their deadline.
                await asyncio.wait(self._waiting)
                self._wake.set()

    async def _next_batch(self) -> None:
        batch, self._arrived = self._arrived[:MAX_BATCH], self._arrived[MAX_BATCH:]
        refunds, self._refunds = self._refunds, []
        self._time, self._monotonic = self._clock.time(), self._clock.monotonic()
        messages: list[Message] = []
        for question in batch:
            with question:
                self._plan(question, messages)
        charges = [Charge(message.client.key, message.amount) for message in messages]
        if charges or refunds:
            tallies = await self.store.charge(charges, refunds)
            for message, tally in zip(messages, tallies, strict=True):
                with message:
                    self._conclude(message, tally)
        self._report()

    def _plan(self, question: Question, messages: list[Message]) -> None:
        """Answer the request at once, or add it to the messages to be counted."""
        request = question.request
        address = request.after(b"\nclient_address=")
        client = self._clients.get(address) or self._enter(address)
        if client is _NO_CLIENT:
            self._uncounted(question, None, Reason.NO_ADDRESS)
        elif client.exempt:
            self._uncounted(question, client, Reason.EXEMPT)
        elif self._rules.exempt_authenticated and request.after(b"\nsasl_username="):
            self._uncounted(question, client, Reason.AUTHENTICATED)
        else:
            message = Message(question, client, self._amount(request))
            instance = request.after(b"\ninstance=")
            first = instance and self._repeats.first(instance + b" " + address, message, self._monotonic)
            if first:
                self._repeat(question, first)
            else:
                messages.append(message)

    def _enter(self, address: bytes) -> Client:
        if len(address) > LONGEST_ADDRESS:
            return _NO_CLIENT
        parsed = parse_address(address.decode("ascii", "replace"))
        client = self._rules.directory.client(parsed) if parsed else _NO_CLIENT
        self._clients.put(address, client)
        return client

    def _amount(self, request: Request) -> int:
        if not self._rules.count_recipients:
            return 1
        count = request.after(b"\nrecipient_count=")
        return max(1, int(count)) if count.isdigit() and len(count) < 10 else 1

    def _repeat(self, question: Question, first: Message) -> None:
        """Answer as the first request for the message was answered, or will be."""
        if first.action is None:
            first.questions += (question,)
        else:
            self._uncounted(question, first.client, Reason.REPEAT, first.action)

    def _uncounted(self, question: Question, client: Client | None, reason: Reason, action: str = PERMIT) -> None:
        """Answer a request that is not counted."""
        decision = Decision(question.request, client, reason, action, 0, "none", UNLIMITED, None, self._time)
        self._decisions.append(decision)
        question.answer(action)

    def _conclude(self, message: Message, tally: Tally) -> None:
        """Decide a counted message, unless its score matters and must be waited for."""
        client, rules = message.client, self._rules
        reputation = client.reputation
        if client.rule is not None:
            self._decide(message, tally, client.rule, reputation)
            return
        if reputation is None and client.address is not None:
            known = self._source.known(client.address)
            if (known is None or known.fresh_until <= self._time) and tally.messages >= rules.ask_from:
                self._source.start(client.address)
            if known is not None:
                reputation = known.reputation
        if reputation is not None:
            self._decide(message, tally, rules.tiers.rule_for(reputation), reputation)
        elif within(rules.tiers.not_asked.limit, tally.messages, message.amount):
            self._decide(message, tally, rules.tiers.not_asked, None)
        elif client.address is not None:
            task = asyncio.create_task(self._await_score(message, tally, client.address))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)

    async def _await_score(self, message: Message, tally: Tally, address: str) -> None:
        with message:
            reputation = await self._source.lookup(address)
            self._decide(message, tally, self._rules.tiers.rule_for(reputation), reputation)
            self._report()

    def _decide(self, message: Message, tally: Tally, rule: Rule, reputation: Reputation | None) -> None:
        """Hold the message to the rule, answer all who asked for it, and record the decision."""
        first, *repeats = message.questions
        client = message.client
        if within(rule.limit, tally.messages, message.amount):
            reason, action = Reason.WITHIN_LIMIT, PERMIT
        else:
            reason = Reason.OVER_LIMIT
            action = self._rules.action(rule, reputation, tally.messages, first.request)
            self._refunds.append(Refund(tally.receipt, message.amount))
            self._wake.set()
        decision = Decision(
            first.request, client, reason, action, tally.messages, rule.name, rule.limit, reputation, self._time
        )
        self._decisions.append(decision)
        message.action = action
        first.answer(action)
        for repeat in repeats:
            self._uncounted(repeat, client, Reason.REPEAT, action)
        message.questions = ()

    def _report(self) -> None:
        decisions, self._decisions = self._decisions, []
        if decisions:
            for observer in self._observers:
                observer.decided(decisions)
