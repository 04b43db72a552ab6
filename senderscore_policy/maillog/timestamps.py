"""The times of log lines; a syslog line carries no year and no time zone."""

import calendar
import re
import time
from array import array
from datetime import UTC, datetime
from typing import Final

OTHER_ZONE: Final = 26 * 3600.0
"""Seconds by which the local time of a host elsewhere may be ahead of ours (UTC+14 and UTC-12)."""
OUT_OF_ORDER: Final = 60.0
"""Seconds by which a line may be earlier than the one before it."""
LATEST: Final = 2.0**33
"""Seconds since the epoch, in the year 2242; programs write 0001 or 9999 for an unknown time."""
_YEARS: Final = 12
"""A 29 February is found within eight years, also around 1900 and 2100."""

STAMP: Final = re.compile(
    rb"(?P<date>\d{4}[-/]\d\d[-/]\d\d)[Tt ] *(?P<time>\d\d:\d\d:\d\d(?:[.,]\d+)?)"
    rb"(?: ?(?P<zone>[Zz]|UTC|GMT|[+-]\d\d(?::?\d\d)?)(?![\w.:-]))?"
    rb"|(?<![\w.])(?P<epoch>1\d{9})(?:\d{3}|\d{6}|\d{9})?(?:\.\d+)?(?![\w.])"
    rb"|(?P<month>(?:[A-Za-z]|[\xc3-\xd1][\x80-\xbf]){3,12}|\d{1,2}\xe6\x9c\x88)\.? +(?P<day>\d{1,2})"
    rb",? +(?:(?P<year>\d{4}) +(?:@ )?)?(?P<hour>\d\d):(?P<seconds>\d\d:\d\d(?:\.\d+)?)"
)
"""A timestamp of ISO 8601, in seconds (to nanoseconds) since the epoch, or of syslog."""

_MONTHS: Final = {
    name: number
    # journalctl writes months in the language of the locale, glibc's abmon; three or four letters are enough.
    for number, names in enumerate(
        (
            "jan ene gen sty led oca янв tam jän ian січ",
            "feb fév fev lut úno şub фев hel лют",
            "mar mär mrt bře мар maa már бер",
            "apr abr avr kwi dub ápr nis апр huh кві",
            "may mai mag mei maj máj kvě мая май tou тра",
            "jun juin giu jún cze čen haz июн kes iun чер",
            "jul juil lug júl lip čec tem июл hei iul лип",
            "aug ago aoû sie srp ağu авг elo сер",
            "sep set wrz zář sze eyl сен syy вер",
            "oct okt ott out paź říj eki окт lok жов",
            "nov lis kas ноя marr noi лис",
            "dec dez déc dic des gru pro ара дек jou гру",
        ),
        1,
    )
    for name in (*names.split(), f"{number}月")
}


