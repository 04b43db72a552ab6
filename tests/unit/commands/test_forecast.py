"""A forecast says what the daemon would have decided."""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import FakeClock
from hypothesis import given
from hypothesis import strategies as st
from maillog_lines import BEGIN, Log

from senderscore_policy.commands.forecast.report import Report
from senderscore_policy.commands.forecast.scores import Scores, read_scores
from senderscore_policy.commands.forecast.simulation import Case, ClientForecast, Forecast
from senderscore_policy.config.load import parse
from senderscore_policy.config.model import Config
from senderscore_policy.counters.memory import MemoryStore
from senderscore_policy.maillog.messages import End, LoggedClient, Traffic, read_logs
from senderscore_policy.policy.clients import NetworkTable
from senderscore_policy.policy.policy import within
from senderscore_policy.policy.ports import Charge
from senderscore_policy.policy.reputation import UNKNOWN, Scored

HOUR = 3600
NOTHING_KNOWN = Scores(NetworkTable(()), UNKNOWN)

Foresee = Callable[..., Forecast]


@pytest.fixture
def foresee(tmp_path: Path) -> Foresee:
    """Makes a forecast of a log."""

    def foresee(log: Log, toml: str = "", scores: str = "", assumed: Scored | None = None) -> Forecast:
        (tmp_path / "mail.log").write_text(log.text)
        (tmp_path / "scores").write_text(scores)
        traffic = read_logs([str(tmp_path / "mail.log")], lambda _: None)
        known = Scores(read_scores(tmp_path / "scores"), assumed or UNKNOWN)
        return Case(parse(toml, "test.toml"), traffic).forecast(known)

    return foresee


def found(forecast: Forecast, key: str) -> ClientForecast:
    """The client with this key."""
    [client] = [client for client in forecast.clients if client.key == key]
    return client


def test_the_first_message_above_the_limit_is_deferred(foresee: Foresee) -> None:
    """A client of score 5 gets 100 messages an hour; of 150 in 150 seconds the last 50 are deferred."""
    log = Log()
    log.messages("192.0.2.5", 150)
    log.message("192.0.2.95")
    forecast = foresee(log, scores="192.0.2.5,5\n192.0.2.95,95")
    assert (forecast.messages, forecast.deferred, forecast.least, forecast.most) == (151, 50, 50, 50)
    client, other = forecast.clients
    values = client.as_json()
    assert values == {
        "client": "192.0.2.5",
        "host": "mx.example.net",
        "score": 5,
        "origin": "file",
        "tier": "0-10",
        "limit": 100,
        "messages": 150,
        "peak": 150,
        "deferred": 50,
        "late": 50,
        "first_deferred": values["first_deferred"],
        "last_deferred": values["last_deferred"],
        "hours_deferred": 1,
    }
    assert client.tally.span == (BEGIN.timestamp() + 100, BEGIN.timestamp() + 149)
    assert (other.as_json()["first_deferred"], other.peak) == (None, 1)


def test_as_many_as_the_limit_are_accepted(foresee: Foresee) -> None:
    """A limit of N lets exactly N messages through; the client is near its limit then."""
    log = Log()
    log.messages("192.0.2.5", 100)
    forecast = foresee(log, scores="192.0.2.5,5")
    assert (forecast.deferred, forecast.clients[0].near) == (0, True)


def test_a_client_is_accepted_again_when_its_messages_leave_the_window(foresee: Foresee) -> None:
    """Ninety an hour are within a limit of 100, however many hours it goes on."""
    log = Log()
    log.messages("192.0.2.5", 500, every=HOUR / 90)
    forecast = foresee(log, scores="192.0.2.5,5")
    assert (forecast.messages, forecast.deferred) == (500, 0)


def test_clients_without_a_known_score_make_a_range(foresee: Foresee) -> None:
    """They are counted as assumed, and the forecast has the results for the best and for the worst score."""
    log = Log()
    log.messages("192.0.2.5", 150)
    log.message("192.0.2.6")
    forecast = foresee(log)
    assert (forecast.deferred, forecast.least, forecast.most) == (0, 0, 50)
    [client] = forecast.deciding
    assert (client.key, client.origin, client.score, client.peak) == ("192.0.2.5", "assumed", None, 150)
    assert (client.best.ends.total(), client.worst.ends.total()) == (0, 50)
    assert foresee(log, assumed=Scored(0)).deferred == 50
    assert foresee(log, "[unscored]\nlimit = 60").deferred == 90


