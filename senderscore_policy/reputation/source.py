"""The score source of the engine: its own cache, the cache shared by daemons, then the zone."""

import asyncio
import contextlib
import importlib
import logging
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from senderscore_policy.config.model import ReputationSettings
from senderscore_policy.config.paths import RESOLV_CONF
from senderscore_policy.policy.ports import Clock, LookupObserver, SharedCache
from senderscore_policy.policy.reputation import CachedScore, Reputation, Scored, Unavailable, Unknown
from senderscore_policy.policy.window import CLOCK_SKEW
from senderscore_policy.reputation.budget import QueryBudget
from senderscore_policy.reputation.cache import Header, ScoreCache, as_text, from_lines, from_text, to_lines
from senderscore_policy.reputation.guard import LookupResult, QueryGuard, ZoneState, parse_refusal

if TYPE_CHECKING:
    from senderscore_policy.reputation.resolver import ScoreResolver

ROUNDS: Final = 50
"""One of 50 waiting lookups may begin in a round of the event loop, and one more."""
MAX_LOOKUPS: Final = 1000
"""Lookups under way at most; each may hold a socket, and about as many end within a second."""
SHARED_CACHE_PATIENCE: Final = 0.25
"""Seconds that the shared cache may take before the zone is asked instead."""

log = logging.getLogger(__name__)


class LazyResolver:
    """A `ScoreResolver` that is imported by the first lookup; it follows changes of /etc/resolv.conf, as glibc does.

    Importing dnspython takes 30 to 100 ms: too long for the start, and too long for the event loop later. An import
    in a thread holds the event loop up for 8 ms at most.
    """

    def __init__(self, settings: ReputationSettings, budget: QueryBudget, file: Path = RESOLV_CONF) -> None:
        self._settings = settings
        self._budget = budget
        self._file = file
        self._seen = _version(file)
        self._looked_at = 0.0
        self._loading = asyncio.Lock()
        self._resolver: ScoreResolver | None = None

    async def query_raw(self, address: str) -> LookupResult:
        if self._resolver is None:  # only then: a lock passes its waiters one by one, each in a round of the event loop
            async with self._loading:
                if self._resolver is None:
                    module = await asyncio.to_thread(importlib.import_module, "senderscore_policy.reputation.resolver")
                    self._resolver = module.ScoreResolver(self._settings, self._budget, self._file)
        return await self._resolver.query_raw(address)

    def reconfigure(self, settings: ReputationSettings) -> None:
        self._settings = settings
        if self._resolver is not None:
            self._resolver.reconfigure(settings)

    def changed(self, now: float) -> bool:
        """Whether the system has other nameservers than before; checked once a second of monotonic time (`now`)."""
        if self._settings.nameservers or now - self._looked_at < 1:
            return False
        self._looked_at = now
        seen, self._seen = self._seen, _version(self._file)
        if seen == self._seen:
            return False
        self.reconfigure(self._settings)
        return True


