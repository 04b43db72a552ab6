"""What outlives a restart, as lines of JSON: a header, then scores, many to a line."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

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