def test_a_replay_under_the_policy_that_wrote_the_log_shows_what_happened(foresee: Foresee) -> None:
    """Messages that the policy deferred then were asked, and are asked again."""
    log = Log()
    for number in range(1, 13):
        log.now = BEGIN.replace(minute=5 * number - 5)
        log.line(f"B{number}: client=a[192.0.2.5]")
        if number in {1, 4, 7, 10}:
            log.line(f"B{number}: from=<a@b>, size=313, nrcpt=1 (queue active)", "postfix/qmgr[9308]")
        else:
            log.line(f"B{number}: reject: END-OF-MESSAGE from a[192.0.2.5]: 421 4.7.1 <END-OF-MESSAGE>: limited")
    forecast = foresee(log, "[unscored]\nlimit = 4")
    assert (forecast.messages, forecast.deferred) == (12, 8)
    assert forecast.ends == {End.TAKEN: 2, End.REFUSED: 6}
    assert [foresee(log, f"[unscored]\nlimit = {limit}").deferred for limit in (8, 12)] == [4, 0]


def test_exempt_and_authenticated_clients_are_not_counted(foresee: Foresee) -> None:
    """The forecast leaves out the messages that the daemon leaves out."""
    log = Log()
    for _ in range(150):
        log.message("127.0.0.1")
        log.message("198.51.100.25")
        log.message("192.0.2.5", more=", sasl_method=PLAIN, sasl_username=joe")
    toml = '[exempt]\nnetworks = ["127.0.0.0/8", "198.51.100.0/24"]\n'
    forecast = foresee(log, toml, scores="0.0.0.0/0,5")
    assert (forecast.messages, forecast.clients) == (0, [])
    assert foresee(log, toml + "authenticated = false", scores="0.0.0.0/0,5").deferred == 50


def test_ipv6_clients_are_counted_by_their_prefix(foresee: Foresee) -> None:
    """All of a /64 together, and without a score."""
    log = Log()
    for number in range(30):
        log.message(f"2001:db8::{number + 1:x}")
    client = found(foresee(log, "[unscored]\nlimit = 20", scores="::/0,5"), "2001:db8::/64")
    assert (client.score, client.origin, client.limit.name, client.messages, client.deferred) == (
        None,
        "known",
        "unscored",
        30,
        10,
    )


def test_recipients_count_if_the_configuration_says_so(foresee: Foresee) -> None:
    """Ten messages of 15 recipients each are six within a limit of 100 recipients."""
    log = Log()
    for _ in range(10):
        log.message("192.0.2.5", recipients=15)
    forecast = foresee(log, '[counters]\ncount = "recipients"', scores="192.0.2.5,5")
    assert (forecast.messages, forecast.deferred, forecast.clients[0].peak) == (10, 4, 150)


def test_an_override_goes_before_the_score_and_observe_mode_changes_nothing(foresee: Foresee) -> None:
    """The forecast is what "enforce" would do."""
    log = Log()
    log.messages("192.0.2.5", 60)
    toml = 'mode = "observe"\n[[override]]\nnetworks = ["192.0.2.0/24"]\nlimit = 50'
    client = found(foresee(log, toml, scores="192.0.2.5,95"), "192.0.2.5")
    assert (client.limit.name, client.origin, client.deferred) == ("override", "override", 10)


def test_every_message_is_above_a_limit_of_zero(foresee: Foresee) -> None:
    """A limit of 0 defers the first message already."""
    log = Log()
    log.message("192.0.2.5")
    assert foresee(log, "[unscored]\nlimit = 0").deferred == 1


def test_an_empty_log_makes_an_empty_forecast(foresee: Foresee) -> None:
    """There is nothing to divide by."""
    forecast = foresee(Log())
    assert (forecast.messages, forecast.deferred, forecast.clients, forecast.most) == (0, 0, [], 0)


def test_score_queries_are_counted_as_the_daemon_would_send_them(foresee: Foresee) -> None:
    """A client is asked about from half of the smallest limit on, and again when its score is a day old."""
    log = Log()
    for day in range(3):
        for number in range(60):
            log.message("192.0.2.5", at=day * 90_000 + number)
            log.message("2001:db8::5", at=day * 90_000 + number)
        log.message("192.0.2.6")
    assert list(foresee(log, scores="192.0.2.5,50").queries.values()) == [1, 1, 1]
    assert foresee(log, '[[override]]\nnetworks = ["192.0.2.5"]\nscore = 5').queries.total() == 0
    eager = '[reputation]\nlookup = "eager"\nscored_ttl = 604800\nunknown_ttl = 604800'
    assert foresee(log, eager).queries.total() == 2