def _version(file: Path) -> tuple[int, int, int] | None:
    """Return what differs between two versions of a file; None: it is missing or closed to this process."""
    with contextlib.suppress(OSError):
        status = file.stat()
        return status.st_ino, status.st_mtime_ns, status.st_size
    return None


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
        """Return the same as `known`, for display; the metrics do not count it."""
        now = self._clock.time()
        return self._cache.get(address, now) or self._pointless(now)

    def _pointless(self, now: float) -> CachedScore | None:
        reason = self._guard.reason()
        # Never fresh: the caller goes on calling `start`, which begins probes and asks the shared cache.
        return None if reason is None else CachedScore(reason, now, 0.0, "dns")

    def start(self, address: str) -> None:
        """Begin a lookup in the background, unless one is under way, asking is pointless, or too many are."""
        self._begin(address)

    async def lookup(self, address: str, *, patient: bool = False) -> Reputation:
        """Return the reputation after at most the configured deadline; `patient`: wait for a probe of the zone, too.

        After the deadline or a failure: a stale score if the cache has one, else the failure. The lookup goes on
        and serves later requests.
        """
        now = self._clock.time()
        entry = self._cache.get(address, now)
        if entry is not None and now < entry.fresh_until:
            return entry.reputation
        lookup = self._begin(address)
        reason = None if patient and lookup else self._guard.reason()
        if reason is None and lookup is not None:
            deadline = self.settings.deadline
            await asyncio.wait([lookup], timeout=deadline)
            outcome = lookup.result() if lookup.done() else Unavailable(f"no answer within {deadline:g} s")
        else:
            outcome = reason or Unavailable(f"{MAX_LOOKUPS} lookups are under way")
        return entry.reputation if entry and not isinstance(outcome, Scored | Unknown) else outcome

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
            self._cache = ScoreCache(settings)

    def _disown_lookups(self) -> None:
        """Ignore the outcomes of lookups under way: they asked another zone or other nameservers."""
        self._epoch += 1
        self._under_way = {}

    def snapshot(self) -> Iterator[str]:
        """Return the lines that `restore` reads; another thread may consume them."""
        nameservers = [str(server) for server in self.settings.nameservers]
        budget, refusal = self.budget.snapshot(), self._guard.snapshot()
        header = Header(self.settings.zone, nameservers, self._clock.time(), budget, refusal)
        return to_lines(header, self._cache.scores())

    def restore(self, lines: Iterable[str]) -> None:
        """Restore the use of the budget; of the same zone the scores; of the same nameservers also a refusal."""
        header, scores = from_lines(lines)
        now = self._clock.time()
        away = max(0.0, now - header.saved_at)
        refusal = parse_refusal(header.refusal, away, self._clock.monotonic()) if header.refusal else None
        self.budget.restore(header.budget, away)
        same_zone = header.zone == self.settings.zone
        same_servers = header.nameservers == [str(server) for server in self.settings.nameservers]
        self._guard.restore(refusal if same_zone and same_servers else None)
        if same_zone:
            self._cache.restore(scores, now)

    async def close(self) -> None:
        """End all lookups; the requests that wait for one get `Unavailable`."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, address: str) -> asyncio.Future[Reputation] | None:
        """Return the lookup of the address, under way or new; None: asking is pointless, or too many are under way."""
        if self._resolver.changed(self._clock.monotonic()):
            log.info("the system's nameservers have changed")
            self._disown_lookups()
            self._cache.forget_failures()
            self._guard.retry()
        if under_way := self._under_way.get(address):
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
        entry = await self._from_shared(address)
        self._observer.cache("miss" if entry is None else "shared")
        if entry is not None:
            result.set_result(entry.reputation)
            return
        epoch = self._epoch
        outcome: Reputation | None = self._guard.enter(address, refresh=refresh)
        if outcome is None:
            found = await self._resolver.query_raw(address)
            outcome = found.outcome
            self._observer.looked_up(outcome.name, found.elapsed)
            if epoch == self._epoch:
                self._guard.record(address, found)
        if epoch == self._epoch:
            if isinstance(outcome, Scored | Unknown):
                entry = self._cache.keep(address, outcome, self._clock.time(), "dns")
            else:
                self._cache.keep_failure(address, outcome, self._clock.time())
        result.set_result(outcome)
        if entry is not None and self._shared is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SHARED_CACHE_PATIENCE):
                    ttl = int(entry.fresh_until - entry.fetched_at)
                    await self._shared.put(address, as_text(entry, self.settings.zone), ttl)

    async def _from_shared(self, address: str) -> CachedScore | None:
        """Return what another daemon looked up, and keep it here too if it is fresh."""
        if self._shared is None:
            return None
        text = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SHARED_CACHE_PATIENCE):
                text = await self._shared.get(address)
        found = from_text(text or "", self.settings.zone)
        if found is None:
            return None
        reputation, fetched_at = found
        fresh = -CLOCK_SKEW <= self._clock.time() - fetched_at < self._cache.lifetime(reputation)
        return self._cache.keep(address, reputation, fetched_at, "cache") if fresh else None


def open_source(
    settings: ReputationSettings, clock: Clock, observer: LookupObserver, shared: SharedCache | None
) -> ScoreSource:
    """Open a source that asks the zone through dnspython, within its own query budget."""
    budget = QueryBudget(settings.query_budget, clock)
    return ScoreSource(settings, LazyResolver(settings, budget), budget, clock, observer, shared)
