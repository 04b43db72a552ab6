"""The warnings of `check-config`."""

import pytest

from senderscore_policy.config.load import read_text
from senderscore_policy.config.warnings import warnings_of

TWO_TIERS = '[[tier]]\nscores = "0-50"\nlimit = {}\n[[tier]]\nscores = "51-100"\nlimit = {}\n'


def warnings(text: str) -> list[str]:
    """The warnings about a file."""
    reading = read_text(text, "policy.toml")
    assert reading.error is None
    return [f"{reading.place(path)}: {warning}" for path, warning in warnings_of(reading.config)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        TWO_TIERS.format(5, 5),
        TWO_TIERS.format(5, '"unlimited"'),
        '[reputation]\nzone = "score.example.org"\nlookup = "eager"\nquery_budget = 0\nnameservers = ["8.8.8.8"]',
        '[reputation]\nnameservers = ["192.0.2.53"]',
        '[counters]\nstore = "memcached"\nservers = ["localhost:1", "[::1]:1", "unix:/run/memcached.sock"]',
        '[counters]\nservers = ["192.0.2.1:11211"]',
        "[unscored]\nlimit = 500",
        '[reply]\nover_limit = "421 {{ score }} {% if limit %}{{limit}}{% endif %}"',
        '[exempt]\nnetworks = ["127.0.0.0/8", "::1", "192.0.2.0/24"]',
    ],
)
def test_sound_choices_are_not_warned_about(text: str) -> None:
    """Only unusual choices are warned about, so that people read the warnings."""
    assert warnings(text) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('mode = "observe"', "policy.toml:1: mode: "),
        ('mode = "observe"', "every message passes"),
        (
            TWO_TIERS.format(0, 5),
            "policy.toml:3: tier[1].limit: the limit of 0-50 is 0: the first message of every client waits",
        ),
        (TWO_TIERS.format(0, 5), "a query_budget of 10000 covers 333 new clients a day"),
        ("[unscored]\nlimit = 0\n[reputation]\nquery_budget = 300", "covers 10 new clients a day"),
        ("[unscored]\nlimit = 0", "policy.toml:2: unscored.limit: the limit of unscored is 0"),
        ("[unavailable]\nlimit = 100", "policy.toml:2: unavailable.limit: [unavailable] does not fail open"),
        (TWO_TIERS.format(6, 5), "do not rise with the score: 6 for 0-50, 5 for 51-100"),
        (TWO_TIERS.format('"unlimited"', 5), "do not rise with the score: unlimited for 0-50, 5 for 51-100"),
        (
            '[reputation]\nlookup = "eager"',
            'policy.toml:2: reputation.lookup: "eager" with the public zone: one DNS query for each client',
        ),
        ('[reputation]\nzone = "Score.SenderScore.com."\nlookup = "eager"', "with the public zone"),
        ("[reputation]\nquery_budget = 0", "will refuse a resolver that is not registered"),
        ('[reputation]\nnameservers = ["192.0.2.53", "1.1.1.1:53"]', "1.1.1.1:53 answers for the whole Internet"),
        ("[reputation]\ndeadline = 5", "after 5 s Postfix has given up"),
        (
            '[listen]\npolicy = ["inet:0.0.0.0:10045"]',
            "policy.toml:2: listen.policy: inet:0.0.0.0:10045 is not a loopback address",
        ),
        (
            '[listen]\npolicy = ["inet:mx1.example.org:1"]',
            "listen.policy: inet:mx1.example.org:1 is not a loopback address",
        ),
        ('[listen]\nstatus = "[::]:80"\nstatus_public = true', "listen.status: [::]:80 is not a loopback address"),
        ("[listen]\nidle_timeout = 300", "keeps a connection for 300 s"),
        (
            '[counters]\nstore = "memcached"\nservers = ["192.0.2.1:1", "[::1]:1"]',
            "192.0.2.1:1: memcached has no password",
        ),
        (
            '[reply]\nover_limit = "421 {score} is too low"',
            "policy.toml:2: reply.over_limit: {score} is sent unchanged",
        ),
        (
            TWO_TIERS.format(5, '5\nreply = "450 { limit } of {{ limit }}"'),
            "policy.toml:7: tier[2].reply: { limit } is sent unchanged: a variable needs two braces on each side, {{",
        ),
        (
            '[exempt]\nnetworks = ["192.0.2.0/24"]',
            "policy.toml:2: exempt.networks: without 127.0.0.1 and ::1 mail that",
        ),
        ('[exempt]\nnetworks = ["127.0.0.0/8"]', "without ::1 mail that a content filter sends back"),
        ('[exempt]\nnetworks = ["0.0.0.0/0", "::1"]', "with 0.0.0.0/0 none of these clients is counted"),
    ],
)
def test_a_choice_with_a_price_is_warned_about(text: str, words: str) -> None:
    """The warning names the place and the consequence of the choice."""
    found = [warning for warning in warnings(text) if words in warning]
    assert len(found) == 1
