"""The score source of the engine: its own cache, the cache shared by daemons, then the zone."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Final

from senderscore_policy.config.model import ReputationSettings
from senderscore_policy.policy.ports import Clock, LookupObserver, SharedCache
from senderscore_policy.policy.reputation import CachedScore, Reputation, Scored, Unavailable, Unknown
from senderscore_policy.policy.window import CLOCK_SKEW
from senderscore_policy.reputation.budget import QueryBudget
from senderscore_policy.reputation.cache import Header, ScoreCache, as_text, from_lines, from_text, to_lines
from senderscore_policy.reputation.guard import QueryGuard, ZoneState, parse_refusal
from senderscore_policy.reputation.lookup import LazyResolver

ROUNDS: Final = 50
"""One of 50 waiting lookups may begin in a round of the event loop, and one more."""
MAX_LOOKUPS: Final = 1000
"""Lookups under way at most; each may hold a socket, and about as many end within a second."""
SHARED_CACHE_PATIENCE: Final = 0.25
"""Seconds that the shared cache may take before the zone is asked instead."""

log = logging.getLogger(__name__)


class StartThrottle:
    """Spreads lookups that would begin in one round of the event loop over several rounds, in their order.

    A lookup takes most of a millisecond of processor time, ten times as much as a decision. If a thousand of them
    went on in step, each round would hold up every request for half a second.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Return when the caller may begin."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._next_round)
        self._waiting.append(turn)
        await turn

    def _next_round(self) -> None:
        for _ in range(1 + len(self._waiting) // ROUNDS):
            turn = self._waiting.popleft()
            if not turn.cancelled():
                turn.set_result(None)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._next_round)


