"""The cache of scores, and their texts for other daemons (memcached) and for the next start (state file)."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, islice
from typing import Any, Final

from senderscore_policy.config.model import ReputationSettings
from senderscore_policy.policy.bounded import BoundedCache
from senderscore_policy.policy.reputation import UNKNOWN, CachedScore, Reputation, Scored, Unavailable, Unknown
from senderscore_policy.policy.window import CLOCK_SKEW

MAX_ENTRIES: Final = 100_000
"""Entries kept: some 30 MB, and a third of a second at a start that restores all of them."""
LONGEST_STALE: Final = 7 * 86400.0
"""Seconds after which a score is no longer served, even if the zone does not give a new one."""
LONGEST_FAILURE: Final = 600.0
"""Longest time for which a failed lookup is kept, in seconds."""
_CLOCK_STEP: Final = 86400.0
"""Seconds by which the clock may go back before a score from the future is dropped: to ask again for every client
would cost more than scores that live a little longer."""
_SCORES_PER_LINE: Final = 500
"""The daemon's start reads few long lines three times as fast as many short ones."""
_END_OF_TIME: Final = 1e12
"""Seconds since the epoch; a larger number is not a time."""
FORMAT: Final = 1

_SHARED: Final = re.compile(r"(unknown|100|[0-9]{1,2}):([0-9]{1,12}):(.+)")

SavedScore = tuple[str, int | None, float]
"""Address, score (None: the zone has none), and when the zone said so (seconds since the epoch)."""


class ScoreCache:
    """Outcomes of lookups by client address, bounded. All times are seconds since the epoch."""

    def __init__(self, settings: ReputationSettings) -> None:
        self.settings = settings
        self._scores: BoundedCache[str, CachedScore] = BoundedCache(MAX_ENTRIES)
        self._failures: BoundedCache[str, CachedScore] = BoundedCache(MAX_ENTRIES)

    def get(self, address: str, now: float) -> CachedScore | None:
        """Return a score or its known absence, fresh or stale, else a fresh failure.

        A stale score whose refresh failed counts as fresh until the next try.
        """
        score = self._scores.get(address)
        if score is not None and not -_CLOCK_STEP < now - score.fetched_at < LONGEST_STALE:
            score = None
        if score is not None and now < score.fresh_until:
            return score
        failure = self._failures.get(address)
        if failure is None or not failure.fetched_at - CLOCK_SKEW <= now < failure.fresh_until:
            return score
        return failure if score is None else score._replace(fresh_until=failure.fresh_until)

    def keep(self, address: str, reputation: Scored | Unknown, fetched_at: float, source: str) -> CachedScore:
        entry = CachedScore(reputation, fetched_at, fetched_at + self.lifetime(reputation), source)
        self._scores.put(address, entry)
        self._failures.pop(address)
        return entry

    def keep_failure(self, address: str, failure: Reputation, now: float) -> None:
        """Keep a failed lookup, so that the next try waits; a score stays and is served until then.

        A client whose lookups fail again and again must not spend the query budget: its pauses double.
        """
        ttl, before = self.settings.failure_ttl, self._failures.get(address)
        if before is not None and isinstance(failure, Unavailable):
            ttl = max(ttl, min(2 * (before.fresh_until - before.fetched_at), LONGEST_FAILURE))
        self._failures.put(address, CachedScore(failure, now, now + ttl, "dns"))

    def forget_failures(self) -> None:
        """Allow each client whose lookup failed to be looked up again at once."""
        self._failures.clear()

    def lifetime(self, reputation: Scored | Unknown) -> float:
        return self.settings.scored_ttl if isinstance(reputation, Scored) else self.settings.unknown_ttl

    def scores(self) -> Iterator[SavedScore]:
        """Return all that outlives a restart. The call copies the entries; another thread may use the iterator."""
        return (
            (address, entry.reputation.score if isinstance(entry.reputation, Scored) else None, entry.fetched_at)
            for address, entry in self._scores.items()
        )

    def restore(self, scores: Iterable[SavedScore], now: float) -> None:
        """Keep what an earlier process had, unless it is too old to be served."""
        by_score: dict[int | None, Scored | Unknown] = {None: UNKNOWN} | {score: Scored(score) for score in range(101)}
        for address, score, fetched_at in scores:
            if now - fetched_at < LONGEST_STALE:
                self.keep(address, by_score[score], fetched_at, "cache")


def as_text(known: CachedScore, zone: str) -> str:
    """Return a score for other daemons: "75:1700000000:score.example.org", or "unknown:1700000000:…"."""
    reputation = known.reputation
    score = reputation.score if isinstance(reputation, Scored) else reputation.name
    return f"{score}:{int(known.fetched_at)}:{zone}"


def from_text(text: str, zone: str) -> tuple[Scored | Unknown, int] | None:
    """Read what another daemon shared, with the time of the zone's answer; None: garbage, or another zone."""
    found = _SHARED.fullmatch(text)
    if found is None or found[3] != zone:
        return None
    return UNKNOWN if found[1] == UNKNOWN.name else Scored(int(found[1])), int(found[2])


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of the state file, with the snapshots of `QueryBudget` and `Breaker`."""

    zone: str
    nameservers: list[str]
    saved_at: float
    budget: list[list[float]]
    refusal: dict[str, Any] | None


def to_lines(header: Header, scores: Iterable[SavedScore]) -> Iterator[str]:
    """Return the lines that `from_lines` reads."""
    yield json.dumps({"format": FORMAT} | asdict(header))
    rounded = ((address, score, int(fetched_at)) for address, score, fetched_at in scores)
    while line := list(islice(rounded, _SCORES_PER_LINE)):
        yield json.dumps(line, separators=(",", ":"))


def from_lines(lines: Iterable[str]) -> tuple[Header, Iterable[SavedScore]]:
    """Read what `to_lines` returned; ValueError: the lines are damaged, or of another program."""
    parsed = map(json.loads, lines)
    try:
        header, rest = _read_header(next(parsed, None)), list(parsed)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    for number, entries in enumerate(rest, 2):
        if not isinstance(entries, list) or not all(map(_is_score, entries)):
            raise ValueError(f"line {number} does not hold scores")
    return header, chain.from_iterable(rest)


_HEADER: Final = {"zone": str, "nameservers": list, "saved_at": int | float, "budget": list, "refusal": dict | None}


def _read_header(header: Any) -> Header:
    if not isinstance(header, dict) or header.pop("format", None) != FORMAT or header.keys() != _HEADER.keys():
        raise ValueError(f"no header of format {FORMAT}")
    for name, kind in _HEADER.items():
        if not isinstance(header[name], kind):
            raise ValueError(f"header: {name} is {header[name]!r}")  # noqa: TRY004 - the file is wrong
    if not 0 <= header["saved_at"] < _END_OF_TIME:
        raise ValueError("header: saved_at is not a time")
    return Header(**header)


def _is_score(entry: Any) -> bool:
    match entry:
        case [str(), score, fetched_at] if type(fetched_at) is int and 0 <= fetched_at < _END_OF_TIME:
            return score is None or (type(score) is int and 0 <= score <= 100)
    return False
