"""The times of log lines; a syslog line tells no year, and a whole file is needed to know it."""

import calendar
import time
from datetime import UTC, datetime
from typing import Final

ABSOLUTE: Final = -1
"""Instead of an hour's number: the time is known as it stands."""
CLOCK_SKEW: Final = 300.0
"""Seconds that the clock of the host that logged may be ahead of ours; a line later than that is from the future."""

_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"), 1
    )
}
_LEAP_YEAR: Final = 2024
_YEARS_BACK: Final = 12
"""A 29 February is found within eight years, also around 1900 and 2100."""

Hour = tuple[int, int, int, int]
"""Year counted from the first line's, month, day, hour."""


class Stamps:
    """Reads the timestamps of one log file, in the order of its lines.

    An ISO timestamp is a time. A syslog timestamp, in the host's local time and without a year, is an
    hour, numbered in the order of first sight, and seconds within it; `hours` says at the end when
    those were. The year goes up where the date falls back by more than half a year.
    """

    def __init__(self) -> None:
        self._numbers: dict[Hour, int] = {}
        self._latest: list[float] = []
        self._year = 0
        self._month = 0
        self._prefix = b""
        self._number = ABSOLUTE

    def read(self, stamp: bytes) -> tuple[int, float]:
        """A timestamp's hour and the seconds within it; of an ISO timestamp `ABSOLUTE` and seconds since the epoch.

        Args:
            stamp: "Oct  3 12:00:01", "Oct 03 12:00:01.123456", or ISO 8601; without an offset it is
                in local time.

        Raises:
            ValueError: there is no such date.
        """
        if stamp[0] <= 0x39:
            return ABSOLUTE, datetime.fromisoformat(stamp.decode("ascii")).timestamp()
        if stamp[:9] != self._prefix:
            self._enter(stamp[:9])
        seconds = int(stamp[10:12]) * 60 + float(stamp[13:])
        self._latest[self._number] = max(self._latest[self._number], seconds)
        return self._number, seconds

    def _enter(self, prefix: bytes) -> None:
        """Go to the hour that this beginning of a timestamp names."""
        month, day, hour = _MONTHS.get(prefix[:3]), int(prefix[4:6]), int(prefix[7:9])
        if month is None or not 1 <= day <= calendar.monthrange(_LEAP_YEAR, month)[1] or hour > 23:
            raise ValueError(f"{prefix!r} is no date")
        if self._month:
            gone = month - self._month
            if gone < -6:
                self._year += 1
            elif gone == 11:
                # A late line of December after one of January.
                self._year -= 1
        self._month = month
        key = (self._year, month, day, hour)
        number = self._numbers.setdefault(key, len(self._latest))
        if number == len(self._latest):
            self._latest.append(0.0)
        self._prefix, self._number = prefix, number

    def hours(self, now: float) -> list[float]:
        """When the hours began, in seconds since the epoch: the latest years that put no line in the future.

        Args:
            now: seconds since the epoch.
        """
        if not self._numbers:
            return []
        this_year = time.localtime(now).tm_year
        first = min(hour[0] for hour in self._numbers)
        past: list[list[float]] = []
        for year in range(this_year - first, this_year - first - _YEARS_BACK, -1):
            starts = [_start(year, hour) for hour in self._numbers]
            if max(map(sum, zip(starts, self._latest, strict=True))) <= now + CLOCK_SKEW:
                if all(_exists(year, hour) for hour in self._numbers):
                    return starts
                past.append(starts)
        return past[0]


def _start(year: int, hour: Hour) -> float:
    return time.mktime((year + hour[0], *hour[1:], 0, 0, 0, 0, -1))


def _exists(year: int, hour: Hour) -> bool:
    return hour[1:3] != (2, 29) or calendar.isleap(year + hour[0])


def as_text(seconds: float) -> str:
    """A time for programs: ISO 8601 in local time with its offset, to the second."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().isoformat(timespec="seconds")


def for_people(seconds: float) -> str:
    """A time for people, local and to the minute: "2026-09-07 09:42"."""
    return f"{datetime.fromtimestamp(seconds, UTC).astimezone():%Y-%m-%d %H:%M}"
