"""Checks of `doctor`: does each memcached count, and keep what it counted?"""

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Final

from pymemcache.exceptions import MemcacheError, MemcacheServerError, MemcacheUnexpectedCloseError  # type: ignore[import-untyped]

from senderscore_policy.commands.doctor.finding import FAIL, OK, WARN, Finding
from senderscore_policy.config.model import CounterSettings
from senderscore_policy.counters.memcached.connection import client, description, evictions
from senderscore_policy.counters.memcached.protocol import key_named

_UNREACHABLE: Final = (
    "check that memcached listens there (counters.servers, its option -l) and that no firewall stops it; meanwhile "
    "each daemon counts for itself"
)
_MORE_MEMORY: Final = "an evicted counter starts at zero: give memcached more memory (-m, in MB) and restart it"


def memcached_findings(settings: CounterSettings) -> Iterator[Finding]:
    """Count a message on every server as the daemon does, and ask for its evictions."""
    if settings.store == "memory":
        yield Finding("counters", OK, "the daemon keeps them itself, for one host")
        return
    key = key_named(f"{settings.key_prefix}doctor")
    for endpoint in settings.servers:
        started = time.perf_counter()
        try:
            with closing(client(endpoint, settings)) as memcached:
                memcached.add(key, b"0", expire=60, noreply=False)
                memcached.incr(key, 1)
                milliseconds = (time.perf_counter() - started) * 1000
                memcached.delete(key, noreply=False)
            evicted = evictions(endpoint, settings)
        except (OSError, MemcacheError) as error:
            full = isinstance(error, MemcacheServerError) and not isinstance(error, MemcacheUnexpectedCloseError)
            remedy = _MORE_MEMORY if full else _UNREACHABLE
            yield Finding("memcached", FAIL, f"{endpoint}: {description(error, settings)}", remedy)
            continue
        if evicted:
            yield Finding("memcached", WARN, f"{endpoint} has evicted {evicted} items since it started", _MORE_MEMORY)
        else:
            yield Finding("memcached", OK, f"{endpoint} counts, in {milliseconds:.0f} ms, and has evicted nothing")
