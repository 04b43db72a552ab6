"""docs/performance.md from the results of a run."""

import datetime as dt
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import decisions
import machine
from bench import Plan
from costs import BATCH, Together
from peers import LIMIT, PEERS
from rows import Results, Row, Table

_MARK: Final = {True: "yes", False: "**no**", None: "–"}

_INTRODUCTION = """\
# Performance

Measured by `{command}` on {date}; anyone can repeat it. All figures of one run were taken in turns (A B A B …),
{rounds} rounds, and are medians; what counts are the ratios, the absolute figures are this machine's.

| machine | |
|---|---|
| processor | {processor}, {cores} cores, shared by the server, memcached and the load generator |
| memory | {memory} |
| system | {system} |
| Python | {python} |
| programs | {programs} |
| load average before | {load} |
| a loop of {additions:,} turns in Python | {speed} |

"""

_HOW = """\

## How it was measured

* **Requests** are what Postfix 3.7 sends at end of data, 28 attributes and about 710 bytes, each with an instance and a
  queue id of its own, over persistent connections with one request in hand on each, as smtpd does it.
  `benchmarks/load.c` sends them; it takes {generator:.0f} µs of processor time a request, a ceiling of about
  {ceiling:,.0f}/s on a core of its own, and reached {baseline:,.0f}/s against the server that parses nothing.
* **The server that parses nothing** (`benchmarks/always_dunno.py`) answers DUNNO to every empty line, on {loop}.
* **The daemon** runs with its defaults: the ten tiers, a sliding window of twelve buckets, lazy lookup; with
  `query_budget = 0` and a zone of its own (rbldnsd on loopback). Every deferral is logged, to a file.
* **Zipf**: 20,000 clients, the one of rank r as busy as 1/r, all with a score of 75: a limit of 800. Every start is a
  fresh one, with {warm_up:,} messages before each measurement of {seconds:g} s.
* **Every client new**: no address occurs twice.
* **The realistic mix**, {mix:,} messages from a fresh start: 2,000 stable servers (Zipf 1.1, nine of ten with a score
  of 70-100), a churning tail with 30% of all messages (nine of ten clients send at most 10, one of ten has a score),
  three floods at 30 times the mean rate of a stable server, with scores of 5, 45 and 95. With all scores at hand: the
  same again with the scores of a first time in the state directory.
* **Cold scores**: `lookup = "eager"`. The warm clients are 1,000 with known scores that send 2,000 messages a second
  (open loop: latency counts from when a message was due).
* **Postfix**: smtp-source, {messages:,} messages of 5 kB in turns through three smtpd of one Postfix, one connection
  each, 20 at a time, with the transport `discard`. The daemon counts them in memcached.
* **Other policy servers**, from Debian, count {limit} messages an hour for each client address:
{peers}
  Like is compared with like: the embedded store with counters in memory, memcached with counters in a store that
  several servers can share.
"""


def write(results: Results, plan: Plan, path: Path, pictures: list[tuple[str, str]], command: str) -> None:
    """Write the page.

    Args:
        results: of a complete run.
        plan: how much was measured.
        path: of the page.
        pictures: files in the directory next to it, and what they show.
        command: that made it.
    """
    table = Table(results)
    lines = [_introduction(results, plan, command), *_table(table.rows())]
    lines += [f"\n![{text}]({path.stem}/{name})" for name, text in pictures]
    lines += ["\n## All medians\n", *_medians(results)]
    lines.append(_where_the_time_goes(results))
    if results.together:
        lines.append(_more_hosts(results.together))
    lines.append(_how(results, plan))
    path.write_text("\n".join(lines), encoding="utf-8")


def _introduction(results: Results, plan: Plan, command: str) -> str:
    return _INTRODUCTION.format(
        command=command,
        date=dt.datetime.now(tz=dt.UTC).strftime("%Y-%m-%d"),
        rounds=plan.rounds,
        processor=_processor(),
        cores=os.cpu_count(),
        memory=_first_line("/proc/meminfo").partition(":")[2].strip(),
        system=f"{_system()}, Linux {platform.release()}",
        python=f"{platform.python_version()} ({sys.base_prefix}), {_loop()}",
        programs=", ".join(_programs()),
        load=f"{results.busy:.2f}",
        additions=machine.LOOP,
        speed=machine.description(),
    )


def _table(rows: list[Row]) -> list[str]:
    lines = ["| what | target | measured | met |", "|---|---|---|---|"]
    return lines + [f"| {row.what} | {row.target} | {row.measured} | {_MARK[row.met]} |" for row in rows]


