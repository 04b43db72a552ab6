"""One fault from beginning to end, and whether everything held."""

import contextlib
from dataclasses import dataclass
from typing import Final

from faults import Fault, Kept
from load import GREEDY, GREEDY_LIMIT, Load, Phase, Record
from mail import Mail
from target import CLIENTS, Site

BOUND: Final = 1.5
"""Seconds that an answer may take: `deadline` (1 s), which is for what the daemon waits for, and half a second."""
SENDERS: Final = 10
"""Clients that send through Postfix, each over a connection of its own."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how much.

    Attributes:
        around: seconds before and after the fault.
        fault: seconds that it lasts.
        rate: requests a second.
        connections: to the daemon.
    """

    around: float
    fault: float
    rate: float = 400
    connections: int = 50


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it.

    Attributes:
        fault: its name.
        sent, answered, wrong, unanswered: requests, see `Record`.
        worst: longest wait for an answer in seconds.
        disturbed: memcached was too late also when nothing was wrong with it: the machine is busy, and counts
            may be too small.
        states: what /healthz said meanwhile.
        problems: what did not hold.
    """

    fault: str
    sent: int
    answered: int
    wrong: int
    unanswered: int
    worst: float
    disturbed: bool
    states: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def late(self) -> bool:
        """Whether an answer took too long."""
        return self.worst > BOUND


def run(fault: Fault, plan: Plan) -> Outcome:
    """Let the fault strike a daemon under load."""
    problems: list[str] = []
    with contextlib.ExitStack() as stack:
        site = Site(stack)
        fault.setting(site)
        site.start()
        site.load = _load(site, plan)
        with site.load:
            site.pass_time(plan.around)
            failed = site.failed_round_trips
            site.record.phase = Phase.DURING
            try:
                fault.strike(site, plan.fault)
            except AssertionError as error:
                problems.append(f"the fault itself failed: {error}")
            states = tuple(site.states)
            if not site.wait_until_ready():
                problems.append(f"not ready again: {site.health}")
            failed -= site.failed_round_trips
            site.record.phase = Phase.AFTER
            site.pass_time(plan.around)
        failed += site.failed_round_trips
        record = site.record
        problems += [*_answers(fault, record), *_counts(fault, site, complete=not failed)]
        problems += _end(fault, site)
    return Outcome(
        fault.name, record.sent, record.total, len(record.wrong), record.unanswered, record.worst,
        bool(failed), states, tuple(problems),
    )  # fmt: skip


def _load(site: Site, plan: Plan) -> Load | Mail:
    if hasattr(site, "postfix"):
        return Mail(site.postfix, CLIENTS[:SENDERS], 0.1)
    return Load(site.daemon.socket, site.client_of, plan.rate, plan.connections)


def _answers(fault: Fault, record: Record) -> list[str]:
    problems = []
    if record.wrong:
        problems.append(f"{len(record.wrong)} wrongly deferred: {record.wrong[0]}")
    if record.unanswered:
        problems.append(f"{record.unanswered} unanswered")
    most = max(record.passed.values(), default=0)
    if fault.lives is not None and most > fault.lives * GREEDY_LIMIT:
        problems.append(f"a client with a limit of {GREEDY_LIMIT} got {most} messages through")
    return problems


def _counts(fault: Fault, site: Site, *, complete: bool) -> list[str]:
    """Whether the counts of the clients below their limit are what they must be; unless `complete`, not too large."""
    record = site.record
    clients = sorted(set(record.sent_by) - set(GREEDY))
    counts = site.counts(clients)
    answered = {client: sum(record.answered[phase][client] for phase in Phase) for client in clients}
    least = {client: _least(fault, record, client) for client in clients}
    low = [client for client in clients if counts[client] < least[client] and complete]
    high = [client for client in clients if counts[client] > record.sent_by[client] + fault.twice]
    problems = [f"{client}: {counts[client]} counted, at least {least[client]} were sent" for client in low[:1]]
    problems += [f"{client}: {counts[client]} counted, {record.sent_by[client]} sent" for client in high[:1]]
    kept = sum(counts[client] >= answered[client] for client in clients)
    if complete and kept < fault.share * len(clients):
        problems.append(f"only {kept} of {len(clients)} clients kept their counts")
    return problems


def _least(fault: Fault, record: Record, client: str) -> int:
    phases = {
        Kept.ALL: tuple(Phase),
        Kept.OUTSIDE: (Phase.BEFORE, Phase.AFTER),
        Kept.AFTER: (Phase.AFTER,),
    }
    return sum(record.answered[phase][client] for phase in phases[fault.kept])


def _end(fault: Fault, site: Site) -> list[str]:
    """Whether the daemon noticed the fault, met nothing unforeseen, and ends well."""
    problems = []
    try:
        site.daemon.stop()
    except AssertionError:
        # The log without its hundreds of decision lines.
        lines = [line for line in site.daemon.log.splitlines() if "decision reason=" not in line]
        problems.append("\n".join([f"the daemon ended with status {site.daemon.process.returncode}; its log:", *lines]))
    if fault.felt not in site.daemon.log:
        problems.append(f"the daemon never noticed the fault: no {fault.felt!r} in its log")
    return problems
