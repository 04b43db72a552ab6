"""The engine: takes requests in batches, counts them, and answers.

A batch is everything that arrived while the one before it was being counted. It is planned (which
requests count, under which key), charged to the counters in one await, and concluded. A request
whose score matters and is not at hand leaves its batch and finishes by itself.
"""

import asyncio
from collections.abc import Sequence
from math import inf
from typing import Final

from senderscore_policy.policy.bounded import BoundedCache, RepeatTable
from senderscore_policy.policy.clients import Client, parse_address
from senderscore_policy.policy.decision import Decision, Reason
from senderscore_policy.policy.message import NOBODY, CachedClient, CountedRequest, PendingRequest
from senderscore_policy.policy.policy import Policy, within
from senderscore_policy.policy.ports import Clock, CounterStore, Observer, ReputationSource
from senderscore_policy.policy.protocol import Request
from senderscore_policy.policy.reply import PERMIT
from senderscore_policy.policy.reputation import Reputation
from senderscore_policy.policy.tiers import UNLIMITED, Limit

MAX_BATCH: Final = 1000
"""Requests decided together at most, so that a flood on one connection does not hold up the others."""
MAX_CLIENTS: Final = 40_000
"""Clients whose parsed address is kept; the others are parsed again."""
LONGEST_ADDRESS: Final = 45
"""Characters of an IPv6 address that ends in an IPv4 one (RFC 4291, 2.2); nothing longer is looked at."""
RULE_FOR: Final = 60.0
"""Seconds for which a client is held to the limit of its score before the score is looked at again."""


class Engine:
    """Decides requests. `stopped` tells whether it has been asked to stop.

    Args:
        policy: the site's policy; assign anew to change it.
        store: the counters; assign anew to change them.
        source: the reputations.
        clock: time.
        observers: told of every batch of decisions.
    """

    def __init__(
        self, policy: Policy, store: CounterStore, source: ReputationSource, clock: Clock, observers: Sequence[Observer]
    ) -> None:
        self._policy = policy
        self.store = store
        self._source = source
        self._clock = clock
        self._observers = observers
        self._senders: BoundedCache[bytes, CachedClient] = BoundedCache(MAX_CLIENTS)
        self._repeats: RepeatTable[CountedRequest] = RepeatTable()
        self._arrived: list[PendingRequest] = []
        self._refunds: list[CountedRequest] = []
        self._decisions: list[Decision] = []
        self._waiting: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self.stopped = False
        self._time = self._monotonic = 0.0

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._policy = policy
        self._senders.clear()

    def submit(self, question: PendingRequest) -> None:
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
            policy = self._policy
            await self.store.charge(messages, refunds)
            # After a reload meanwhile nobody is held to a limit of the old policy.
            now = self._monotonic if policy is self._policy else inf
            for message in messages:
                with message:
                    sender = message.sender
                    if sender.limit is not None and sender.until > now:
                        self._decide(message, sender.limit, sender.reputation)
                    else:
                        self._conclude(message)
        self._report()

    def _plan(self, batch: Sequence[PendingRequest]) -> list[CountedRequest]:
        """Answer each request at once, or make a message of it that is to be counted."""
        messages = []
        known = self._senders.young.get
        exempt_authenticated, count_recipients = self._policy.exempt_authenticated, self._policy.count_recipients
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
                    message = CountedRequest(question, sender, amount, self._monotonic)
                    instance = request.after(b"\ninstance=")
                    first = self._repeats.first(instance + b" " + address, message) if instance else None
                    if first is None:
                        messages.append(message)
                    else:
                        self._repeat(question, first)
        return messages

    def _sender(self, address: bytes) -> CachedClient:
        """Who is behind a client_address."""
        sender = self._senders.get(address)
        if sender is None:
            if len(address) > LONGEST_ADDRESS:
                return NOBODY
            sender = self._new_sender(address.decode("ascii", "replace"))
            self._senders.put(address, sender)
        return sender

    def _new_sender(self, address: str) -> CachedClient:
        parsed = parse_address(address)
        if parsed is None:
            return NOBODY
        client = self._policy.directory.client(parsed)
        sender = CachedClient(client, Reason.EXEMPT if client.exempt else None)
        if client.limit is not None:
            sender.hold_to(client.limit, client.reputation, inf)
        elif client.reputation is not None:
            sender.hold_to(self._policy.tiers.limit_for(client.reputation), client.reputation, inf)
        return sender

    def _repeat(self, question: PendingRequest, first: CountedRequest) -> None:
        """Answer as the first request for the message was answered, or will be."""
        if first.action is None:
            first.questions += (question,)
        else:
            self._uncounted(question, first.sender.client, Reason.REPEAT, first.action)

    def _uncounted(self, question: PendingRequest, client: Client | None, reason: Reason, action: str = PERMIT) -> None:
        """Answer a request that is not counted."""
        decision = Decision(question.request, client, reason, action, 0, "none", UNLIMITED, None, self._time)
        self._decisions.append(decision)
        question.answer(action)

    def _conclude(self, message: CountedRequest) -> None:
        """Decide a counted message by what is known of its sender, unless its score matters and must be waited for."""
        sender, policy = message.sender, self._policy
        address, reputation = sender.client.address, sender.client.reputation
        if sender.client.limit is not None:
            self._decide(message, sender.client.limit, reputation)
            return
        if reputation is None and address is not None:
            known = self._source.known(address)
            fresh_for = 0.0 if known is None else known.fresh_until - self._time
            if fresh_for <= 0 and message.count >= policy.ask_from:
                self._source.start(address)
            if known is not None:
                reputation = known.reputation
                sender.hold_to(
                    policy.tiers.limit_for(reputation), reputation, self._monotonic + min(fresh_for, RULE_FOR)
                )
        if reputation is not None:
            self._decide(message, policy.tiers.limit_for(reputation), reputation)
        elif within(policy.tiers.not_asked.messages, message.count, message.amount):
            self._decide(message, policy.tiers.not_asked, None)
        elif address is not None:
            task = asyncio.create_task(self._await_score(message, address))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)

    async def _await_score(self, message: CountedRequest, address: str) -> None:
        with message:
            reputation = await self._source.lookup(address)
            self._decide(message, self._policy.tiers.limit_for(reputation), reputation)
            self._report()

    def _decide(self, message: CountedRequest, limit: Limit, reputation: Reputation | None) -> None:
        """Hold the message to the limit, answer all who asked for it, and record the decision."""
        questions = message.questions
        client, count = message.sender.client, message.count
        request = questions[0].request
        if within(limit.messages, count, message.amount):
            reason, action = Reason.WITHIN_LIMIT, PERMIT
        else:
            reason = Reason.OVER_LIMIT
            action = self._policy.action(limit, reputation, count, request)
            self._refunds.append(message)
            self._wake.set()
        message.action = action
        decision = Decision(request, client, reason, action, count, limit.name, limit.messages, reputation, self._time)
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
