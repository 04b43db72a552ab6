"""The engine: takes requests in batches, counts them, and answers.

A batch is everything that arrived while the one before it was being counted. The engine admits its
requests (which of them count, under which key), charges them to the counters in one await, and decides
each by `verdict`. A request that needs a score that is not known yet leaves its batch and joins a later one.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from hashlib import blake2b
from math import inf
from typing import Final, TypeVar

from senderscore_policy.policy.bounded import BoundedCache
from senderscore_policy.policy.clients import Client, parse_address
from senderscore_policy.policy.decision import Decision, Reason
from senderscore_policy.policy.policy import Policy, within
from senderscore_policy.policy.ports import Clock, CounterStore, Observer, ReputationSource
from senderscore_policy.policy.reply import PERMIT
from senderscore_policy.policy.reputation import Reputation
from senderscore_policy.policy.requests import CachedClient, CountedRequest, PendingRequest
from senderscore_policy.policy.tiers import UNLIMITED, Limit
from senderscore_policy.policy.verdict import verdict

MAX_BATCH: Final = 1000
"""Requests decided together at most; between two batches the event loop serves everything else."""
MAX_CLIENTS: Final = 40_000
"""Clients whose parsed address is kept; the others are parsed again."""
LONGEST_ADDRESS: Final = 45
"""Characters of an IPv6 address that ends in an IPv4 one (RFC 4291, 2.2); a longer text is not an address."""
LIMIT_FOR: Final = 60.0
"""Seconds for which the limit of a client's score is kept before the engine looks at the score again."""
REPEAT_TIME: Final = 60.0
"""Seconds in which the same instance and client address are the same message: Postfix sends a request again after a
lost connection, and a check at RCPT once for each recipient."""
MAX_MESSAGES: Final = 40_000
"""Messages remembered at most; in a flood the engine drops the oldest half early, and their repeats count again."""
LONGEST_KEY: Final = 128
"""Bytes of instance and client address that are a key as such; Postfix's have about 40."""

F = TypeVar("F", PendingRequest, CountedRequest)


