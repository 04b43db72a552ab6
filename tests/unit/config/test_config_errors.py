"""The messages about mistakes in the configuration file."""

from dataclasses import replace
from pathlib import Path

import pytest

from senderscore_policy.config.load import load, parse, read, read_text
from senderscore_policy.config.model import Config
from senderscore_policy.errors import ConfigError

LISTEN, REPUTATION, COUNTERS, REPLY = "[listen]\n", "[reputation]\n", "[counters]\n", "[reply]\n"
OVERRIDE = "[[override]]\n"
TIERS = '[[tier]]\nscores = "0-50"\nlimit = 1\n[[tier]]\nscores = "51-100"\nlimit = 2\n'


def problems(text: str) -> list[str]:
    """What is wrong with the file; at least something."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "policy.toml")
    return caught.value.problems


# The file, the place that the message names, and words about what is wrong and what is allowed.
ONE_MISTAKE = [
    # words, booleans, texts, lists, sections
    ('mode = "on"', "1: mode", 'must be "enforce" or "observe", not \'on\''),
    ("mode = 1", "1: mode", 'must be "enforce" or "observe", not 1'),
    ("mode = true", "1: mode", "not true"),
    (LISTEN + "status_public = 1", "2: listen.status_public", "must be true or false, not 1"),
    (LISTEN + 'status_public = "true"', "2: listen.status_public", "must be true or false, not 'true'"),
    (LISTEN + "control = 5", "2: listen.control", "must be a text in quotes, not 5"),
    ('[exempt]\nnetworks = "192.0.2.0/24"', "2: exempt.networks", "must be a list of texts"),
    ("[exempt]\nnetworks = [5]", "2: exempt.networks[1]", "must be a text in quotes, not 5"),
    ("counters = 5", "1: counters", "must be a section: [counters]"),
    ("[[counters]]", "1: counters", "must be a section: [counters], one bracket on each side"),
    ("[tier]", "1: tier", "must be written [[tier]], with two brackets on each side"),
    ("override = [5]", "1: override", "must be written [[override]]"),
    ('[log]\ntarget = "file"', "2: log.target", 'must be "stderr" or "syslog", not \'file\''),
    ('[log]\nlevel = "INFO"', "2: log.level", 'must be "debug" or "info" or "warning" or "error"'),
    # numbers
    (COUNTERS + "buckets = 61", "2: counters.buckets", "must be a whole number from 2 to 60 (parts of"),
    (COUNTERS + "buckets = 1", "2: counters.buckets", "must be a whole number from 2 to 60"),
    (COUNTERS + "buckets = true", "2: counters.buckets", "must be a whole number from 2 to 60"),
    (COUNTERS + "buckets = 12.0", "2: counters.buckets", "not 12.0"),
    (COUNTERS + "window = 59", "2: counters.window", "must be a whole number from 60 to 2419200"),
    (COUNTERS + "window = 2419201", "2: counters.window", "28 days"),
    (COUNTERS + "buckets = 13\nwindow = 60", "2: counters.buckets", "are too short: at most 12, so that each has 5 s"),
    (COUNTERS + "replicas = 3", "2: counters.replicas", "must be a whole number from 1 to 2"),
    (COUNTERS + "replicas = 2", "2: counters.replicas", "2 needs at least two servers"),
    (COUNTERS + "timeout = 0", "2: counters.timeout", "must be a number from 0.01 to 10"),
    (COUNTERS + "timeout = nan", "2: counters.timeout", "not nan"),
    (COUNTERS + "ipv6_prefix = 0", "2: counters.ipv6_prefix", "must be a whole number from 1 to 128"),
    (LISTEN + "max_connections = 9", "2: listen.max_connections", "must be a whole number from 10 to 100000"),
    (LISTEN + "idle_timeout = 59", "2: listen.idle_timeout", "must be a number from 60 to 604800"),
    (REPUTATION + "lazy_share = 0", "2: reputation.lazy_share", "must be above 0"),
    (REPUTATION + "lazy_share = 1.01", "2: reputation.lazy_share", "must be a number from 0 to 1"),
    (REPUTATION + "deadline = 0.04", "2: reputation.deadline", "must be a number from 0.05 to 30"),
    (REPUTATION + "deadline = inf", "2: reputation.deadline", "not inf"),
    (REPUTATION + "query_budget = -1", "2: reputation.query_budget", "must be a whole number from 0 to 1000000000"),
    (REPUTATION + "scored_ttl = 604801", "2: reputation.scored_ttl", "scores over 7 days are dropped"),
    (REPUTATION + "unknown_ttl = 9", "2: reputation.unknown_ttl", "must be a number from 10 to 604800"),
    (REPUTATION + "failure_ttl = 0", "2: reputation.failure_ttl", "must be a number from 1 to 3600"),
    # endpoints
    (LISTEN + "policy = []", "2: listen.policy", "must name at least one"),
    (LISTEN + 'policy = ["127.0.0.1:10045"]', "2: listen.policy[1]", 'must be such as "inet:127.0.0.1:10045"'),
    (LISTEN + 'policy = ["inet:::1:10045"]', "2: listen.policy[1]", '"inet:[::1]:10045"'),
    (LISTEN + 'policy = ["inet:127.0.0.256:10045"]', "2: listen.policy[1]", "not '127.0.0.256'"),
    (LISTEN + 'policy = ["inet:127.0.0.1:0"]', "2: listen.policy[1]", "must have a port from 1 to 65535"),
    (LISTEN + 'policy = ["inet:127.0.0.1:70000"]', "2: listen.policy[1]", "must have a port from 1 to 65535"),
    (LISTEN + 'policy = ["inet:[127.0.0.1]:1"]', "2: listen.policy[1]", "must have an IPv6 address in its brackets"),
    (LISTEN + 'policy = ["unix:policy.sock"]', "2: listen.policy[1]", "must be such as"),
    (LISTEN + f'policy = ["unix:/{"x" * 107}"]', "2: listen.policy[1]", "must have at most 107 bytes"),
    (
        LISTEN + 'policy = [\n"inet:127.0.0.1:1",\n"inet:127.0.0.1:1"]',
        "3: listen.policy",
        'names "127.0.0.1:1" more than once',
    ),
    (LISTEN + 'status = "localhost:10046"', "2: listen.status", "must be an IP address and a port"),
    (LISTEN + 'status = "inet:127.0.0.1:1"', "2: listen.status", "must be an IP address and a port"),
    (LISTEN + 'status = "0.0.0.0:10046"', "2: listen.status", "set status_public = true to allow this"),
    (LISTEN + 'status = "[2001:db8::1]:10046"', "2: listen.status", "is not a loopback address"),
    (LISTEN + 'status = "[::]:10046"', "2: listen.status", "is not a loopback address"),
    (LISTEN + 'status = "[::ffff:192.0.2.1]:10046"', "2: listen.status", "is not a loopback address"),
    (LISTEN + 'status = "127.0.0.1:10045"', "2: listen.status", "is also a policy address"),
    (LISTEN + 'policy = ["unix:/run/x"]\ncontrol = "/run/x"', "3: listen.control", "is also a policy socket"),
    (LISTEN + 'control = "control.sock"', "2: listen.control", "must be an absolute path"),
    (LISTEN + f'control = "/{"x" * 107}"', "2: listen.control", "must have at most 107 bytes"),
    (COUNTERS + 'servers = ["127.0.0.1"]', "2: counters.servers[1]", 'must be such as "127.0.0.1:11211"'),
    (COUNTERS + 'servers = ["mx 2:11211"]', "2: counters.servers[1]", "must be such as"),
    (COUNTERS + "servers = []", "2: counters.servers", "must name at least one"),
    (COUNTERS + 'servers = ["a:1", "a:1"]', "2: counters.servers", 'names "a:1" more than once'),
    (REPUTATION + 'nameservers = ["ns.example.org"]', "2: reputation.nameservers[1]", "must be an IP address"),
    (REPUTATION + 'nameservers = ["192.0.2.53:0"]', "2: reputation.nameservers[1]", "port from 1 to 65535"),
    (REPUTATION + 'nameservers = ["mx:53"]', "2: reputation.nameservers[1]", "must be an IP address"),
    # names and paths
    (REPUTATION + 'zone = "score senderscore"', "2: reputation.zone", "must be a DNS name"),
    (REPUTATION + 'zone = ""', "2: reputation.zone", "must be a DNS name"),
    (REPUTATION + f'zone = "{"a" * 64}.test"', "2: reputation.zone", "must be a DNS name"),
    (REPUTATION + f'zone = "{"a.b." * 59}test"', "2: reputation.zone", "at most 237 characters"),
    (COUNTERS + 'key_prefix = "s s"', "2: counters.key_prefix", "printable ASCII characters without spaces"),
    (COUNTERS + 'key_prefix = "é"', "2: counters.key_prefix", "printable ASCII characters without spaces"),
    (COUNTERS + f'key_prefix = "{"x" * 101}"', "2: counters.key_prefix", "at most 100"),
    ('[state]\ndirectory = "state"', "2: state.directory", "must be an absolute path"),
    # networks
    ('[exempt]\nnetworks = ["192.0.2.300"]', "2: exempt.networks[1]", "must be a network such as"),
    ('[exempt]\nnetworks = ["192.0.2.7/24"]', "2: exempt.networks[1]", 'write "192.0.2.0/24", or "192.0.2.7"'),
    ('[exempt]\nnetworks = ["2001:db8::1/32"]', "2: exempt.networks[1]", 'write "2001:db8::/32", or "2001:db8::1"'),
    ('[exempt]\nnetworks = ["::ffff:192.0.2.0/120"]', "2: exempt.networks[1]", 'write "192.0.2.0/24"'),
    ('[exempt]\nnetworks = ["fe80::%eth0/64"]', "2: exempt.networks[1]", "must be without a zone index"),
    ('[exempt]\nnetworks = ["fe80::1%eth0/64"]', "2: exempt.networks[1]", "must be without a zone index"),
    ('[exempt]\nnetworks = [\n"::1",\n"::2/64"]', "4: exempt.networks[2]", "has bits set behind its prefix"),
    # overrides
    (OVERRIDE + 'networks = ["192.0.2.1"]', "1: override[1].score", "give a score or a limit, for example"),
    (
        OVERRIDE + 'networks = ["192.0.2.1"]\nscore = 1\nlimit = 1',
        "3: override[1].score",
        "give a score or a limit, not both",
    ),
    (OVERRIDE + 'networks = ["192.0.2.1"]\nscore = 101', "3: override[1].score", "a whole number from 0 to 100"),
    (OVERRIDE + 'networks = ["192.0.2.1"]\nlimit = "all"', "3: override[1].limit", "or \"unlimited\", not 'all'"),
    (OVERRIDE + "score = 1", "1: override[1].networks", "must name at least one network"),
    (OVERRIDE + "networks = []\nscore = 1", "2: override[1].networks", "must name at least one network"),
    (
        OVERRIDE + 'networks = ["192.0.2.1"]\nscore = 1\n' + OVERRIDE + 'networks = ["192.0.2.1/32"]\nscore = 2',
        "5: override[2].networks",
        "192.0.2.1/32 is already in override[1]",
    ),
    # limits and tiers
    ("[unscored]\nlimit = -1", "2: unscored.limit", 'must be a whole number from 0 to 1000000000, or "unlimited"'),
    ("[unscored]\nlimit = 1.5", "2: unscored.limit", "not 1.5"),
    ("[unscored]\nlimit = true", "2: unscored.limit", "not true"),
    ('[unavailable]\nlimit = "100"', "2: unavailable.limit", "not '100'"),
    ("tier = []", "1: tier", "no tier has the scores 0-100"),
    ('[[tier]]\nscores = "0-99"\nlimit = 1', "1: tier", "no tier has the scores 100-100"),
    ('[[tier]]\nscores = "1-100"\nlimit = 1', "1: tier", "no tier has the scores 0-0"),
    (TIERS.replace("51", "61"), "1: tier", "no tier has the scores 51-60"),
    (TIERS.replace("51", "41"), "5: tier[2].scores", "tier[1] has the scores 41-50, too"),
    (
        TIERS.replace('"0-50"', '"0-100"'),
        "5: tier[2].scores",
        "tier[1] has the scores 51-100, too",
    ),
    (TIERS.replace('"0-50"', '"50-0"'), "2: tier[1].scores", "must be the lowest and the highest score"),
    (TIERS.replace("100", "101"), "5: tier[2].scores", "from 0 to 100"),
    (TIERS.replace('"0-50"', "50"), "2: tier[1].scores", "must be a text in quotes"),
    (TIERS.replace("limit = 2", ""), "4: tier[2].limit", "must be given, for example limit = 100"),
    (TIERS.replace('scores = "0-50"', ""), "1: tier[1].scores", 'must be given, for example scores = "0-10"'),
    (TIERS + 'reply = "HELLO"', "7: tier[2].reply", "'HELLO' is not an action of access(5)"),
    # replies
    (REPLY + 'over_limit = "421 {{ scores }}"', "2: reply.over_limit", "unknown variable scores; there are"),
    (REPLY + 'over_limit = "421 {{ score"', "2: reply.over_limit", "not a valid jinja2 template"),
    (REPLY + "over_limit = '421 {{ \"%(a)s\"|format(b=1) }}'", "2: reply.over_limit", "fails when it is rendered"),
    (
        REPLY + 'over_limit = "421 later {{ 100 // score if score is number }}"',
        "2: reply.over_limit",
        "score 0, tier 0-10: the template fails when it is rendered",
    ),
    (
        TIERS + "reply = \"{{ 'wait' if score == 51 else '421 later' }}\"",
        "7: tier[2].reply",
        "score 51, tier 51-100: 'wait' is not an action of access(5)",
    ),
    (
        REPLY + "over_limit = \"{{ 'wait' if limit == 5 else '421 later' }}\"\n[unscored]\nlimit = 5",
        "2: reply.over_limit",
        "score unknown, tier unscored: 'wait' is not an action of access(5)",
    ),
    (
        REPLY + "over_limit = \"{{ 'wait' if tier == 'override' else '421 later' }}\"\n"
        '[[override]]\nnetworks = ["192.0.2.1"]\nlimit = 5',
        "2: reply.over_limit",
        "score unknown, tier override: 'wait' is not an action of access(5)",
    ),
    (REPLY + 'over_limit = "Try later"', "2: reply.over_limit", "'Try' is not an action of access(5)"),
    # unknown keys
    ('moed = "observe"', "1: moed", "unknown key; did you mean mode?"),
    ('[log]\nmode = "observe"', "2: log.mode", "mode belongs at the top of the file, before the first [section]"),
    (COUNTERS + "bucket = 6", "2: counters.bucket", "unknown key; did you mean buckets?"),
    ("[counter]\nbuckets = 6", "1: counter", "did you mean counters?"),
    ("[log]\nwindow = 600", "2: log.window", "did you mean counters.window?"),
    (TIERS + "score = 5", "7: tier[2].score", "did you mean scores?"),
    (TIERS + 'tag = "x"', "7: tier[2].tag", "unknown key"),
    ("[listen.policy]\na = 1", "1: listen.policy", "must be a list of texts"),
    # other ways to write the same
    ("counters.buckets = 61", "1: counters.buckets", "must be a whole number"),
    ("[ counters ] # comment\n'buckets' = 61", "2: counters.buckets", "must be a whole number"),
    ("counters = { window = 600, buckets = 61 }", "1: counters.buckets", "must be a whole number"),
    ('tier = [{ scores = "0-100" }]', "1: tier[1].limit", "must be given"),
]


@pytest.mark.parametrize(("text", "place", "words"), ONE_MISTAKE)
def test_a_mistake_is_shown_with_its_place_and_what_is_allowed(text: str, place: str, words: str) -> None:
    """One mistake makes one message of one line: the file, the line, the key, what is wrong."""
    [problem] = problems(text)
    assert problem.startswith(f"policy.toml:{place}: ")
    assert words in problem
    assert len(problem.splitlines()) == 1


def test_every_mistake_is_shown_at_once() -> None:
    """All mistakes are shown in one run, in the order of the file."""
    text = """
