"""The engine: takes requests in batches, counts them, and answers.

A batch is everything that arrived while the one before it was being counted. The engine admits its
requests (which of them count, under which key), charges them to the counters in one await, and decides
each by `verdict`. A request that needs a score that is not known yet leaves its batch and joins a later one.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import Final, Protocol, TypeVar

from senderscore_policy.policy.bounded import BoundedCache, RepeatTable
from senderscore_policy.policy.clients import Client, parse_address
from senderscore_policy.policy.decision import Decision, Reason
from senderscore_policy.policy.policy import Policy, within
from senderscore_policy.policy.ports import Clock, CounterStore, Observer, ReputationSource
from senderscore_policy.policy.protocol import Request
from senderscore_policy.policy.reply import PERMIT
from senderscore_policy.policy.reputation import Reputation
from senderscore_policy.policy.requests import NO_CLIENT, CachedClient, CountedRequest, PendingRequest
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


class _Fallible(Protocol):
    def fail(self, error: Exception) -> None: ...


F = TypeVar("F", bound=_Fallible)
R = TypeVar("R")


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
        self._repeats: RepeatTable[CountedRequest] = RepeatTable()
        self._arrived: list[PendingRequest] = []
        self._waiting: dict[str, list[CountedRequest]] = {}
        self._scored: list[tuple[CountedRequest, Reputation]] = []
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
        self._repeats = RepeatTable()

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
        attempt, admit, conclude = self._try, self._admit, self._conclude
        admitted = [attempt(admit, pending) for pending in batch]
        counted = [request for request in admitted if request is not None]
        for request, reputation in scored:
            attempt(partial(self._decide_scored, reputation), request)
        # What is not counted does not wait for the counters.
        self._report()
        if counted or refunds:
            policy = self._policy
            await self.store.charge(counted, refunds)
            # After a reload meanwhile no message is decided by a limit of the old policy.
            self._valid_after = self._monotonic if policy is self._policy else inf
            for request in counted:
                attempt(conclude, request)
        self._report()

    @staticmethod
    def _try(work: Callable[[F], R], request: F) -> R | None:
        """Do one step of the work on a request; an error that the program did not foresee ends this request alone."""
        try:
            return work(request)
        except Exception as error:  # noqa: BLE001 - the broad except of the program
            request.fail(error)
            return None

    def _admit(self, pending: PendingRequest) -> CountedRequest | None:
        """Answer a request that is not counted, or that repeats another; return one that is to be counted."""
        request, policy = pending.request, self._policy
        address = request.after(b"\nclient_address=")
        cached = self._clients.young.get(address) or self._client(address)
        if cached.uncounted is not None:
            self._uncounted(pending, None if cached is NO_CLIENT else cached.client, cached.uncounted)
            return None
        if policy.exempt_authenticated and request.after(b"\nsasl_username="):
            self._uncounted(pending, cached.client, Reason.AUTHENTICATED)
            return None
        amount = _recipients(request) if policy.count_recipients else 1
        counted = CountedRequest(pending, cached, amount, self._monotonic)
        instance = request.after(b"\ninstance=")
        first = self._repeats.first(instance + b" " + address, counted) if instance else None
        if first is None:
            return counted
        if first.action is None:
            first.pending += (pending,)
        else:
            self._uncounted(pending, first.cached.client, Reason.REPEAT, first.action)
        return None

    def _client(self, address: bytes) -> CachedClient:
        cached = self._clients.get(address)
        if cached is None:
            if len(address) > LONGEST_ADDRESS:
                return NO_CLIENT
            cached = self._new_client(address.decode("ascii", "replace"))
            self._clients.put(address, cached)
        return cached

    def _new_client(self, address: str) -> CachedClient:
        parsed = parse_address(address)
        if parsed is None:
            return NO_CLIENT
        client = self._policy.directory.client(parsed)
        cached = CachedClient(client, Reason.EXEMPT if client.exempt else None)
        if client.limit is not None or client.reputation is not None:
            cached.cache_limit(self._policy.limit_for(client, client.reputation), client.reputation, inf)
        return cached

    def _uncounted(self, pending: PendingRequest, client: Client | None, reason: Reason, action: str = PERMIT) -> None:
        decision = Decision(pending.request, client, reason, action, 0, "none", UNLIMITED, None, self._time)
        self._decisions.append(decision)
        pending.answer(action)

    def _conclude(self, request: CountedRequest) -> None:
        """Decide a counted request by its client's score, or let it wait for the score."""
        cached = request.cached
        if cached.limit is not None and cached.until > self._valid_after:
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
            cached.cache_limit(limit, reputation, self._monotonic + fresh_for)
        self._decide(request, limit, reputation)

    def _wait_for_score(self, request: CountedRequest, address: str) -> None:
        """Set a request aside until its client's score is known, or the deadline of the client's lookup has passed."""
        waiting = self._waiting.get(address)
        if waiting is not None:
            waiting.append(request)
            return
        self._waiting[address] = [request]
        task = asyncio.create_task(self._source.lookup(address))
        task.add_done_callback(partial(self._looked_up, address))

    def _looked_up(self, address: str, task: asyncio.Task[Reputation]) -> None:
        requests = self._waiting.pop(address)
        self._wake.set()
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._scored += [(request, task.result()) for request in requests]
        elif isinstance(error, Exception):
            for request in requests:
                request.fail(error)

    def _decide_scored(self, reputation: Reputation, request: CountedRequest) -> None:
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
            self._wake.set()
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


def _recipients(request: Request) -> int:
    count = request.after(b"\nrecipient_count=")
    return max(1, int(count)) if count.isdigit() and len(count) < 10 else 1