def _medians(results: Results) -> list[str]:
    lines = [
        "| server | connections | decisions/s | p50 ms | p99 ms | deferred | µs server | µs memcached | µs generator |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, connections in results.samples.taken:
        s = results.samples.median(name, connections)
        lines.append(
            f"| {name} | {connections} | {s.per_second:,.0f} | {s.p50:.2f} | {s.p99:.2f} | {s.deferred:.0%} "
            f"| {s.server_cpu:.1f} | {s.store_cpu:.1f} | {s.generator_cpu:.1f} |"
        )
    lines += [f"| {peer.name} | | not installed | | | | | | |" for peer in PEERS if peer.missing]
    return lines


def _where_the_time_goes(results: Results) -> str:
    medians = results.samples.median
    nothing, memory, ours = (medians(name) for name in (decisions.BASELINE, decisions.MEMORY, decisions.MEMCACHED))
    nothing_alone, ours_alone = (medians(name, 1) for name in (decisions.BASELINE, decisions.MEMCACHED))
    return f"""
## Where the time goes

The server that parses nothing takes {nothing.server_cpu:.1f} µs of processor time for a request, all of it in the
kernel's TCP and the event loop. The daemon takes {memory.server_cpu:.1f} µs with the embedded store and
{ours.server_cpu:.1f} µs with memcached. With one connection the server that parses nothing takes
{nothing_alone.server_cpu:.0f} µs, and the daemon with memcached {ours_alone.server_cpu:.0f} µs: processors fall asleep
between messages, are woken for the next one, and begin with cold caches.
{_interpreter(results)}{_cold(results)}"""


def _interpreter(results: Results) -> str:
    if results.in_process is None:
        return ""
    memory, shared = results.in_process["memory"], results.in_process["memcached"]
    nothing, ours = (results.samples.median(name).server_cpu for name in (decisions.BASELINE, decisions.MEMORY))
    whole = memory.read + memory.rest
    return f"""
### Why CPython ends there

Without sockets a decision with the embedded store takes {whole:.1f} µs: {memory.read:.1f} µs from the received bytes to
a request, and {memory.rest:.1f} µs to count, compare, answer, remember and log it; with memcached
{shared.read + shared.rest:.1f} µs, without memcached's own work. Both hold for {BATCH} requests decided together, with
all clients in the processor's caches and none deferred. The {ours:.1f} µs of the daemon are these, the {nothing:.1f} µs
of the kernel and the event loop that every server needs, and what colder caches and the log lines of the deferred
messages take. A profile is flat: sending and receiving take a third; no function of the program takes a tenth. The
address and its score come from caches already, and what is left is a counter, a comparison, a reply, and the entries in
the histories of decisions, clients and minutes, which are what the administrator sees. More would take these histories
out of the daemon, or the interpreter. Tried, with a gain of 0 to 5%: mypyc and Cython on the unchanged source, another
version of Python, another memory allocator, huge pages, a decision without a task of its own.
"""


def _cold(results: Results) -> str:
    if results.cold is None:
        return ""
    return f"""
### Cold scores

If every client is new, the daemon does {results.cold.lookups:,.0f} lookups a second: one takes
{1e3 / results.cold.lookups:.2f} ms, its message included. So 1,000 new clients a second keep a processor almost busy,
and the messages of warm clients queue behind lookups. dnspython takes nine tenths of a lookup. A site comes nowhere
near this rate: with lazy lookups the daemon asks a few questions per thousand messages.
"""


def _more_hosts(found: Together) -> str:
    cores = os.cpu_count() or 1
    whole = found.daemon + found.store + found.generator
    daemons = found.daemon / found.store
    return f"""
## More hosts

Two daemons on one memcached decided {found.apart[0]:,.0f}/s and {found.apart[1]:,.0f}/s while the other one rested,
and {sum(found.together):,.0f}/s together: all of it shares {cores} cores. A decision takes {found.daemon:.1f} µs of
processor time in a daemon (its share of the kernel's TCP included), {found.store:.1f} µs in memcached and
{found.generator:.1f} µs in the load generator, {whole:.1f} µs in all, so {cores} cores can do no more than
{1e6 * cores / whole:,.0f}/s. On hosts of their own each daemon has a core, {1e6 / found.daemon:,.0f}/s, and each core
of memcached's host serves {1e6 / found.store:,.0f}/s: one such core carries {daemons:.0f} daemons, four carry
{4 * daemons:.0f}. Nothing else is shared.
"""


def _how(results: Results, plan: Plan) -> str:
    baseline = results.samples.median(decisions.BASELINE)
    peers = [f"  {peer.name}{'' if not peer.missing else ' (not installed)'}" for peer in PEERS]
    return _HOW.format(
        generator=baseline.generator_cpu,
        ceiling=1e6 / baseline.generator_cpu,
        baseline=baseline.per_second,
        loop=_loop(),
        warm_up=plan.warm_up,
        seconds=plan.seconds,
        mix=plan.mix,
        messages=plan.messages,
        limit=LIMIT,
        peers="; ".join(line.strip() for line in peers).join(["  ", "."]),
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _system() -> str:
    lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    return next((line.partition("=")[2].strip('"') for line in lines if line.startswith("PRETTY_NAME")), "Linux")


def _first_line(path: str) -> str:
    return Path(path).read_text(encoding="utf-8").splitlines()[0]


def _loop() -> str:
    try:
        return f"uvloop {version('uvloop')}"
    except PackageNotFoundError:
        return "asyncio's own event loop"


def _programs() -> list[str]:
    names = ["memcached", "postfix", "rbldnsd", *(package for peer in PEERS for package in peer.packages)]
    query = ["dpkg-query", "--show", "--showformat", "${Package} ${Version}\n", *names]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.splitlines()