mode = "off"
[counters]
window = 3600
buckets = 0
colour = "red"
[exempt]
networks = ["192.0.2.0/33", "10.0.0.0/8", "x"]
[[tier]]
scores = "0-10"
limit = "none"
[log]
level = "loud"
"""
    places = [problem.split(": ")[0:2] for problem in problems(text)]
    assert places == [
        ["policy.toml:2", "mode"],
        ["policy.toml:5", "counters.buckets"],
        ["policy.toml:6", "counters.colour"],
        ["policy.toml:8", "exempt.networks[1]"],
        ["policy.toml:8", "exempt.networks[3]"],
        ["policy.toml:9", "tier"],
        ["policy.toml:11", "tier[1].limit"],
        ["policy.toml:13", "log.level"],
    ]


def test_each_gap_and_overlap_of_the_tiers_is_named() -> None:
    """Scores that no tier has, and scores that two have, each with the tiers in question."""
    text = "".join(f'[[tier]]\nscores = "{scores}"\nlimit = 1\n' for scores in ("5-20", "41-60", "15-30", "55-90"))
    assert [problem.split(": ", 1)[1] for problem in problems(text)] == [
        "tier: no tier has the scores 0-4",
        "tier: no tier has the scores 31-40",
        "tier: no tier has the scores 91-100",
        "tier[3].scores: tier[1] has the scores 15-20, too",
        "tier[4].scores: tier[2] has the scores 55-60, too",
    ]


def test_a_mistake_does_not_make_others_up() -> None:
    """A tier with an invalid range does not cause a gap, and an invalid server still counts as one of two."""
    text = '[counters]\nreplicas = 2\nservers = ["a:1", "b"]\n[[tier]]\nscores = "0 to 100"\nlimit = 1'
    assert [problem.split(": ")[1] for problem in problems(text)] == ["counters.servers[2]", "tier[1].scores"]


def test_a_key_cannot_add_lines_to_a_message() -> None:
    """Keys and values are shown escaped and cut."""
    assert problems('"a\\nb" = 1') == ["policy.toml: 'a\\nb': unknown key"]
    [problem] = problems(f'mode = "a\\nb{"c" * 1000}"')
    assert len(problem.splitlines()) == 1
    assert len(problem) < 200


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("[listen\nbuckets = 0", "policy.toml:1: not valid TOML: "),
        ("mode = 1\nmode = 2\n", "policy.toml:2: not valid TOML: "),
        (f"a = {'[' * 100_000}", "policy.toml: not valid TOML: "),
        (f"a = {'1' * 10_000}", "policy.toml: not valid TOML: "),
    ],
)
def test_a_syntax_error_comes_alone(text: str, start: str) -> None:
    """A file that is not TOML cannot be checked further; the line is named if the parser knows it."""
    [problem] = problems(text)
    assert problem.startswith(start)
    assert len(problem.splitlines()) == 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A wrong -c says which file it is about."""
    with pytest.raises(ConfigError, match=r"nowhere\.toml: No such file or directory$"):
        load(tmp_path / "nowhere.toml")


