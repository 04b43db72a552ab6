"""The engine: takes requests in batches, counts them, and answers.

A batch is everything that arrived while the one before it was being counted. It is planned (which
requests count, under which key), charged to the counters in one await, and concluded. A request
whose score matters and is not at hand leaves its batch and finishes by itself.
"""

import asyncio
from collections.abc import Sequence
from math import inf
from typing import Final

from senderscore_policy.policy.bounded import GenerationalCache, RepeatTable
from senderscore_policy.policy.clients import Client, parse_address
from senderscore_policy.policy.decision import Decision, Reason
from senderscore_policy.policy.message import NOBODY, Message, Question, Sender
from senderscore_policy.policy.policy import Rules, within
from senderscore_policy.policy.ports import Clock, CounterStore, Observer, ReputationSource
from senderscore_policy.policy.protocol import Request
from senderscore_policy.policy.reply import PERMIT
from senderscore_policy.policy.reputation import Reputation
from senderscore_policy.policy.tiers import UNLIMITED, Rule

MAX_BATCH: Final = 1000
"""Requests decided together at most, so that a flood on one connection does not hold up the others."""
MAX_CLIENTS: Final = 40_000
"""Clients whose parsed address is kept; the others are parsed again."""
LONGEST_ADDRESS: Final = 45
"""Characters of an IPv6 address that ends in an IPv4 one (RFC 4291, 2.2); nothing longer is looked at."""
RULE_FOR: Final = 60.0
"""Seconds for which a client is held to the rule of its score before the score is looked at again."""


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
        self._senders: GenerationalCache[bytes, Sender] = GenerationalCache(MAX_CLIENTS)
        self._repeats: RepeatTable[Message] = RepeatTable()
        self._arrived: list[Question] = []
        self._refunds: list[Message] = []
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
        self._senders.clear()

    def submit(self, question: Question) -> None:
        """Take a request into the next batch."""
        if not self._arrived:
            self._wake.set()
        self._arrived.append(question)

    def stop(self) -> None:
        """Let `run` return once everything in hand is answered."""
        self.stopped = True
        self._wake.set()

    def forget_messages(self) -> None:
        """Forget who has asked: a batch failed as a whole, and no repeat is to wait for its answer."""
        self._repeats = RepeatTable()

    async def run(self) -> None:
        """Decide batch after batch, until `stop` and everything in hand is answered."""
        while not self.stopped or self._arrived or self._refunds or self._waiting:
            await self._wake.wait()
            self._wake.clear()
            while self._arrived or self._refunds:
                await self._next_batch()
                if self._refunds and not self._arrived:
                    # What arrives now joins the refunds of this batch in one round trip.
                    await asyncio.sleep(0)
            if self.stopped and self._waiting:
                # Lookups end by their deadline.
                await asyncio.wait(self._waiting)
                self._wake.set()

    async def _next_batch(self) -> None:
        batch, self._arrived = self._arrived[:MAX_BATCH], self._arrived[MAX_BATCH:]
        refunds, self._refunds = self._refunds, []
        self._time, self._monotonic = self._clock.time(), self._clock.monotonic()
        messages = self._plan(batch)
        # Who is not counted need not wait for the counters.
        self._report()
        if messages or refunds:
            rules = self._rules
            await self.store.charge(messages, refunds)
            # After a reload meanwhile nobody is held to a rule of the old policy.
            now = self._monotonic if rules is self._rules else inf
            for message in messages:
                with message:
                    sender = message.sender
                    if sender.rule is not None and sender.until > now:
                        self._decide(message, sender.rule, sender.reputation)
                    else:
                        self._conclude(message)
        self._report()

    def _plan(self, batch: Sequence[Question]) -> list[Message]:
        """Answer each request at once, or make a message of it that is to be counted."""
        messages = []
        known = self._senders.young.get
        exempt_authenticated, count_recipients = self._rules.exempt_authenticated, self._rules.count_recipients
        for question in batch:
            with question:
                request = question.request
                address = request.after(b"\nclient_address=")
                sender = known(address) or self._sender(address)
                if sender.uncounted is not None:
                    client = None if sender is NOBODY else sender.client
                    self._uncounted(question, client, sender.uncounted)
                elif exempt_authenticated and request.after(b"\nsasl_username="):
                    self._uncounted(question, sender.client, Reason.AUTHENTICATED)
                else:
                    amount = _recipients(request) if count_recipients else 1
                    message = Message(question, sender, amount, self._monotonic)
                    instance = request.after(b"\ninstance=")
                    first = self._repeats.first(instance + b" " + address, message) if instance else None
                    if first is None:
                        messages.append(message)
                    else:
                        self._repeat(question, first)
        return messages

    def _sender(self, address: bytes) -> Sender:
        """Who is behind a client_address."""
        sender = self._senders.get(address)
        if sender is None:
            if len(address) > LONGEST_ADDRESS:
                return NOBODY
            sender = self._new_sender(address.decode("ascii", "replace"))
            self._senders.put(address, sender)
        return sender

    def _new_sender(self, address: str) -> Sender:
        parsed = parse_address(address)
        if parsed is None:
            return NOBODY
        client = self._rules.directory.client(parsed)
        sender = Sender(client, Reason.EXEMPT if client.exempt else None)
        if client.rule is not None:
            sender.hold_to(client.rule, client.reputation, inf)
        elif client.reputation is not None:
            sender.hold_to(self._rules.tiers.rule_for(client.reputation), client.reputation, inf)
        return sender

    def _repeat(self, question: Question, first: Message) -> None:
        """Answer as the first request for the message was answered, or will be."""
        if first.action is None:
            first.questions += (question,)
        else:
            self._uncounted(question, first.sender.client, Reason.REPEAT, first.action)

    def _uncounted(self, question: Question, client: Client | None, reason: Reason, action: str = PERMIT) -> None:
        """Answer a request that is not counted."""
        decision = Decision(question.request, client, reason, action, 0, "none", UNLIMITED, None, self._time)
        self._decisions.append(decision)
        question.answer(action)

    def _conclude(self, message: Message) -> None:
        """Decide a counted message by what is known of its sender, unless its score matters and must be waited for."""
        sender, rules = message.sender, self._rules
        address, reputation = sender.client.address, sender.client.reputation
        if sender.client.rule is not None:
            self._decide(message, sender.client.rule, reputation)
            return
        if reputation is None and address is not None:
            known = self._source.known(address)
            fresh_for = 0.0 if known is None else known.fresh_until - self._time
            if fresh_for <= 0 and message.messages >= rules.ask_from:
                self._source.start(address)
            if known is not None:
                reputation = known.reputation
                sender.hold_to(rules.tiers.rule_for(reputation), reputation, self._monotonic + min(fresh_for, RULE_FOR))
        if reputation is not None:
            self._decide(message, rules.tiers.rule_for(reputation), reputation)
        elif within(rules.tiers.not_asked.limit, message.messages, message.amount):
            self._decide(message, rules.tiers.not_asked, None)
        elif address is not None:
            task = asyncio.create_task(self._await_score(message, address))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)

    async def _await_score(self, message: Message, address: str) -> None:
        with message:
            reputation = await self._source.lookup(address)
            self._decide(message, self._rules.tiers.rule_for(reputation), reputation)
            self._report()

    def _decide(self, message: Message, rule: Rule, reputation: Reputation | None) -> None:
        """Hold the message to the rule, answer all who asked for it, and record the decision."""
        questions = message.questions
        client, count = message.sender.client, message.messages
        request = questions[0].request
        if within(rule.limit, count, message.amount):
            reason, action = Reason.WITHIN_LIMIT, PERMIT
        else:
            reason = Reason.OVER_LIMIT
            action = self._rules.action(rule, reputation, count, request)
            self._refunds.append(message)
            self._wake.set()
        message.action = action
        decision = Decision(request, client, reason, action, count, rule.name, rule.limit, reputation, self._time)
        self._decisions.append(decision)
        questions[0].answer(action)
        for repeat in questions[1:]:
            self._uncounted(repeat, client, Reason.REPEAT, action)
        message.questions = ()

    def _report(self) -> None:
        decisions, self._decisions = self._decisions, []
        if decisions:
            for observer in self._observers:
                observer.decided(decisions)


def _recipients(request: Request) -> int:
    """How often the message counts."""
    count = request.after(b"\nrecipient_count=")
    return max(1, int(count)) if count.isdigit() and len(count) < 10 else 1
