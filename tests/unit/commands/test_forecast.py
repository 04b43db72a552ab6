"""A forecast says what the daemon would have decided."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from maillog_lines import BEGIN, Log

from senderscore_policy.commands.forecast.report import Report
from senderscore_policy.commands.forecast.scores import Scores, read_scores
from senderscore_policy.commands.forecast.simulation import Case, ClientForecast, Forecast, replay
from senderscore_policy.config.load import parse
from senderscore_policy.maillog.messages import LoggedClient, Traffic, read_logs
from senderscore_policy.policy.clients import NetworkTable
from senderscore_policy.policy.reputation import UNKNOWN, Scored

HOUR = 3600

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
    assert (forecast.messages, forecast.deferred) == (151, 50)
    client, other = forecast.clients
    assert client.as_json() == {
        "client": "192.0.2.5",
        "score": 5,
        "tier": "0-10",
        "limit": 100,
        "messages": 150,
        "deferred": 50,
        "first_deferred": client.as_json()["first_deferred"],
    }
    assert client.first_deferred == BEGIN.timestamp() + 100
    assert other.as_json()["first_deferred"] is None
    assert forecast.tried == 1


def test_as_many_as_the_limit_are_let_in(foresee: Foresee) -> None:
    """A limit of N lets exactly N messages through."""
    log = Log()
    log.messages("192.0.2.5", 100)
    assert foresee(log, scores="192.0.2.5,5").deferred == 0


def test_a_client_is_let_in_again_when_its_messages_leave_the_window(foresee: Foresee) -> None:
    """Ninety-nine an hour are within a limit of 100, however many hours it goes on."""
    log = Log()
    log.messages("192.0.2.5", 500, every=HOUR / 90)
    forecast = foresee(log, scores="192.0.2.5,5")
    assert (forecast.messages, forecast.deferred) == (500, 0)


def test_clients_without_a_score(foresee: Foresee) -> None:
    """They are taken as assumed; unscored clients have no limit by default."""
    log = Log()
    log.messages("192.0.2.5", 150)
    assert foresee(log).clients[0].as_json() | {"first_deferred": 0} == {
        "client": "192.0.2.5",
        "score": None,
        "tier": "unscored",
        "limit": "unlimited",
        "messages": 150,
        "deferred": 0,
        "first_deferred": 0,
    }
    assert foresee(log, assumed=Scored(0)).deferred == 50
    assert foresee(log, "[unscored]\nlimit = 60").deferred == 90


def test_who_is_not_counted(foresee: Foresee) -> None:
    """Exempt clients and those that have logged in are left out, as the daemon leaves them out."""
    log = Log()
    for _ in range(150):
        log.message("127.0.0.1")
        log.message("198.51.100.25")
        log.message("192.0.2.5", more=", sasl_method=PLAIN, sasl_username=joe")
    toml = '[exempt]\nnetworks = ["127.0.0.0/8", "198.51.100.0/24"]\n'
    forecast = foresee(log, toml, scores="0.0.0.0/0,5")
    assert (forecast.messages, forecast.clients, forecast.uncounted) == (0, [], 450)
    assert foresee(log, toml + "authenticated = false", scores="0.0.0.0/0,5").deferred == 50


def test_ipv6_clients_are_counted_by_their_prefix(foresee: Foresee) -> None:
    """All of a /64 together, and without a score."""
    log = Log()
    for number in range(30):
        log.message(f"2001:db8::{number + 1:x}")
    forecast = foresee(log, "[unscored]\nlimit = 20", scores="::/0,5")
    assert found(forecast, "2001:db8::/64").as_json() | {"first_deferred": 0} == {
        "client": "2001:db8::/64",
        "score": None,
        "tier": "unscored",
        "limit": 20,
        "messages": 30,
        "deferred": 10,
        "first_deferred": 0,
    }


def test_recipients_count_if_the_configuration_says_so(foresee: Foresee) -> None:
    """Ten messages of 15 recipients each are six within a limit of 100 recipients."""
    log = Log()
    for _ in range(10):
        log.message("192.0.2.5", recipients=15)
    forecast = foresee(log, '[counters]\ncount = "recipients"', scores="192.0.2.5,5")
    assert (forecast.messages, forecast.deferred) == (10, 4)


def test_overrides_and_observe_mode(foresee: Foresee) -> None:
    """A limit of its own, and a mode that lets everything pass: the forecast is what "enforce" would do."""
    log = Log()
    log.messages("192.0.2.5", 60)
    toml = 'mode = "observe"\n[[override]]\nnetworks = ["192.0.2.0/24"]\nlimit = 50'
    client = found(foresee(log, toml, scores="192.0.2.5,95"), "192.0.2.5")
    assert (client.standing.limit.name, client.deferred) == ("override", 10)


def test_a_limit_of_nothing(foresee: Foresee) -> None:
    """Every message is above a limit of 0."""
    log = Log()
    log.message("192.0.2.5")
    assert foresee(log, "[unscored]\nlimit = 0").deferred == 1


def test_no_messages(foresee: Foresee) -> None:
    """An empty log makes an empty forecast."""
    assert foresee(Log()).as_json() == {"messages": 0, "deferred": 0, "clients": []}


def traffic_of(messages: list[tuple[float, int, int]]) -> Traffic:
    """Messages of four clients: time, client and recipients."""
    traffic = Traffic(who=[LoggedClient(f"192.0.2.{number}", number == 3, "") for number in range(4)])
    time = 1_700_000_000.0
    for step, sender, recipients in messages:
        time += step
        traffic.times.append(time)
        traffic.senders.append(sender)
        traffic.recipients.append(recipients)
    return traffic


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.25, 3.0, 20.0, 61.0]), st.integers(0, 3), st.integers(1, 4)), max_size=60
    ),
    st.sampled_from(["messages", "recipients"]),
    st.sampled_from(["sliding", "fixed"]),
)
def test_leaving_clients_out_changes_nothing(
    messages: list[tuple[float, int, int]], count: str, algorithm: str
) -> None:
    """Only clients that can reach their limit are run through the engine; with all of them it is the same."""
    toml = f'[counters]\nwindow = 60\ncount = "{count}"\nalgorithm = "{algorithm}"\n[unscored]\nlimit = 5\n'
    case = Case(parse(toml, "test.toml"), traffic_of(messages))
    scores = Scores(NetworkTable(()), UNKNOWN)
    everybody = {client.key for client in case._clients if client}
    ledger = replay(case._rules, case._window, scores, case._questions(everybody))
    forecast = case.forecast(scores)
    assert {client.key: client.deferred for client in forecast.clients if client.deferred} == dict(ledger.deferred)
    assert {c.key: c.first_deferred for c in forecast.clients if c.deferred} == ledger.first


def test_what_a_change_of_tiers_changes(foresee: Foresee) -> None:
    """The clients that fare differently, the largest change first, and those that are counted in one case only."""
    log = Log()
    for address in ("192.0.2.5", "192.0.2.45", "192.0.2.95"):
        log.messages(address, 150)
    scores = "192.0.2.5,5\n192.0.2.45,45\n192.0.2.95,95"
    before = foresee(log, scores=scores)
    tiers = '[[tier]]\nscores = "0-50"\nlimit = 120\n[[tier]]\nscores = "51-100"\nlimit = 200\n'
    after = foresee(log, f'[exempt]\nnetworks = ["192.0.2.5"]\n{tiers}', scores=scores)
    report = Report([], Traffic(), Scores(NetworkTable(()), UNKNOWN), 0, "", "before", before, "after", after)
    changes = [(change.client.key, change.deferred) for change in report.changes()]
    assert changes == [("192.0.2.5", (50, 0)), ("192.0.2.45", (0, 30))]
