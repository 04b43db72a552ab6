"""Scores at hand, with their lifetimes; and a score as the text that daemons share."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Literal

from senderscore_policy.config.model import ReputationSettings
from senderscore_policy.policy.bounded import BoundedCache
from senderscore_policy.policy.reputation import UNKNOWN, CachedScore, Reputation, Scored, Unknown
from senderscore_policy.policy.window import CLOCK_SKEW

MAX_ENTRIES: Final = 100_000
"""Entries kept: some 30 MB, and a third of a second for a start that finds all of them saved."""
LONGEST_STALE: Final = 7 * 86400.0
"""Seconds after which a score is no longer served, even while no new one can be had."""
_CLOCK_STEP: Final = 86400.0
"""Seconds by which the clock may have been set back before a score from the future is dropped: asking again for
every client would cost more than scores that live a little longer."""


class ScoreCache:
    """Outcomes of lookups by client address, bounded. All times in seconds since the epoch.

    Args:
        settings: the lifetimes.
    """

    def __init__(self, settings: ReputationSettings) -> None:
        self.settings = settings
        self._entries: BoundedCache[str, CachedScore] = BoundedCache(MAX_ENTRIES)

    def get(self, address: str, now: float) -> CachedScore | None:
        """A score or its known absence, fresh or stale; or a failure that is still fresh."""
        entry = self._entries.get(address)
        if entry is None:
            return None
        if isinstance(entry.reputation, Scored | Unknown):
            return entry if -_CLOCK_STEP < now - entry.fetched_at < LONGEST_STALE else None
        return entry if entry.fetched_at - CLOCK_SKEW <= now < entry.fresh_until else None

    def keep(
        self, address: str, reputation: Scored | Unknown, fetched_at: float, source: Literal["dns", "cache"]
    ) -> CachedScore:
        """Keep what the zone said at `fetched_at`."""
        entry = CachedScore(reputation, fetched_at, fetched_at + self.lifetime(reputation), source)
        self._entries.put(address, entry)
        return entry

    def keep_failure(self, address: str, failure: Reputation, now: float) -> None:
        """Keep a failed lookup, so that the next one waits; a score at hand stays and is served until then."""
        entry = self.get(address, now)
        until = now + self.settings.failure_ttl
        if entry is not None and isinstance(entry.reputation, Scored | Unknown):
            entry = entry._replace(fresh_until=max(entry.fresh_until, until))
        else:
            entry = CachedScore(failure, now, until, "dns")
        self._entries.put(address, entry)

    def lifetime(self, reputation: Scored | Unknown) -> float:
        """Seconds for which it is fresh."""
        return self.settings.scored_ttl if isinstance(reputation, Scored) else self.settings.unknown_ttl

    def scores(self) -> Iterator[tuple[str, int | None, float]]:
        """Address, score (None: the zone has none) and time of all that outlives a restart.

        The entries are copied by the call; the iterator may be used in another thread.
        """
        entries = self._entries.items()
        return (
            (address, reputation.score if isinstance(reputation, Scored) else None, entry.fetched_at)
            for address, entry in entries
            if isinstance(reputation := entry.reputation, Scored | Unknown)
        )

    def restore(self, scores: Iterable[tuple[str, int | None, float]], now: float) -> None:
        """Keep what an earlier process had, as far as it may still be served."""
        by_score: dict[int | None, Scored | Unknown] = {score: Scored(score) for score in range(101)}
        by_score[None] = UNKNOWN
        for address, score, fetched_at in scores:
            if now - fetched_at < LONGEST_STALE:
                self.keep(address, by_score[score], fetched_at, "cache")

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()


def as_text(known: CachedScore, zone: str) -> str:
    """A score for other daemons: "75:1700000000:score.example.org", or "unknown:1700000000:…"."""
    reputation = known.reputation
    score = reputation.score if isinstance(reputation, Scored) else reputation.name
    return f"{score}:{int(known.fetched_at)}:{zone}"


def from_text(text: str, zone: str) -> tuple[Scored | Unknown, int] | None:
    """What another daemon shared, and when the zone said so; None if it is garbage or of another zone."""
    score, _, rest = text.partition(":")
    fetched_at, _, its_zone = rest.partition(":")
    if its_zone != zone or not _is_number(fetched_at):
        return None
    if score == UNKNOWN.name:
        return UNKNOWN, int(fetched_at)
    if _is_number(score) and int(score) <= 100:
        return Scored(int(score)), int(fetched_at)
    return None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 12


FORMAT: Final = 1
_SCORES_PER_LINE: Final = 500
"""Few long lines are read three times as fast as many short ones, and the daemon's start waits for it."""

_END_OF_TIME: Final = 1e12
"""Seconds since the epoch; a number above is none, and would not fit where times are reckoned with."""

SavedScore = tuple[str, int | None, float]
"""Address, score (None: the zone has none), and when the zone said so (seconds since the epoch)."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first line.

    Args:
        zone: which the scores are from.
        nameservers: who was asked, as text; empty: the system's.
        saved_at: seconds since the epoch.
        budget: of `QueryBudget.snapshot`.
        refusal: of `Breaker.snapshot`.
    """

    zone: str
    nameservers: list[str]
    saved_at: float
    budget: list[list[float]]
    refusal: dict[str, Any] | None


def to_lines(header: Header, scores: Iterable[SavedScore]) -> Iterator[str]:
    """The lines that `from_lines` reads."""
    yield json.dumps({"format": FORMAT} | {name: getattr(header, name) for name in Header.__slots__})
    remaining = iter(scores)
    while line := [
        (address, score, int(fetched_at)) for address, score, fetched_at in islice(remaining, _SCORES_PER_LINE)
    ]:
        yield json.dumps(line, separators=(",", ":"))


def from_lines(lines: Iterable[str]) -> tuple[Header, list[SavedScore]]:
    """What `to_lines` wrote.

    Raises:
        ValueError: somebody else wrote it, or it is damaged.
    """
    rest = iter(lines)
    header = _read_header(_parse(next(rest, "")))
    scores: list[SavedScore] = []
    for number, line in enumerate(rest, 2):
        entries = _parse(line)
        if not isinstance(entries, list) or not all(map(_is_score, entries)):
            raise ValueError(f"line {number} holds something else than scores")
        scores += map(tuple, entries)
    return header, scores


def _read_header(header: Any) -> Header:
    if not isinstance(header, dict) or header.pop("format", None) != FORMAT:
        raise ValueError(f"no header of format {FORMAT}")
    try:
        result = Header(**header)
    except TypeError as error:
        raise ValueError(f"header: {error}") from error
    types = (
        ("zone", str),
        ("nameservers", list),
        ("saved_at", int | float),
        ("budget", list),
        ("refusal", dict | None),
    )
    for name, kind in types:
        if not isinstance(getattr(result, name), kind):
            raise ValueError(f"header: {name} is {getattr(result, name)!r}")  # noqa: TRY004 - it is the file's fault
    if not 0 <= result.saved_at < _END_OF_TIME:
        raise ValueError("header: saved_at is no time")
    return result


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _is_score(entry: Any) -> bool:
    if not isinstance(entry, list) or len(entry) != 3:
        return False
    address, score, fetched_at = entry
    return (
        isinstance(address, str)
        and (score is None or (type(score) is int and 0 <= score <= 100))
        and type(fetched_at) is int
        and 0 <= fetched_at < _END_OF_TIME
    )