class ScoreSource:
    """Scores by client address (`ports.ReputationSource`), kept over restarts (`ports.Persistent`)."""

    def __init__(  # noqa: PLR0917 - the parts in the order in which a lookup uses them
        self,
        settings: ReputationSettings,
        resolver: LazyResolver,
        budget: QueryBudget,
        clock: Clock,
        observer: LookupObserver,
        shared: SharedCache | None,
    ) -> None:
        self.budget = budget
        self.settings = settings
        self._resolver = resolver
        self._clock = clock
        self._observer = observer
        self._shared = shared  # scores that other daemons looked up; None: this daemon is alone
        self._cache = ScoreCache(settings)
        self._guard = QueryGuard(settings, budget, clock)
        self._epoch = 0
        self._under_way: dict[str, asyncio.Future[Reputation]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._throttle = StartThrottle()

    @property
    def state(self) -> str:
        return self._guard.state

    @property
    def zone_state(self) -> ZoneState:
        return self._guard.zone_state

    def known(self, address: str) -> CachedScore | None:
        """Return a fresh or stale score, a fresh failure, or why asking is pointless; None: ask."""
        now = self._clock.time()
        entry = self._cache.get(address, now)
        if entry is not None:
            self._observer.cache("hit" if now < entry.fresh_until else "stale")
            return entry
        return None if self._guard.open else self._pointless(now)

    def peek(self, address: str) -> CachedScore | None:
        """Return the same as `known`, for display: the metrics do not count it."""
        now = self._clock.time()
        return self._cache.get(address, now) or self._pointless(now)

    def _pointless(self, now: float) -> CachedScore | None:
        reason = self._guard.reason()
        # Never fresh: the caller goes on calling `start`, which begins probes and asks the shared cache.
        return None if reason is None else CachedScore(reason, now, 0.0, "dns")

    def start(self, address: str) -> None:
        """Begin a lookup in the background, unless one is under way, asking is pointless, or too many are."""
        self._begin(address)

    async def lookup(self, address: str) -> Reputation:
        """Return the reputation after at most the configured deadline.

        After the deadline or a failure: a stale score if the cache has one, else the failure. The lookup goes on
        and serves later requests.
        """
        now = self._clock.time()
        entry = self._cache.get(address, now)
        if entry is not None and now < entry.fresh_until:
            return entry.reputation
        lookup = self._begin(address)
        reason = self._guard.reason()
        if reason is None and lookup is not None:
            deadline = self.settings.deadline
            await asyncio.wait([lookup], timeout=deadline)
            outcome = lookup.result() if lookup.done() else Unavailable(f"no answer within {deadline:g} s")
        else:
            outcome = reason or Unavailable(f"{MAX_LOOKUPS} lookups are under way")
        if entry is not None and not isinstance(outcome, Scored | Unknown):
            return entry.reputation
        return outcome

    def reconfigure(self, settings: ReputationSettings) -> None:
        """Apply other settings, forget scores of another zone, and ask again for every client whose lookup failed."""
        old, self.settings = self.settings, settings
        self._resolver.reconfigure(settings)
        self._cache.settings = settings
        self._cache.forget_failures()
        moved = (settings.zone, settings.nameservers) != (old.zone, old.nameservers)
        self._guard.reconfigure(settings, moved=moved)
        if moved:
            self._disown_lookups()
        if settings.zone != old.zone:
            self._cache.clear()

    def _disown_lookups(self) -> None:
        """Ignore the outcomes of lookups under way: they asked another zone or other nameservers."""
        self._epoch += 1
        self._under_way = {}

    def snapshot(self) -> Iterator[str]:
        """Return the lines that `restore` reads; another thread may consume them."""
        header = Header(
            zone=self.settings.zone,
            nameservers=[str(server) for server in self.settings.nameservers],
            saved_at=self._clock.time(),
            budget=self.budget.snapshot(),
            refusal=self._guard.snapshot(),
        )
        return to_lines(header, self._cache.scores())

    def restore(self, lines: Iterable[str]) -> None:
        """Restore the use of the budget; of the same zone the scores; of the same nameservers also a refusal."""
        header, scores = from_lines(lines)
        now = self._clock.time()
        away = max(0.0, now - header.saved_at)
        refusal = parse_refusal(header.refusal, away, self._clock.monotonic()) if header.refusal else None
        self.budget.restore(header.budget, away)
        if header.zone != self.settings.zone:
            refusal, scores = None, []
        if header.nameservers != [str(server) for server in self.settings.nameservers]:
            refusal = None
        self._guard.restore(refusal)
        self._cache.restore(scores, now)

    async def close(self) -> None:
        """End all lookups; the requests that wait for one get `Unavailable`."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, address: str) -> asyncio.Future[Reputation] | None:
        """Return the lookup of the address, under way or new; None: asking is pointless, or too many are under way."""
        monotonic = self._clock.monotonic()
        if self._resolver.changed(monotonic):
            log.info("the system's nameservers have changed")
            self._disown_lookups()
            self._cache.forget_failures()
            self._guard.retry()
        under_way = self._under_way.get(address)
        if under_way is not None:
            return under_way
        now = self._clock.time()
        entry = self._cache.get(address, now)
        if (entry is not None and now < entry.fresh_until) or len(self._tasks) >= MAX_LOOKUPS:
            return None
        refresh = entry is not None
        if self._shared is None and not self._guard.admits(address, refresh=refresh):
            return None
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Reputation] = loop.create_future()
        self._under_way[address] = result
        task = loop.create_task(self._look_up(address, result, refresh=refresh))
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, address, result))
        return result

    def _ended(self, address: str, result: asyncio.Future[Reputation], task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._under_way.get(address) is result:
            del self._under_way[address]
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("internal error in the lookup of %s", address, exc_info=error)
        if not result.done():
            result.set_result(Unavailable("the lookup was given up"))

    async def _look_up(self, address: str, result: asyncio.Future[Reputation], *, refresh: bool) -> None:
        """Ask the shared cache, then the zone; keep the outcome and give it to all requests that wait."""
        await self._throttle.wait()
        epoch = self._epoch
        entry = await self._from_shared(address)
        self._observer.cache("miss" if entry is None else "shared")
        if entry is not None:
            result.set_result(entry.reputation)
            return
        outcome = await self._from_zone(address, refresh=refresh)
        if epoch == self._epoch:
            now = self._clock.time()
            if isinstance(outcome, Scored | Unknown):
                entry = self._cache.keep(address, outcome, now, "dns")
            else:
                self._cache.keep_failure(address, outcome, now)
        result.set_result(outcome)
        if entry is not None:
            await self._share(address, entry)

    async def _from_zone(self, address: str, *, refresh: bool) -> Reputation:
        epoch = self._epoch
        reason = self._guard.enter(address, refresh=refresh)
        if reason is not None:
            return reason
        looked_up = await self._resolver.query_raw(address)
        if epoch == self._epoch:
            self._guard.record(address, looked_up)
        self._observer.looked_up(looked_up.outcome.name, looked_up.elapsed)
        return looked_up.outcome

    async def _from_shared(self, address: str) -> CachedScore | None:
        """Return what another daemon looked up, and keep it here too if it is fresh."""
        if self._shared is None:
            return None
        try:
            async with asyncio.timeout(SHARED_CACHE_PATIENCE):
                text = await self._shared.get(address)
        except TimeoutError:
            return None
        found = None if text is None else from_text(text, self.settings.zone)
        if found is None:
            return None
        reputation, fetched_at = found
        fresh = -CLOCK_SKEW <= self._clock.time() - fetched_at < self._cache.lifetime(reputation)
        return self._cache.keep(address, reputation, fetched_at, "cache") if fresh else None

    async def _share(self, address: str, entry: CachedScore) -> None:
        ttl = int(entry.fresh_until - self._clock.time())
        if self._shared is not None and ttl > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SHARED_CACHE_PATIENCE):
                    await self._shared.put(address, as_text(entry, self.settings.zone), ttl)


def open_source(
    settings: ReputationSettings, clock: Clock, observer: LookupObserver, shared: SharedCache | None
) -> ScoreSource:
    """Open a source that asks the zone through dnspython, within its own query budget."""
    budget = QueryBudget(settings.query_budget, clock)
    return ScoreSource(settings, LazyResolver(settings, budget), budget, clock, observer, shared)
