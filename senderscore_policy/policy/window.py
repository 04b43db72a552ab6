"""Windows of time in buckets: which counters a message touches and what their sum means.

A sliding window of K buckets estimates the messages of the last `seconds` as all of the newest K
buckets plus the part of the one before them that is still in view. A fixed window is one bucket.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

CLOCK_SKEW: Final = 5.0
"""Seconds by which the clocks of hosts that share counters may differ (and a late writer be late)."""


class View(NamedTuple):
    """The buckets that count at one moment. A bucket's index is its start divided by its length.

    Args:
        current: the bucket to add to.
        open: further buckets that somebody may still be adding to: read them with every message.
        closed: buckets that nobody adds to any more, newest first; they may be read once and kept.
        oldest: the bucket that leaves the window now (the last of `closed`); none in a fixed window.
        weight: the share of `oldest` that still counts, 0 to 1.
    """

    current: int
    open: tuple[int, ...]
    closed: tuple[int, ...]
    oldest: int | None
    weight: float

    def partial(self, oldest_count: int) -> int:
        """What the messages of the oldest bucket still count for, rounded up."""
        return math.ceil(oldest_count * self.weight)

    def total(self, counts: Mapping[int, int]) -> int:
        """Messages in the window, from the counts of its buckets by index; absent ones are 0."""
        whole = sum(counts.get(i, 0) for i in (self.current, *self.open, *self.closed) if i != self.oldest)
        return whole if self.oldest is None else whole + self.partial(counts.get(self.oldest, 0))


@dataclass(frozen=True, slots=True)
class Window:
    """A length of time in which messages are counted.

    Args:
        seconds: its length, 60 to 2,419,200.
        buckets: into how many parts a sliding window is cut, each at least `CLOCK_SKEW` long;
            0 for a fixed window, which starts at whole multiples of its length (UTC).
    """

    seconds: int
    buckets: int

    @property
    def bucket_seconds(self) -> float:
        """The length of one bucket."""
        return self.seconds / (self.buckets or 1)

    @property
    def ttl(self) -> int:
        """Seconds for which a bucket must be kept after its last message."""
        return math.ceil(self.seconds + 2 * self.bucket_seconds)

    def view(self, now: float) -> View:
        """The buckets that count at `now` (seconds of the clock that the counters go by)."""
        length = self.bucket_seconds
        current = int(now // length)
        if not self.buckets:
            return View(current, (), (), None, 0.0)
        elapsed = now - current * length
        still_open = [current + 1] if length - elapsed <= CLOCK_SKEW else []
        newest_closed = current - 1
        if elapsed < CLOCK_SKEW:
            still_open.append(current - 1)
            newest_closed = current - 2
        oldest = current - self.buckets
        closed = tuple(range(newest_closed, oldest - 1, -1))
        return View(current, tuple(still_open), closed, oldest, 1.0 - elapsed / length)

    def opens_at(self, counts: Mapping[int, int], limit: float, now: float) -> float | None:
        """When one more message is within the limit, if none is sent until then.

        Args:
            counts: messages of each bucket, by index, as counted by `now`.
            limit: messages per window.
            now: seconds of the clock that the counters go by.

        Returns:
            `now` or a later time; None: never, the limit is 0.
        """
        if limit < 1:
            return None
        room = limit - 1
        length = self.bucket_seconds
        span = self.buckets or 1
        bucket = int(now // length)
        while True:
            # The newest `span` buckets, and what a clock ahead of this one has counted, are there as a whole.
            whole = sum(count for index, count in counts.items() if index > bucket - span)
            leaving = counts.get(bucket - span, 0) if self.buckets else 0
            if whole <= room:
                # View.partial: of `leaving` messages the share 1 - elapsed / length, rounded up, still counts.
                elapsed = max(0.0, length * (1.0 - (room - whole) / leaving)) if leaving else 0.0
                return max(now, bucket * length + elapsed)
            bucket += 1

    def __str__(self) -> str:
        """The window in words, as a reply shows it: "hour" for 3600, else "10 minutes"."""
        for length, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
            if self.seconds % length == 0:
                count = self.seconds // length
                return unit if count == 1 else f"{count} {unit}s"
        return f"{self.seconds} seconds"