def test_a_file_of_another_encoding_is_refused(tmp_path: Path) -> None:
    """TOML is UTF-8."""
    file = tmp_path / "policy.toml"
    file.write_bytes(b'# caf\xe9\nmode = "observe"\n')
    with pytest.raises(ConfigError, match=r"policy\.toml:1: not UTF-8 text \(.*\): save the file as UTF-8$"):
        load(file)


# The file, the line, the words of the remedy, and the text above the caret.
SYNTAX = [
    ("mode = observe", 1, 'text must be in quotes: "observe"', "observe"),
    ("[listen]\nstatus = 127.0.0.1:10046", 2, 'text must be in quotes: "127.0.0.1:10046"', "127.0.0.1:10046"),
    ('[exempt]\nnetworks = ["::1", 192.0.2.0/24]', 2, 'text must be in quotes: "192.0.2.0/24"', "192.0.2.0/24]"),
    ("[exempt]\nauthenticated = True", 2, "write true in small letters", "True"),
    ("[exempt]\nauthenticated = yes", 2, "write true or false", "yes"),
    ("mode = “observe”", 1, 'use straight quotes: "observe"', "“observe”"),
    ('mode = "observe\n[listen]\nstatus = ""', 1, "a quote is not closed", '"observe'),
    ("mode = 'observe", 1, "a quote is not closed", "'observe"),
    ('mode = """observe', 1, "a quote is not closed", '"""observe'),
    ('[exempt]\nnetworks = [\n"::1",\n"::2"\nauthenticated = true', 2, 'has no closing "]"', "["),
    ('[exempt]\nnetworks = ["::1",\n"::2",\n[log]\n', 2, 'has no closing "]"', '["::1",'),
    ('[exempt]\nnetworks = [ # own\n"::1"\n', 2, 'has no closing "]"', "[ # own"),
    ('[exempt]\nnetworks = [\n"::1"\n"::2"]', 4, "a comma is missing before this value", '"::2"]'),
    ('[exempt]\nnetworks = "::1", "::2"', 2, 'write several values as a list: ["…", "…"]', ', "::2"'),
    ("[[override]]\nscore = 1\n[override]", 3, "must be written [[override]], with two brackets", "[override]"),
    ("[log]\n[log]", 2, "log is already in the file", "[log]"),
    ("mode = 1\nmode = 2\n", 2, "mode is already in the file", "mode = 2"),
    ("mode: observe", 1, 'write "=" after the key, not ":"', ": observe"),
    ("mode =", 1, "the value is missing", "="),
    ('[state]\ndirectory = "C:\\srv"', 2, 'write a backslash in "…" twice', '\\srv"'),
    ('mode = "observe";', 1, 'remove the ";"', ";"),
    ("[exempt]\nauthenticated = true;", 2, 'remove the ";"', ";"),
    ('mode = "observe",', 1, 'remove the ","', ","),
    ("[log]:", 1, 'remove the ":"', ":"),
    ('mode = "observe" // try', 1, 'a comment begins with "#"', "// try"),
    ("// mine", 1, 'a comment, which begins with "#"', "// mine"),
    ("[reputation]\ndeadline = 0,5", 2, "write a plain number such as 100 or 0.5", "0,5"),
    ("[counters]\nwindow = 1h # hour", 2, "write a plain number", "1h # hour"),
    ("[unscored]\nlimit = 0100", 2, "write a plain number", "0100"),
    ("[reply]\nover_limit = 421 too much mail", 2, 'in quotes: "421 too much mail"', "421 too much mail"),
    ("[reputation]\nnameservers = 192.0.2.1, 192.0.2.2", 2, 'in quotes: "192.0.2.1"', "192.0.2.1, 192.0.2.2"),
    ("[reply]\nover_limit = '421 you're limited'", 2, 'within "…"', "re limited'"),
    ("[reply]\nover_limit = “421 too much”", 2, 'use straight quotes: "421 too much"', "“421 too much”"),
    ('mode = "observe”', 1, "a quote is not closed: use straight quotes", '"observe”'),
    ('[exempt]\nnetworks = ["127.0.0.0/8, "::1"]', 2, "a quote is not closed", '"127.0.0.0/8, "::1"]'),
    ('[exempt]\nnetworks = ("::1")', 2, "a list in square brackets", '("::1")'),
    ('mode == "observe"', 1, 'write "=" once', '= "observe"'),
    ("[override]\nscore = 1\n[[override]]", 1, "must be written [[override]]", "[override]"),
    ("[log]\nlevel = 'info'\n  level = 'info'", 3, "level is already in the file", "level = 'info'"),
]


