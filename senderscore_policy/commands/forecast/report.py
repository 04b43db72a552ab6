"""What there is to say about a forecast, for the terminal and for the page."""

from collections import Counter
from dataclasses import dataclass

from senderscore_policy.commands.forecast.scores import Scores
from senderscore_policy.commands.forecast.simulation import ClientForecast, Forecast
from senderscore_policy.maillog.messages import Traffic
from senderscore_policy.maillog.timestamps import for_people
from senderscore_policy.policy.reputation import Scored
from senderscore_policy.policy.status import limit_as_json

RETRIES = (
    "In reality a deferred message comes back: a mail server tries it again after minutes to hours, and each attempt "
    "that is deferred again is one more 421 in the log, while one that gets in takes a place in a later window. So "
    'read "deferred" as messages that would have been late, not as mail lost, and expect more 421 replies than that '
    "from clients that stay above their limit. Most senders of spam do not try again."
)
FRESH_COUNTERS = (
    "The counters are empty when the log begins: in its first window less is deferred than would have been."
)


@dataclass(frozen=True, slots=True)
class Band:
    """All clients under one rule."""

    tier: str
    limit: int | str
    clients: int
    messages: int
    deferred: int


@dataclass(frozen=True, slots=True)
class Change:
    """A client that another configuration treats differently; None: not counted there, or here."""

    before: ClientForecast | None
    after: ClientForecast | None

    @property
    def client(self) -> ClientForecast:
        """Its name and messages."""
        client = self.after or self.before
        assert client is not None
        return client

    @property
    def deferred(self) -> tuple[int, int]:
        """Its messages that would have been deferred, here and there."""
        return self.before.deferred if self.before else 0, self.after.deferred if self.after else 0


@dataclass(frozen=True, slots=True)
class Report:
    """A forecast with what it was made from.

    Args:
        logs: names of the logs.
        traffic: what they held.
        scores: what was known of the clients.
        guessed: clients whose score decides and is only assumed.
        trouble: why scores could not be looked up; or empty.
        name: of the configuration.
        forecast: what would have happened under it.
        other_name: of the configuration it is compared with; empty: there is none.
        other: what would have happened under that.
    """

    logs: list[str]
    traffic: Traffic
    scores: Scores
    guessed: int
    trouble: str
    name: str
    forecast: Forecast
    other_name: str = ""
    other: Forecast | None = None

    @property
    def period(self) -> str:
        """From the first message to the last."""
        times = self.traffic.times
        return f"{for_people(times[0])} to {for_people(times[-1])}" if times else "no messages"

    @property
    def limited(self) -> list[ClientForecast]:
        """The clients of which messages would have been deferred, the most deferred first."""
        return [client for client in self.forecast.clients if client.deferred]

    @property
    def counted_in(self) -> str:
        """What the limits count, "messages/hour" or "recipients/10 minutes"."""
        counters = self.forecast.config.counters
        return f"{counters.count}/{counters.window_of_time()}"

    def bands(self) -> list[Band]:
        """The tiers and other rules that clients fell under, from the worst score up."""
        order = [rule.name for rule in self.forecast.config.tiers.limits]
        groups: dict[tuple[str, int | str], list[ClientForecast]] = {}
        for client in self.forecast.clients:
            rule = client.standing.limit
            groups.setdefault((rule.name, limit_as_json(rule.messages)), []).append(client)
        bands = [
            Band(tier, limit, len(group), sum(each.messages for each in group), sum(each.deferred for each in group))
            for (tier, limit), group in groups.items()
        ]
        return sorted(bands, key=lambda band: (order.index(band.tier) if band.tier in order else len(order), band.tier))

    def changes(self) -> list[Change]:
        """The clients that the other configuration defers more or less of, the largest changes first."""
        if self.other is None:
            return []
        here = {client.key: client for client in self.forecast.clients}
        there = {client.key: client for client in self.other.clients}
        changes = [Change(here.get(key), there.get(key)) for key in here | there]
        changes = [change for change in changes if change.deferred[0] != change.deferred[1]]
        return sorted(changes, key=lambda change: (-abs(change.deferred[1] - change.deferred[0]), change.client.key))

    def notes(self) -> list[str]:
        """What the numbers rest on, as sentences."""
        return [*self._about_scores(), *self._about_lines(), FRESH_COUNTERS, RETRIES]

    def _about_scores(self) -> list[str]:
        origins = Counter(
            self.scores.origins[client.standing.client.address]
            for client in self.forecast.clients
            if client.standing.client.address and not client.standing.client.overridden
        )
        notes = []
        if origins["assumed"]:
            assumed = self.scores.assumed
            taken = f"a score of {assumed.score}" if isinstance(assumed, Scored) else "no score at all (unscored)"
            known = ", ".join(
                f"{origins[origin]:,} {words}"
                for origin, words in (
                    ("file", "from the file"),
                    ("cache", "from the daemon's cache"),
                    ("dns", "looked up"),
                )
                if origins[origin]
            )
            others = f"The other {origins['assumed']:,}" if known else f"None is known. All {origins['assumed']:,}"
            notes.append(f"Scores: {known}{'. ' if known else ''}{others} IPv4 clients are assumed to have {taken}.")
        if self.guessed:
            notes.append(
                f"{self.guessed:,} clients of an assumed score sent more than the smallest limit, so it matters: see "
                "--scores, --lookup and --assume."
            )
        if self.trouble:
            notes.append(f"{self.trouble[:1].upper()}{self.trouble[1:]}; these clients are among the assumed ones.")
        return notes

    def _about_lines(self) -> list[str]:
        count = self.traffic.count
        notes = []
        if self.forecast.uncounted:
            notes.append(
                f"{self.forecast.uncounted:,} messages are not counted: their clients are exempt, had logged in, or "
                "have no address."
            )
        if self.traffic.refused:
            notes.append(
                f"{self.traffic.refused:,} messages are left out that were rejected at their end already, by this "
                "policy or another restriction: under other limits some would have come in."
            )
        if count.alien:
            notes.append(f"{count.alien:,} of {count.lines:,} lines could not be read as lines of a mail log.")
        return notes

    def summary(self) -> str:
        """The result in a sentence."""
        forecast, limited = self.forecast, len(self.limited)
        share = 100 * forecast.deferred / forecast.messages if forecast.messages else 0
        return (
            f"{forecast.deferred:,} of {forecast.messages:,} messages ({share:.1f}%) would have been deferred, of "
            f"{limited:,} of {len(forecast.clients):,} clients"
        )