class Engine:
    """Decides requests; assign to `policy` or `store` to change them.

    Attributes:
        answered: called once a batch is answered, before the observers: its replies may be sent.
        stopped: whether `stop` was called.
    """

    def __init__(
        self, policy: Policy, store: CounterStore, source: ReputationSource, clock: Clock, observers: Sequence[Observer]
    ) -> None:
        self._policy = policy
        self.store = store
        self._source = source
        self._clock = clock
        self._observers = observers
        self.answered: Callable[[], None] = lambda: None
        self._clients: BoundedCache[bytes, CachedClient] = BoundedCache(MAX_CLIENTS)
        self._messages: BoundedCache[bytes, CountedRequest] = BoundedCache(MAX_MESSAGES)
        self._arrived: list[PendingRequest] = []
        self._counted: list[CountedRequest] = []
        self._waiting: dict[str, list[CountedRequest]] = {}
        self._scored: list[tuple[CountedRequest, asyncio.Task[Reputation]]] = []
        self._refunds: list[CountedRequest] = []
        self._decisions: list[Decision] = []
        self._wake = asyncio.Event()
        self.stopped = False
        self._time = self._monotonic = self._valid_after = 0.0

    @property
    def policy(self) -> Policy:
        return self._policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._policy = policy
        self._clients.clear()

    def submit(self, pending: PendingRequest) -> None:
        if not self._arrived:
            self._wake.set()
        self._arrived.append(pending)

    def stop(self) -> None:
        """Let `run` return once everything in hand is answered."""
        self.stopped = True
        self._wake.set()

    def forget_messages(self) -> None:
        """Forget the messages of the last minute: a batch failed as a whole, and no repeat may wait for its answer."""
        self._messages.clear()

    async def run(self) -> None:
        """Decide batch after batch, until `stop` and everything in hand is answered."""
        while not self.stopped or self._work or self._waiting:
            # A batch that failed as a whole may have left work to the next call.
            if not self._work:
                await self._wake.wait()
            self._wake.clear()
            while self._work:
                await self._next_batch()
                if self._work:
                    # Signals, the watchdog and HTTP have their turn. What arrives now joins the refunds of this batch.
                    await asyncio.sleep(0)

    @property
    def _work(self) -> bool:
        return bool(self._arrived or self._scored or self._refunds)

    async def _next_batch(self) -> None:
        batch, self._arrived = self._arrived[:MAX_BATCH], self._arrived[MAX_BATCH:]
        scored, self._scored = self._scored[:MAX_BATCH], self._scored[MAX_BATCH:]
        refunds, self._refunds = self._refunds, []
        self._time, self._monotonic = self._clock.time(), self._clock.monotonic()
        self._each(self._admit, batch)
        counted, self._counted = self._counted, []
        for request, lookup in scored:
            self._each(partial(self._decide_scored, lookup), [request])
        # What is not counted does not wait for the counters.
        self._report()
        if counted or refunds:
            policy = self._policy
            await self.store.charge(counted, refunds)
            # After a reload meanwhile no message is decided by a limit of the old policy.
            self._valid_after = self._monotonic if policy is self._policy else inf
            self._each(self._conclude, counted)
        self._report()

    @staticmethod
    def _each(work: Callable[[F], None], requests: Iterable[F]) -> None:
        """Do a step of the work on each request; an error that the program did not foresee ends that request alone."""
        for request in requests:
            try:
                work(request)
            except Exception as error:  # noqa: BLE001 - the broad except of the program
                request.fail(error)

    def _admit(self, pending: PendingRequest) -> None:
        """Answer a request that is not counted, or that repeats another; count the others."""
        request, policy = pending.request, self._policy
        address = request.after(b"\nclient_address=")
        cached = self._clients.young.get(address) or self._client(address)
        if cached is None:
            self._uncounted(pending, None, Reason.NO_ADDRESS)
        elif cached.client.exempt:
            self._uncounted(pending, cached.client, Reason.EXEMPT)
        elif policy.exempt_authenticated and request.after(b"\nsasl_username="):
            self._uncounted(pending, cached.client, Reason.AUTHENTICATED)
        else:
            amount = 1
            if policy.count_recipients:
                number = request.after(b"\nrecipient_count=")
                amount = max(1, int(number)) if number.isdigit() and len(number) < 10 else 1
            counted = CountedRequest(pending, cached, amount, self._monotonic)
            instance = request.after(b"\ninstance=")
            first = self._first(instance + b" " + address, counted) if instance else counted
            if first is counted:
                self._counted.append(counted)
            elif first.action is None:
                first.pending += (pending,)
            else:
                self._uncounted(pending, first.cached.client, Reason.REPEAT, first.action)

    def _client(self, address: bytes) -> CachedClient | None:
        """The client with this address; None: the text is not an address."""
        cached = self._clients.get(address)
        if cached is not None or len(address) > LONGEST_ADDRESS:
            return cached
        parsed = parse_address(address.decode("ascii", "replace"))
        if parsed is None:
            return None
        client = self._policy.directory.client(parsed)
        limit = self._policy.limit_for(client, client.reputation)
        cached = CachedClient(client, limit, client.reputation, -inf if limit is self._policy.tiers.not_asked else inf)
        self._clients.put(address, cached)
        return cached

    def _first(self, key: bytes, request: CountedRequest) -> CountedRequest:
        """The request of the last minute that came first with this instance and client address, or this one."""
        if len(key) > LONGEST_KEY:
            key = blake2b(key).digest()
        earlier = self._messages.get(key)
        if earlier is not None and request.begun_at - earlier.begun_at <= REPEAT_TIME:
            return earlier
        self._messages.put(key, request)
        return request

    def _uncounted(self, pending: PendingRequest, client: Client | None, reason: Reason, action: str = PERMIT) -> None:
        decision = Decision(pending.request, client, reason, action, 0, "none", UNLIMITED, None, self._time)
        self._decisions.append(decision)
        pending.answer(action)

    def _conclude(self, request: CountedRequest) -> None:
        """Decide a counted request by its client's score, or let it wait for the score."""
        cached = request.cached
        if cached.until > self._valid_after:
            self._decide(request, cached.limit, cached.reputation)
            return
        client = cached.client
        known = None if client.address is None else self._source.known(client.address)
        decided = verdict(self._policy, client, known, request.count, request.amount, now=self._time)
        limit, reputation, refresh, wait = decided
        if client.address is not None and refresh:
            self._source.start(client.address)
        if client.address is not None and wait:
            self._wait_for_score(request, client.address)
            return
        if known is not None:
            fresh_for = min(known.fresh_until - self._time, LIMIT_FOR)
            cached.limit, cached.reputation, cached.until = limit, reputation, self._monotonic + fresh_for
        self._decide(request, limit, reputation)

    def _wait_for_score(self, request: CountedRequest, address: str) -> None:
        """Set a request aside until its client's score is known, or the deadline of the client's lookup has passed."""
        if address in self._waiting:
            self._waiting[address].append(request)
        else:
            self._waiting[address] = [request]
            task = asyncio.create_task(self._source.lookup(address))
            task.add_done_callback(partial(self._looked_up, address))

    def _looked_up(self, address: str, lookup: asyncio.Task[Reputation]) -> None:
        self._scored += [(request, lookup) for request in self._waiting.pop(address)]
        self._wake.set()

    def _decide_scored(self, lookup: asyncio.Task[Reputation], request: CountedRequest) -> None:
        reputation = lookup.result()
        self._decide(request, self._policy.limit_for(request.cached.client, reputation), reputation)

    def _decide(self, request: CountedRequest, limit: Limit, reputation: Reputation | None) -> None:
        """Decide a request by a limit, answer it and its repeats, and record the decision."""
        pending = request.pending
        client, count = request.cached.client, request.count
        first = pending[0].request
        if within(limit.messages, count, request.amount):
            reason, action = Reason.WITHIN_LIMIT, PERMIT
        else:
            reason = Reason.OVER_LIMIT
            action = self._policy.action(limit, reputation, count, first)
            self._refunds.append(request)
        request.action = action
        decision = Decision(first, client, reason, action, count, limit.name, limit.messages, reputation, self._time)
        self._decisions.append(decision)
        pending[0].answer(action)
        for repeat in pending[1:]:
            self._uncounted(repeat, client, Reason.REPEAT, action)
        request.pending = ()

    def _report(self) -> None:
        decisions, self._decisions = self._decisions, []
        if decisions:
            self.answered()
            for observer in self._observers:
                observer.decided(decisions)
