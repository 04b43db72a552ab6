"""Windows of time in buckets: which counters a message touches and what their sum means.

The count of a sliding window is the sum of its newest K buckets, the current one included. These never
reach back further than the window, so the count is never larger than the true number of messages in it.
A fixed window is one bucket.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from senderscore_policy.policy.durations import period

CLOCK_SKEW: Final = 5.0
"""Seconds by which the clocks of hosts that share counters may differ (and a late writer be late)."""


class View(NamedTuple):
    """The buckets that count at one moment. A bucket's index is its start divided by its length."""

    current: int  # the bucket to add to
    open: tuple[int, ...]  # further buckets that another host may still be adding to: read them with every message
    closed: tuple[int, ...]  # buckets that no host adds to any more, newest first; they may be read once and kept

    def total(self, counts: Mapping[int, int]) -> int:
        """Messages in the window, from the counts of its buckets by index; absent ones are 0."""
        return sum(counts.get(index, 0) for index in (self.current, *self.open, *self.closed))


@dataclass(frozen=True, slots=True)
class Window:
    """A length of time in which messages are counted; a fixed window starts at whole multiples of its length (UTC)."""

    seconds: int  # its length, 60 to 2,419,200
    buckets: int  # the parts of a sliding window, at least 2 and each at least `CLOCK_SKEW` long; 1 for a fixed one

    @property
    def bucket_seconds(self) -> float:
        return self.seconds / self.buckets

    @property
    def ttl(self) -> int:
        """Seconds for which a bucket must be kept after its last message."""
        return math.ceil(self.seconds + 2 * self.bucket_seconds)

    def view(self, now: float) -> View:
        """The buckets that count at `now` (seconds of the clock that the counters use)."""
        length = self.bucket_seconds
        current = int(now // length)
        if self.buckets == 1:
            return View(current, (), ())
        elapsed = now - current * length
        coming = (current + 1,) if length - elapsed <= CLOCK_SKEW else ()
        closing = (current - 1,) if elapsed < CLOCK_SKEW else ()
        closed = range(current - 1 - len(closing), current - self.buckets, -1)
        return View(current, coming + closing, tuple(closed))

    def opens_at(self, counts: Mapping[int, int], limit: float, now: float) -> float | None:
        """The time at which one more message is within the limit, if the client sends none until then.

        `counts` has the messages of each bucket, by index, as counted by `now`. The result is `now` or the start of a
        later bucket; None: never, the limit is 0.
        """
        if limit < 1:
            return None
        bucket = int(now // self.bucket_seconds)
        while sum(count for index, count in counts.items() if index > bucket - self.buckets) > limit - 1:
            bucket += 1
        return max(now, bucket * self.bucket_seconds)

    def __str__(self) -> str:
        """The window as a reply shows it: "hour" for 3600, else "10 minutes"."""
        return period(self.seconds)
