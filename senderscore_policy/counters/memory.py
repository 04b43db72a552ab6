"""Counters in the daemon's own memory: a dictionary of clients for each bucket of the window."""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

from senderscore_policy.policy.ports import Charge, Clock, Usage
from senderscore_policy.policy.window import View, Window

CLIENTS_PER_LINE: Final = 1000
"""Clients in a line of a snapshot. One JSON call holds the interpreter, and with it every request, for some 0.3 ms."""
_LARGEST_COUNT: Final = 2**64
"""In a snapshot, as in memcached; a larger one is damage, and may be more than a float can hold."""

log = logging.getLogger(__name__)


class MemoryStore:
    """Implements `ports.CounterStore` and `ports.Persistent` without any I/O.

    Nothing here awaits, so each call is atomic. Buckets go by the monotonic clock, numbered as the
    wall clock stood when the store was made: a step of the wall clock does not touch the counters,
    a fixed window begins at the full hour, and the numbers hold over a restart.

    A client takes about 120 bytes in each bucket that counts it. When there are `max_entries` pairs of client
    and bucket, the store fails open: the oldest bucket is forgotten first; when only the current one is left, new
    clients are not entered any more and each of their messages counts as the first.
    """

    def __init__(self, window: Window, clock: Clock, max_entries: int = 2_000_000) -> None:
        self._clock = clock
        self._max_entries = max_entries
        self.begin(window)

    def begin(self, window: Window) -> None:
        """Count in this window from now on, from zero."""
        self._window = window
        self._epoch = self._clock.time() - self._clock.monotonic()
        self._buckets: dict[int, dict[str, int]] = {}

    @property
    def now(self) -> float:
        """The time that the buckets are numbered by; without a step of the wall clock, seconds since the epoch."""
        return self._epoch + self._clock.monotonic()

    async def charge(self, charges: Sequence[Charge], refunds: Sequence[Charge]) -> None:
        """Implements `CounterStore.charge`; a receipt is the number of a bucket."""
        self._take_back(refunds)
        view = self._advance()
        current = self._buckets.setdefault(view.current, {})
        others = [bucket.get for index, bucket in self._buckets.items() if index != view.current]
        room = self._room()
        for charge in charges:
            client, amount = charge.key, charge.amount
            messages = current.get(client, 0) + amount
            if messages > amount:
                current[client] = messages
            elif room > 0 or (room := self._make_room()) > 0:
                current[client] = messages
                room -= 1
            for count in others:
                messages += count(client, 0)
            charge.count = messages
            charge.receipt = view.current

    async def read(self, clients: Sequence[str]) -> list[Usage]:
        view = self._advance()
        usages = []
        for client in clients:
            counts = {index: bucket[client] for index, bucket in self._buckets.items() if client in bucket}
            usages.append(Usage(view.total(counts), counts))
        return usages

    async def reset(self, clients: Sequence[str]) -> list[str]:
        for bucket in self._buckets.values():
            for client in clients:
                bucket.pop(client, None)
        return []

    def snapshot(self) -> Iterator[str]:
        self._advance()
        return _lines(self._header(), sorted(self._buckets.items(), reverse=True))

    def restore(self, lines: Iterable[str]) -> None:
        """Load a snapshot, without the counters of another window and those that do not fit."""
        try:
            header, *saved = [json.loads(line) for line in lines] or [None]
        except RecursionError as error:
            raise ValueError("a line is nested too deep") from error
        if not isinstance(header, dict) or header.keys() != self._header().keys():
            raise ValueError("it does not begin with the window of its counters")
        buckets = [_checked_bucket(value) for value in saved]
        if header != self._header():
            log.info("saved counters belong to another window, starting empty")
            return
        view = self._advance()
        for index, counts in buckets:
            if view.current - self._window.buckets < index <= view.current:
                bucket = self._buckets.setdefault(index, {})
                for client, count in islice(counts.items(), max(0, self._room())):
                    bucket[client] = bucket.get(client, 0) + count

    def _advance(self) -> View:
        view = self._window.view(self.now)
        for index in [index for index in self._buckets if index <= view.current - self._window.buckets]:
            del self._buckets[index]
        return view

    def _take_back(self, refunds: Sequence[Charge]) -> None:
        for charge in refunds:
            assert isinstance(charge.receipt, int)
            bucket = self._buckets.get(charge.receipt, {})
            left = bucket.get(charge.key, 0) - charge.amount
            if left > 0:
                bucket[charge.key] = left
            else:
                bucket.pop(charge.key, None)

    def _room(self) -> int:
        return self._max_entries - sum(map(len, self._buckets.values()))

    def _make_room(self) -> int:
        """Forget the oldest bucket, unless it is the only one; how many entries may then be made."""
        while len(self._buckets) > 1 and self._room() <= 0:
            del self._buckets[min(self._buckets)]
        return self._room()

    def _header(self) -> dict[str, int]:
        return {"window": self._window.seconds, "buckets": self._window.buckets}


def _lines(header: dict[str, int], buckets: list[tuple[int, dict[str, int]]]) -> Iterator[str]:
    encode = json.JSONEncoder(separators=(",", ":")).encode
    yield encode(header)
    for index, bucket in buckets:
        # A dictionary is copied in one step, whatever thread counts in it meanwhile.
        entries = iter(bucket.copy().items())
        while chunk := dict(islice(entries, CLIENTS_PER_LINE)):
            yield encode([index, chunk])


def _checked_bucket(value: Any) -> tuple[int, dict[str, int]]:
    """A bucket's number and counts, as `MemoryStore.snapshot` writes them."""
    match value:
        case [int(index), dict(counts)] if all(
            type(count) is int and 0 < count <= _LARGEST_COUNT for count in counts.values()
        ):
            return index, counts
    raise ValueError("a line is no bucket of counters")