def traffic_of(messages: list[tuple[float, int, int]]) -> Traffic:
    """Messages of four clients: time, client and recipients."""
    traffic = Traffic(who=[LoggedClient(f"192.0.2.{number}", number == 3, "") for number in range(4)])
    time = 1_700_000_000.0
    for step, sender, recipients in messages:
        time += step
        traffic.times.append(time)
        traffic.senders.append(sender)
        traffic.recipients.append(recipients)
        traffic.ends.append(End.TAKEN)
        traffic.identities.append(len(traffic.times))
    return traffic


async def counted_by_the_store(config: Config, messages: list[tuple[float, int, int]], limit: int) -> Counter[str]:
    """The messages that the daemon's own counters defer, one after the other."""
    clock, deferred = FakeClock(1_700_000_000.0), Counter[str]()
    store = MemoryStore(config.counters.window_of_time(), clock)
    exact = clock.now
    for step, sender, recipients in messages:
        exact += step
        clock.pass_time(int(exact) - clock.now)
        if sender != 3:
            charge = Charge(f"192.0.2.{sender}", recipients if config.counters.count == "recipients" else 1)
            await store.charge([charge], [])
            if not within(limit, charge.count, charge.amount):
                deferred[charge.key] += 1
                await store.charge([], [charge])
    return deferred


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.25, 3.0, 20.0, 61.0]), st.integers(0, 3), st.integers(1, 4)), max_size=60
    ),
    st.sampled_from(["messages", "recipients"]),
    st.sampled_from(["sliding", "fixed"]),
)
def test_the_replay_counts_as_the_daemons_store_does(
    messages: list[tuple[float, int, int]], count: str, algorithm: str
) -> None:
    """Each client's deferred messages are those that the embedded counters would have put above the limit."""
    toml = f'[counters]\nwindow = 60\ncount = "{count}"\nalgorithm = "{algorithm}"\n[unscored]\nlimit = 5\n'
    config = parse(toml, "test.toml")
    forecast = Case(config, traffic_of(messages)).forecast(NOTHING_KNOWN)
    expected = asyncio.run(counted_by_the_store(config, messages, 5))
    assert {client.key: client.deferred for client in forecast.clients if client.deferred} == expected
    assert all(client.peak > 5 for client in forecast.clients if client.deferred)
    assert forecast.hourly_deferred.total() == forecast.deferred


def report_of(forecast: Forecast, other: Forecast | None = None) -> Report:
    """A report with nothing around its forecast."""
    return Report([], Traffic(), UNKNOWN, "", "before", forecast, "after" if other else "", other)


def test_a_comparison_lists_the_clients_that_fare_differently(foresee: Foresee) -> None:
    """The largest change comes first, and a client that is counted in one case only is there, too."""
    log = Log()
    for address in ("192.0.2.5", "192.0.2.45", "192.0.2.95"):
        log.messages(address, 150)
    scores = "192.0.2.5,5\n192.0.2.45,45\n192.0.2.95,95"
    before = foresee(log, scores=scores)
    tiers = '[[tier]]\nscores = "0-50"\nlimit = 120\n[[tier]]\nscores = "51-100"\nlimit = 200\n'
    after = foresee(log, f'[exempt]\nnetworks = ["192.0.2.5"]\n{tiers}', scores=scores)
    changes = [(change.client.key, change.deferred) for change in report_of(before, after).changes()]
    assert changes == [("192.0.2.5", (50, 0)), ("192.0.2.45", (0, 30))]


def test_clients_near_their_limit_are_listed_nearest_first(foresee: Foresee) -> None:
    """From 80% of its limit on a good client would be hit on a busier day."""
    log = Log()
    for address, number in (("192.0.2.5", 85), ("192.0.2.6", 95), ("192.0.2.7", 79), ("192.0.2.8", 120)):
        log.messages(address, number)
    near = report_of(foresee(log, scores="0.0.0.0/0,5")).near
    assert [(client.key, client.peak) for client in near] == [("192.0.2.6", 95), ("192.0.2.5", 85)]
