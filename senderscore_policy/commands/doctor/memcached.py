"""Checks of `doctor`: does each memcached count, and keep what it counted?"""

import asyncio
import time
from collections.abc import Iterator
from typing import Final

from senderscore_policy.commands.doctor.finding import Finding, Status
from senderscore_policy.config.model import CounterSettings
from senderscore_policy.counters.memcached.connection import Server
from senderscore_policy.counters.memcached.protocol import Pipeline, add, delete, incr, key_named
from senderscore_policy.errors import BackendError

_TTL: Final = 60
_UNREACHABLE: Final = (
    "let memcached, and nothing else, listen there: check counters.servers, its option -l and the firewall between; "
    "meanwhile each daemon counts for itself"
)
_MORE_MEMORY: Final = "an evicted counter starts at zero: give memcached more memory (-m, in MB) and restart it"


def memcached_findings(settings: CounterSettings) -> Iterator[Finding]:
    """Count a message on every server, as the daemon does it, and ask what was thrown out."""
    if settings.store == "memory":
        yield Finding("counters", Status.OK, "kept by the daemon itself, for one host")
        return
    for endpoint in settings.servers:
        yield asyncio.run(_examine(Server(endpoint, settings.timeout), settings))


async def _examine(server: Server, settings: CounterSettings) -> Finding:
    key = key_named(f"{settings.key_prefix}doctor")
    started = time.perf_counter()
    try:
        replies = await server.exchange(Pipeline([add(key, 0, _TTL), incr(key, 1)], [key]))
        milliseconds = (time.perf_counter() - started) * 1000
        await server.exchange(Pipeline([delete(key)], []))
        evictions = await server.evictions()
    except BackendError as error:
        return Finding("memcached", Status.FAIL, f"{server.name}: {error}", _UNREACHABLE)
    finally:
        server.close()
    count = replies.lines[1]
    if not count.isdigit():
        detail = f"{server.name} does not count: it answers {count.decode(errors='backslashreplace')}"
        return Finding("memcached", Status.FAIL, detail, _MORE_MEMORY)
    if evictions:
        detail = f"{server.name} has thrown out {evictions} items to make room since it started"
        return Finding("memcached", Status.WARN, detail, _MORE_MEMORY)
    return Finding("memcached", Status.OK, f"{server.name} counts, in {milliseconds:.0f} ms, and has evicted nothing")
