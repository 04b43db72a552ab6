"""Reading configuration files that are right, and whatever else a file may hold."""

import dataclasses
import json
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from senderscore_policy.config.endpoints import Endpoint, Inet, Unix
from senderscore_policy.config.load import parse
from senderscore_policy.config.model import Config
from senderscore_policy.errors import ConfigError
from senderscore_policy.policy.clients import Override
from senderscore_policy.policy.status import limit_as_json
from senderscore_policy.policy.tiers import UNLIMITED, Limit, Tier, TierTable


def toml(value: object) -> str:
    """A value as TOML; the test data has no characters that JSON writes in another way."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)


def written(config: Config) -> str:
    """A configuration as a file that says everything."""
    listen = dataclasses.asdict(config.listen) | {
        "policy": [f"inet:{each}" if isinstance(each, Inet) else str(each) for each in config.listen.policy],
        "status": str(config.listen.status or ""),
        "metrics": str(config.listen.metrics or ""),
    }
    reputation = dataclasses.asdict(config.reputation)
    reputation["nameservers"] = [str(server) for server in config.reputation.nameservers]
    counters = dataclasses.asdict(config.counters)
    counters["servers"] = [str(server) for server in config.counters.servers]
    document: dict[str, Any] = {
        "mode": config.mode,
        "listen": listen,
        "reputation": reputation,
        "override": [
            {"networks": [str(network) for network in each.networks]}
            | ({"limit": limit_as_json(each.limit)} if each.limit is not None else {"score": each.score})
            for each in config.overrides
        ],
        "counters": counters,
        "tier": [
            {"scores": f"{tier.low}-{tier.high}", "limit": limit_as_json(tier.limit.messages)}
            | ({} if tier.limit.reply is None else {"reply": tier.limit.reply})
            for tier in config.tiers.tiers
        ],
        "unscored": {"limit": limit_as_json(config.tiers.unscored.messages)},
        "unavailable": {"limit": limit_as_json(config.tiers.unavailable.messages)},
        "exempt": {
            "networks": [str(network) for network in config.exempt.networks],
            "authenticated": config.exempt.authenticated,
        },
        "reply": {"over_limit": config.over_limit},
        "state": {"directory": config.state_directory},
        "log": dataclasses.asdict(config.log),
    }
    return "".join(f"{key} = {toml(value)}\n" for key, value in document.items())


ports = st.integers(1, 65535)
hosts = st.sampled_from(["127.0.0.1", "192.0.2.1", "2001:db8::1", "mx1.example.org", "localhost"])
inets = st.builds(Inet, hosts, ports)
endpoints: st.SearchStrategy[Endpoint] = st.one_of(
    inets, st.builds(Unix, st.from_regex(r"/[a-z]{1,20}", fullmatch=True))
)
limits = st.one_of(st.integers(0, 10**9).map(float), st.just(UNLIMITED))
networks = st.one_of(
    # IPv4 in IPv6 is refused.
    st.ip_addresses()
    .filter(lambda each: not getattr(each, "ipv4_mapped", None))
    .map(lambda each: ip_network(str(each))),
    st.sampled_from([ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"), ip_network("0.0.0.0/0")]),
)
replies = st.sampled_from(["450 4.7.1 {{ limit }} of {{ tier }}", "DEFER", "550 {{ score }}"])


@st.composite
def tier_tables(draw: st.DrawFn) -> TierTable:
    """Any way to cut 0-100 into tiers."""
    starts = sorted(draw(st.sets(st.integers(1, 100), max_size=12)) | {0})
    bands = list(zip(starts, [*(start - 1 for start in starts[1:]), 100], strict=True))
    reply = st.none() | replies
    tiers = [Tier(low, high, Limit(f"{low}-{high}", draw(limits), draw(reply))) for low, high in bands]
    return TierTable(tiers, Limit("unscored", draw(limits)), Limit("unavailable", draw(limits)))


@st.composite
def overrides(draw: st.DrawFn) -> tuple[Override, ...]:
    """Scores and limits for networks of their own."""
    result = []
    for network in draw(st.lists(networks, max_size=4, unique=True)):
        score = draw(st.none() | st.integers(0, 100))
        limit = draw(limits) if score is None else None
        result.append(Override((network,), score, limit))
    return tuple(result)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Valid configurations."""
    default = Config()
    replicas = draw(st.sampled_from([1, 2]))
    return Config(
        mode=draw(st.sampled_from(["enforce", "observe"])),
        listen=dataclasses.replace(
            default.listen,
            policy=tuple(draw(st.lists(endpoints, min_size=1, max_size=3, unique=True))),
            status=draw(st.none() | st.just(Inet("::1", 65000))),
            metrics=draw(st.none() | st.just(Inet("192.0.2.25", 65000))),
            max_connections=draw(st.integers(10, 100_000)),
            idle_timeout=draw(st.floats(60, 604_800)),
        ),
        reputation=dataclasses.replace(
            default.reputation,
            nameservers=tuple(
                draw(st.lists(st.builds(Inet, st.sampled_from(["192.0.2.53", "::1"]), ports), max_size=3))
            ),
            lookup=draw(st.sampled_from(["lazy", "eager"])),
            lazy_share=draw(st.floats(0, 1, exclude_min=True)),
            query_budget=draw(st.integers(0, 10**9)),
        ),
        overrides=draw(overrides()),
        counters=dataclasses.replace(
            default.counters,
            store=draw(st.sampled_from(["memory", "memcached"])),
            servers=tuple(draw(st.lists(endpoints, min_size=replicas, max_size=4, unique=True))),
            replicas=replicas,
            key_prefix=draw(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=100)),
            window=draw(st.integers(300, 2_419_200)),
            buckets=draw(st.integers(2, 60)),
            algorithm=draw(st.sampled_from(["sliding", "fixed"])),
        ),
        tiers=draw(tier_tables()),
        exempt=dataclasses.replace(default.exempt, networks=tuple(draw(st.lists(networks, max_size=3)))),
        over_limit=draw(replies),
        state_directory=draw(st.sampled_from(["", "/var/lib/x"])),
    )


@given(configs())
def test_a_valid_configuration_means_what_it_says(config: Config) -> None:
    """Written to a file and read again, every value is the same."""
    assert parse(written(config), "policy.toml") == config


KEYS = """
    mode listen policy status control counters servers replicas buckets window tier scores limit reply override networks
    score exempt reputation zone nameservers lazy_share over_limit log state unscored unavailable
"""
keys = st.sampled_from(KEYS.split()) | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=5)
scalars = (
    st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        ["unlimited", "0-100", "192.0.2.0/24", "inet:127.0.0.1:1", "[::1]:1", "unix:/x", "421 {{ score }}"]
    )
    | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4))
documents = st.dictionaries(keys, values, max_size=6)


def problems(text: str) -> list[str]:
    """What is wrong with a file; nothing if it is a configuration."""
    try:
        parse(text, "policy.toml")
    except ConfigError as error:
        return error.problems
    return []


@given(documents)
def test_no_file_makes_the_program_fail(document: dict[str, object]) -> None:
    """Any file is a configuration or is refused with reasons of one line each."""
    text = "".join(f"{json.dumps(key)} = {toml(value)}\n" for key, value in document.items())
    for problem in problems(text):
        assert problem.startswith("policy.toml")
        assert len(problem.splitlines()) == 1


@given(st.text(max_size=60))
def test_no_text_makes_the_program_fail(text: str) -> None:
    """The same is true for a text that is not TOML."""
    for problem in problems(text):
        assert len(problem.splitlines()) == 1