@pytest.mark.parametrize(("text", "line", "words", "marked"), SYNTAX)
def test_a_syntax_error_is_explained_and_marked(text: str, line: int, words: str, marked: str) -> None:
    """The message names the remedy and the line once; the excerpt shows the line with a caret under the place."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "policy.toml")
    [problem] = caught.value.problems
    assert problem.startswith(f"policy.toml:{line}: not valid TOML: ")
    assert words in problem
    assert "line" not in problem.partition("TOML")[2] or "the line goes on" in problem
    shown, caret = caught.value.excerpt.splitlines()
    assert shown.strip() == text.splitlines()[line - 1].strip()
    assert shown[caret.index("^") :] == marked


def test_the_caret_counts_wide_characters_twice() -> None:
    """A terminal shows them over two columns."""
    reading = read_text('[reply]\nover_limit = "421 日本" x', "policy.toml")
    assert reading.error
    shown, caret = reading.error.excerpt.splitlines()
    assert len(caret) == len(shown) + 2


@pytest.mark.parametrize(
    "wrong",
    [
        "mode = observe",
        '[exempt]\nnetworks = ["::1",\n"::2"\n',
        '[exempt]\nnetworks = [\n"::1"\n"::2"\n]',
        '[exempt\ncontrol = "/elsewhere"',
        "a: 1\nb: 2\n- c\n",
        '[exempt]\nnetworks = ["::1]\n[log]\nlevel: "info"',
    ],
)
def test_all_else_of_a_file_with_syntax_errors_is_read(wrong: str) -> None:
    """A statement that is not TOML goes with its list, a section with its keys; what stands around them is valid."""
    reading = read_text(f'{wrong}\n[listen]\ncontrol = "/run/x"\n', "policy.toml")
    assert reading.error is not None
    assert reading.config == Config(listen=replace(Config().listen, control="/run/x"))


def test_a_file_of_another_encoding_is_read_as_far_as_possible(tmp_path: Path) -> None:
    """A comment in Latin-1 does not hide the socket of the daemon."""
    file = tmp_path / "policy.toml"
    file.write_bytes(b'# caf\xe9\n[listen]\ncontrol = "/run/x"\n')
    assert read(file).config.listen.control == "/run/x"


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    """Editors of Windows write one before the first key."""
    file = tmp_path / "policy.toml"
    file.write_bytes('\ufeffmode = "observe"\r\n'.encode())
    assert load(file).mode == "observe"


def test_what_is_valid_is_used_although_the_rest_is_not(tmp_path: Path) -> None:
    """Tools go on with the valid part of a file: a wrong option or list item, tier or override alone is left out."""
    text = f"""