class Timestamps:
    """Reads the timestamps of one log, in the order of its lines, as seconds since the epoch.

    A syslog timestamp gets the year that is nearest to the line before it, and the first line the latest year that
    puts it at most at `latest`. An hour that a clock change repeats is read twice.

    Args:
        latest: no line without a year is later than this.
        times: of messages; the caller appends to it, and `end` corrects the years of the new ones.
    """

    def __init__(self, latest: float, times: "array[float]") -> None:
        self._latest = latest
        self._times = times
        self._first = len(times)
        self._year: int | None = None
        self._month = 0
        self._hour: tuple[bytes, ...] | None = None
        self._starts: list[float] = []
        self._before = 0.0
        self._trend = 1
        self._absolute = False

    def read(self, stamp: re.Match[bytes]) -> float:
        """The time of a match of `STAMP`; ValueError: such a date does not exist."""
        date, clock, zone, epoch, year = stamp.group("date", "time", "zone", "epoch", "year")
        self._absolute |= bool(date or epoch or year)
        if date and zone:
            zone = b"Z" if zone in {b"UTC", b"GMT"} else zone.upper()
            text = f"{date.replace(b'/', b'-').decode()}T{(clock + zone).decode()}"
            self._before = datetime.fromisoformat(text).timestamp()
        elif epoch:
            self._before = float(epoch)
        else:
            self._before = self._local(stamp)
        if not 0 <= self._before < LATEST:
            raise ValueError("impossible date")
        return self._before

    def _local(self, stamp: re.Match[bytes]) -> float:
        """The time of a timestamp without a time zone: the one of two that follows the line before."""
        date, clock, hour, seconds = stamp.group("date", "time", "hour", "seconds")
        if date:
            hour, seconds = clock[:2], clock[3:].replace(b",", b".")
        key = (hour, *stamp.group("date", "month", "day", "year"))
        if key != self._hour:
            self._year, self._month, day_of_month = map(int, re.split(b"[-/]", date)) if date else self._date(stamp)
            self._starts = _starts(self._year, self._month, day_of_month, int(hour))
            self._hour = key
        within = int(seconds[:2]) * 60 + float(seconds[3:])
        if int(seconds[:2]) > 59 or within >= 3601:
            raise ValueError("impossible time")
        if len(self._starts) == 1:
            then = self._starts[0] + within
            self._trend += (then > self._before) - (then < self._before)
            return then
        times = [start + within for start in self._starts]
        if self._trend < 0:
            return next((then for then in times[::-1] if then <= self._before + OUT_OF_ORDER), times[0])
        return next((then for then in times if then >= self._before - OUT_OF_ORDER), times[-1])

    def _date(self, stamp: re.Match[bytes]) -> tuple[int, int, int]:
        name, day = stamp["month"].decode(errors="replace"), int(stamp["day"])
        month = _MONTHS.get(name.lower()[:4]) or _MONTHS.get(name.lower()[:3])
        if month is None:
            raise ValueError(f"{name!r} is not a month")
        if stamp["year"]:
            return int(stamp["year"]), month, day
        if self._year is None:
            this, hour = time.localtime(self._latest).tm_year, int(stamp["hour"])
            for year in range(this, this - _YEARS, -1):
                if _exists(year, month, day) and _starts(year, month, day, hour)[0] <= self._latest:
                    return year, month, day
            raise ValueError("impossible date")
        year = self._year + (self._month - month > 6) - (month - self._month > 6)
        if not self._absolute and (month, day) == (2, 29) and not _exists(year, month, day):
            # Only a leap year has this day, so all lines before it belong to an earlier year, too.
            back = next(back for back in range(1, _YEARS) if _exists(year - back, month, day))
            self._move(back)
            year -= back
        return year, month, day

    def end(self) -> None:
        """Correct the year of the messages of this log if it turned out to be too late."""
        while not self._absolute and self._first < len(self._times) and max(self._times[self._first :]) > self._latest:
            self._move(1)

    def _move(self, years: int) -> None:
        for index in range(self._first, len(self._times)):
            then = time.localtime(self._times[index])
            self._times[index] = time.mktime((then.tm_year - years, *then[1:6], 0, 0, -1)) + self._times[index] % 1
        self._hour = None


def _exists(year: int, month: int, day: int) -> bool:
    return 1 <= day <= calendar.monthrange(year, month)[1]


def _starts(year: int, month: int, day: int, hour: int) -> list[float]:
    """When a local hour began; twice when a clock change repeats it. ValueError: such a date does not exist."""
    local = datetime(year, month, day, hour)  # noqa: DTZ001 - the time zone of this host, by mktime's rules
    return sorted({local.replace(fold=fold).timestamp() for fold in (0, 1)})


def as_text(seconds: float) -> str:
    """A time for programs: ISO 8601 in local time with its offset, to the second."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().isoformat(timespec="seconds")


def for_people(seconds: float) -> str:
    """A time for people, local and to the minute: "2026-09-07 09:42"."""
    return f"{datetime.fromtimestamp(seconds, UTC).astimezone():%Y-%m-%d %H:%M}"
