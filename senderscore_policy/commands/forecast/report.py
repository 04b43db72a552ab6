"""What there is to say about a forecast, for the terminal, the page and programs."""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from senderscore_policy.commands.forecast.scores import ASSUMED, FILE, KNOWN
from senderscore_policy.commands.forecast.simulation import DAY, HOUR, ClientForecast, Forecast
from senderscore_policy.commands.output import counted
from senderscore_policy.maillog.messages import End, Traffic
from senderscore_policy.maillog.timestamps import as_text, for_people
from senderscore_policy.policy.reputation import UNKNOWN, Scored, Unknown
from senderscore_policy.policy.status import limit_as_json
from senderscore_policy.reputation.budget import QueryBudget
from senderscore_policy.web.chart import tier_order


class Change(NamedTuple):
    """A client that another configuration treats differently; None: it does not count before, or after."""

    client: ClientForecast
    before: ClientForecast | None
    after: ClientForecast | None

    @property
    def deferred(self) -> tuple[int, int]:
        return self.before.deferred if self.before else 0, self.after.deferred if self.after else 0


@dataclass(frozen=True, slots=True)
class Report:
    """A forecast with what it was made from."""

    logs: list[str]  # titles
    traffic: Traffic
    assumed: Scored | Unknown | None  # the reputation of every client whose score is unknown; None: the user named none
    trouble: str  # why scores are missing; or empty
    name: str  # of the configuration
    forecast: Forecast
    other_name: str = ""  # of the configuration to compare with; or empty
    other: Forecast | None = None

    @property
    def period(self) -> str:
        times = self.traffic.times
        return f"{for_people(times[0])} to {for_people(times[-1])}" if times else "no messages"

    @property
    def limited(self) -> list[ClientForecast]:
        return [client for client in self.forecast.clients if client.deferred]

    @property
    def near(self) -> list[ClientForecast]:
        """The clients that came near their limit and stayed within, the nearest first."""
        near = [client for client in self.forecast.clients if client.near]
        return sorted(near, key=lambda client: -client.peak / max(1, client.limit.messages))

    @property
    def counted_in(self) -> str:
        """What the limits count, "messages/hour" or "recipients/10 minutes"."""
        counters = self.forecast.config.counters
        return f"{counters.count}/{counters.window_of_time()}"

    @property
    def is_range(self) -> bool:
        """Whether the result depends on scores about which nothing is known or assumed by the user."""
        return self.assumed is None and bool(self.forecast.deciding)

    def summary(self) -> str:
        forecast, limited = self.forecast, len(self.limited)
        messages = counted(forecast.messages, "message")
        if self.is_range:
            return (
                f"{forecast.least:,} to {forecast.most:,} of {messages} would have been deferred, depending on the "
                f"{'scores' if len(forecast.deciding) != 1 else 'score'} of {counted(len(forecast.deciding), 'client')}"
            )
        share = 100 * forecast.deferred / forecast.messages if forecast.messages else 0
        return (
            f"{forecast.deferred:,} of {messages} ({share:.1f}%) would have been deferred, from {limited:,} of "
            f"{counted(len(forecast.clients), 'client')}"
        )

    def details(self) -> Iterator[str]:
        """What became of the deferred messages, when, and the cost in queries, as sentences."""
        forecast = self.forecast
        if self.is_range:
            questions = counted(len(forecast.deciding), "question")
            yield f"--lookup asks {questions}. If these clients have no score, {forecast.deferred:,} would be deferred."
            yield from _fates("Of at most", forecast.worst_ends)
        else:
            yield from _fates("Of", forecast.ends)
        if forecast.deferred:
            first, last = (edge(forecast.hourly_deferred) for edge in (min, max))
            yield (
                f"Messages are deferred in {counted(len(forecast.hourly_deferred), 'hour')}, "
                f"between {for_people(first)} and {for_people(last + HOUR)}."
            )
        queries = self.queries()
        if not queries["total"]:
            yield "The daemon would have asked for no score."
            return
        budget = queries["budget_per_day"]
        allowed = f"the budget allows {budget:,} in a day" if budget else "there is no query budget"
        yield (
            f"The daemon would have asked for {counted(queries['total'], 'score')}: {queries['per_day']:,} a day, at "
            f"most {queries['most_in_a_day']:,} in one day; {allowed}."
        )

    def queries(self) -> dict[str, Any]:
        """The score queries that the daemon would have sent, and how many its budget allows."""
        queries, times = self.forecast.queries, self.traffic.times
        days = max(1.0, (times[-1] - times[0]) / DAY) if times else 1.0
        return {
            "total": queries.total(),
            "per_day": round(queries.total() / days, 1),
            "most_in_a_day": max(queries.values(), default=0),
            "budget_per_day": QueryBudget(self.forecast.config.reputation.query_budget, time).daily_limit or None,
        }

    def bands(self) -> list[tuple[str, int | str, int, int, int]]:
        """Tier, limit, clients, messages and deferred messages of each limit, from the worst score up."""
        groups: defaultdict[tuple[str, int | str], list[ClientForecast]] = defaultdict(list)
        for client in self.forecast.clients:
            groups[client.limit.name, limit_as_json(client.limit.messages)].append(client)
        bands = [
            (*limit, len(group), sum(each.messages for each in group), sum(each.deferred for each in group))
            for limit, group in groups.items()
        ]
        return sorted(bands, key=lambda band: tier_order(band[0]))

    def changes(self) -> list[Change]:
        """The clients that the other configuration defers more or less of, the largest changes first."""
        here = {client.key: client for client in self.forecast.clients}
        there = {client.key: client for client in (self.other or self.forecast).clients}
        changes = [Change(client, here.get(key), there.get(key)) for key, client in (here | there).items()]
        changes = [change for change in changes if change.deferred[0] != change.deferred[1]]
        return sorted(changes, key=lambda change: (-abs(change.deferred[1] - change.deferred[0]), change.client.key))

    def notes(self) -> list[str]:
        """What the numbers rest on, as sentences."""
        return [*self._about_scores(), *self._about_logs(), *self._about_messages()]

    def _about_scores(self) -> Iterator[str]:
        forecast = self.forecast
        origins = [each.origin for each in forecast.clients if each.address]
        known, given, assumed = map(origins.count, (KNOWN, FILE, ASSUMED))
        if assumed:
            reputation = self.assumed
            taken = f"a score of {reputation.score}" if isinstance(reputation, Scored) else "no score (unscored)"
            sources = [f"{known:,} known to the daemon or the zone"] * bool(known)
            sources += [f"{given:,} from --scores"] * bool(given)
            yield (
                f"Scores: {', '.join(sources) or 'none is known'}; "
                f"{counted(assumed, 'IPv4 client')} {'is' if assumed == 1 else 'are'} assumed to have {taken}."
            )
        if forecast.deciding and not self.is_range:
            yield (
                f"{counted(len(forecast.deciding), 'client')} with an assumed score sent more than the smallest limit "
                f"in a window. With other scores {forecast.least:,} to {forecast.most:,} messages would be deferred: "
                "see --lookup and --scores."
            )
        if self.trouble:
            yield f"{self.trouble[:1].upper()}{self.trouble[1:]}."

    def _about_logs(self) -> Iterator[str]:
        coverage, lost = self.traffic.coverage, self.traffic.coverage.begun - self.traffic.coverage.ended
        yield (
            f"Read: {counted(len(self.logs), 'log')} with {counted(coverage.lines, 'line')}, {coverage.postfix:,} by "
            f"Postfix's smtpd, cleanup and qmgr; {counted(coverage.begun, 'message')} begun, {lost:,} without an end."
        )
        if lost > 0.05 * coverage.begun:
            yield (
                f"Of {counted(coverage.begun, 'message')} that clients began, {lost:,} have no end in the log. Clients "
                "break off, but many such messages mean that lines are missing: forecast needs those of smtpd, "
                "cleanup and qmgr."
            )
        if coverage.postfix and not coverage.begun:
            yield "No client began a message in the log: smtpd took no mail, or its lines are missing."
        for reason, lines in coverage.unread.items():
            yield f"{counted(lines, 'line')} of Postfix could not be read: {reason}."
        if coverage.unread:
            yield f"The first unread line: {_quoted(coverage.example)}."
        for name, first in coverage.without_postfix.items():
            yield f"{name} has no line of Postfix's smtpd, cleanup or qmgr; it begins with {_quoted(first)}."
        if coverage.repeated:
            yield f"{counted(coverage.repeated, 'message')} occurred more than once in the logs and counted once."

    def _about_messages(self) -> Iterator[str]:
        if uncounted := len(self.traffic.times) - self.forecast.messages:
            yield f"{counted(uncounted, 'message')} did not count: the client is exempt, logged in, or has no address."
        private = [each for each in self.forecast.clients if "." in each.key and each.client.reputation == UNKNOWN]
        if private:
            messages = counted(sum(client.messages for client in private), "message")
            yield (
                f"{messages} of {counted(len(private), 'client')} in private networks counted. If main.cf permits "
                "these clients before the check (permit_mynetworks), Postfix does not ask; then use "
                '--not-asked "$(postconf -xh mynetworks)".'
            )
        if self.traffic.times:
            yield (
                "The counters are empty when the log begins, so in its first window fewer messages are deferred than "
                "in reality."
            )
            yield (
                "A mail server sends a deferred message again after minutes to hours. Each attempt above the limit is "
                'one more 421; one within it takes a place in a later window. So "deferred" means late, not lost. Most '
                "senders of spam do not try again."
            )

    def as_json(self) -> dict[str, Any]:
        """The object of `forecast --json`, without the clients."""
        forecast, coverage, times = self.forecast, self.traffic.coverage, self.traffic.times
        return {
            "messages": forecast.messages, "deferred": forecast.deferred,
            "deferred_range": [forecast.least, forecast.most],
            "late": forecast.ends[End.TAKEN], "filtered": forecast.ends[End.FILTERED],
            "refused": forecast.ends[End.REFUSED], "uncounted": len(times) - forecast.messages,
            "period": {"begin": as_text(times[0]), "end": as_text(times[-1])} if times else None,
            "hours_deferred": len(forecast.hourly_deferred), "queries": self.queries(),
            "coverage": {"files": len(self.logs)} | coverage.as_json(), "notes": self.notes(),
            "deciding": [client.key for client in forecast.deciding],
        }  # fmt: skip

    def json_text(self) -> Iterator[str]:
        """The whole object in pieces, as a site may have a million clients."""
        yield json.dumps(self.as_json(), indent=2)[:-2]
        yield ',\n  "clients": '
        yield from _clients_as_json(self.forecast)
        if self.other is not None:
            yield f',\n  "compare": {{"messages": {self.other.messages}, "deferred": {self.other.deferred}, "clients": '
            yield from _clients_as_json(self.other)
            yield "}"
        yield "\n}\n"


def _clients_as_json(forecast: Forecast) -> Iterator[str]:
    for number, client in enumerate(forecast.clients):
        yield f"{',' if number else '['}\n    {json.dumps(client.as_json())}"
    yield "\n  ]" if forecast.clients else "[]"


def _fates(title: str, ends: Counter[int]) -> Iterator[str]:
    """What the log says became of deferred messages: was it spam anyway?"""
    taken, filtered, refused = (ends[end] for end in End)
    parts = (
        f"Postfix took {taken:,}, which would have been late" if taken else "",
        f"a filter rejected, held or discarded {filtered:,} anyway" if filtered else "",
        f"{refused:,} met a rejection at the end of data already" if refused else "",
    )
    if ends.total():
        yield f"{title} {counted(ends.total(), 'deferred message')}, {'; '.join(filter(None, parts))}."


def _quoted(line: bytes) -> str:
    return ascii(line[:120].decode("utf-8", "replace"))
