"""The faults, and what must hold after each."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

import host_faults as host
import memcached_faults as cache
import zone_faults as dns
from target import Setting, Site, memcached, own_counters, relayed


class Kept(Enum):
    """Which of a client's answered messages must be in its count when the fault is over."""

    ALL = "every message"
    OUTSIDE = "every message from before and after it"
    AFTER = "every message from after it"


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the table.

    Attributes:
        name: in the table.
        strike: makes the fault, lets about that many seconds pass, and ends it.
        setting: what it strikes.
        kept: see there. No count may ever be above what was sent.
        lives: how many times its limit a client may get through meanwhile, as its count starts again at zero;
            None: no bound (it has no limit while its score is unknown).
        felt: must be in the daemon's log, or the daemon did not notice the fault; empty: `strike` checks that.
        twice: requests of one client that may count twice.
        share: of the clients, of whom every message must be in their counts.
    """

    name: str
    strike: Callable[[Site, float], None]
    setting: Setting
    kept: Kept = Kept.ALL
    lives: int | None = 1
    felt: str = ""
    twice: int = 0
    share: float = 0.0


_ONE: Final = memcached()
# A busy machine must not be taken for the fault where every message is looked for.
_SURE: Final = memcached(timeout=5)
_LOST: Final = "counting without it until it is back"

FAULTS: Final = (
    Fault("memcached killed and restarted", cache.killed, _ONE, Kept.AFTER, 6, _LOST),
    Fault("memcached frozen, twice", cache.frozen, _ONE, Kept.OUTSIDE, 2, "no answer within 0.25 s"),
    Fault("memcached answers garbage", cache.nonsense, relayed, Kept.OUTSIDE, 2, _LOST),
    Fault("memcached answers after 0.1 s", cache.slow, relayed, Kept.OUTSIDE, 2),
    Fault("memcached answers after 0.4 s", cache.too_slow, relayed, Kept.OUTSIDE, 2, "no answer within 0.25 s"),
    Fault("memcached closes in mid-reply", cache.mid_reply, relayed, Kept.OUTSIDE, 2, "closed the connection"),
    Fault("memcached out of memory", cache.out_of_memory, memcached(1, 1, 0.25, "-M", "-m", "2"), Kept.AFTER, 3),
    Fault("one invalid key in memcached", cache.invalid, _SURE, Kept.AFTER, share=0.99),
    Fault("one of three memcached dies, replicas = 2", cache.one_dies, memcached(3, 2, timeout=5), felt=_LOST),
    Fault(
        "one of three memcached dies, replicas = 1",
        cache.one_dies,
        memcached(3, timeout=5),
        Kept.AFTER,
        3,
        _LOST,
        share=0.45,  # surely fewer than two thirds
    ),
    Fault(
        "each of three memcached frozen, replicas = 2",
        cache.frozen_in_turn,
        memcached(3, 2),
        felt="no answer within 0.25 s",
    ),
    Fault("DNS silent", dns.silent, dns.zone, lives=None, felt="is failing"),
    Fault("DNS answers after 0.6 s", dns.slow, dns.zone),
    Fault("DNS answers after 2 s", dns.too_slow, dns.zone, lives=None),
    Fault("zone refuses", dns.refuses, dns.zone, lives=None, felt="refuses to answer"),
    Fault("DNS broken", dns.broken, dns.zone, lives=None, felt="is failing"),
    Fault("DNS lying", dns.lying, dns.zone, lives=None, felt="is failing"),
    Fault("DNS truncating", dns.truncating, dns.zone, lives=None),
    Fault("DNS forged", dns.spoofed, dns.zone, lives=None),
    Fault("daemon killed, behind Postfix", host.sigkill, host.behind_postfix, Kept.OUTSIDE, None, twice=3),
    Fault("daemon restarted, behind Postfix", host.restarts, host.behind_postfix, Kept.OUTSIDE, None, "stopping"),
    Fault("state disk full", host.disk_full, host.small_disk, felt="No space left on device"),
    Fault("state disk read-only", host.disk_read_only, host.small_disk, felt="Read-only file system"),
    Fault("clock steps, own counters", host.clock_steps, host.faked_clock(own_counters)),
    Fault("clock steps, memcached", host.clock_steps, host.faked_clock(_ONE), Kept.OUTSIDE, 3),
    Fault("300 idle connections, 120 descriptors", host.crowded, host.few_descriptors, felt="max_connections lowered"),
    Fault("300 idle connections, 120 descriptors, no uvloop", host.crowded, host.without_uvloop(host.few_descriptors)),
    Fault("no descriptor left, memcached restarted", host.out_of_descriptors, _ONE, Kept.AFTER, 3, _LOST),
    Fault(
        "no descriptor left, memcached restarted, no uvloop",
        host.out_of_descriptors,
        host.without_uvloop(_ONE),
        Kept.AFTER,
        3,
        "cannot accept connections",
    ),
    Fault("100 reloads", host.reloads, _SURE),
    Fault("50 floods of the smallest requests", host.floods, dns.zone, felt="malformed request"),
    Fault("4,900 stalled connections", host.stalled, own_counters),
    Fault("4,900 stalled connections, no uvloop", host.stalled, host.without_uvloop(own_counters)),
)