mode = "off"
[listen]
control = "/run/x.sock"
status = "0.0.0.0:1"
[exempt]
networks = ["192.0.2.0/24", "192.0.2.300"]
[reputation]
nameservers = ["x"]
[[tier]]
scores = "0-50"
limit = 5
[[override]]
networks = ["198.51.100.1"]
[[override]]
networks = ["198.51.100.2"]
score = 7
networks_file = "{tmp_path}/list"
"""
    (tmp_path / "list").write_text("198.51.100.3\n")
    config = read_text(text, "policy.toml").config
    assert (config.mode, config.listen.control) == ("enforce", "/run/x.sock")
    assert config.listen.status == Config().listen.status
    assert [str(network) for network in config.exempt.networks] == ["192.0.2.0/24"]
    assert config.reputation == Config().reputation
    assert config.tiers == Config().tiers
    [override] = config.overrides
    assert [str(network) for network in override.networks] == ["198.51.100.2/32", "198.51.100.3/32"]


def test_a_list_with_a_mistake_in_every_line_is_not_shown_whole() -> None:
    """A hundred problems are shown, and how many there are besides."""
    text = "[exempt]\nnetworks = [" + "\n".join(f'"{number}.300.0.0/8",' for number in range(250)) + "]"
    found = problems(text)
    assert len(found) == 101
    assert found[-1] == "policy.toml: 150 more problems like these"


def test_tls_options_are_checked_with_their_files(tmp_path: Path) -> None:
    """A certificate needs its key and the CA, and each file has to be there."""
    pem = tmp_path / "x.pem"
    pem.touch()
    assert "tls_key: needs tls_certificate" in problems(f'counters.tls_key = "{pem}"')[0]
    assert "tls_certificate: needs tls_key" in problems(f'counters.tls_certificate = "{pem}"')[0]
    both = f'[counters]\ntls_key = "{pem}"\ntls_certificate = "{pem}"'
    assert "tls_certificate: needs tls_ca" in problems(both)[0]
    assert parse(f'{both}\ntls_ca = "{pem}"', "policy.toml").counters.tls_ca == str(pem)
    assert "no.pem: No such file or directory" in problems(f'{both}\ntls_ca = "{tmp_path}/no.pem"')[0]
    assert "not a regular file" in problems(f'{both}\ntls_ca = "{tmp_path}"')[0]
    assert "must be an absolute path" in problems(f'{both}\ntls_ca = "ca.pem"')[0]
