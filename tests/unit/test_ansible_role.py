"""The Ansible role's variables: specified, defaulted, documented, and the program's own."""

import json
import re
import tomllib
import typing
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from jinja2 import Environment, StrictUndefined

from senderscore_policy.commands.doctor.daemon import Running, _in_force
from senderscore_policy.config.load import DEFAULT_FILE, parse
from senderscore_policy.config.model import Config, CounterSettings, Listen, Log, ReputationSettings
from senderscore_policy.policy.reply import VARIABLES

ANSIBLE = Path(__file__).parents[2] / "ansible"
ROLE = ANSIBLE / "roles" / "senderscore_policy"
PREFIX = "senderscore_policy_"
LISTS = {"tier": f"{PREFIX}tiers", "override": f"{PREFIX}overrides"}
# What the role does otherwise than the program: it brings a memcached, and shares what several MX hosts have to share.
ON_PURPOSE = {f"{PREFIX}counters_store"}
COMPUTED = {
    f"{PREFIX}counters_servers": ["127.0.0.1:11211"],
    f"{PREFIX}counters_replicas": 1,
    f"{PREFIX}reputation_query_budget": 10000,
}
"""Defaults that depend on the inventory, as they are for a single host."""


class Loader(yaml.SafeLoader):
    """YAML with the tag `!unsafe`, by which Ansible leaves a text's braces alone."""


def _plain(loader: yaml.SafeLoader, node: yaml.Node) -> object:
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node)
    assert isinstance(node, yaml.ScalarNode)
    return loader.construct_scalar(node)


Loader.add_constructor("!unsafe", _plain)


def read(path: Path) -> typing.Any:
    """A YAML file of the role."""
    return yaml.load(path.read_text(), Loader=Loader)


DEFAULTS = read(ROLE / "defaults" / "main.yml")
SPECS = read(ROLE / "meta" / "argument_specs.yml")["argument_specs"]
OPTIONS = SPECS["main"]["options"]


def program_options() -> Iterator[tuple[str, object]]:
    """The role's variable for each of the program's options, with the program's default."""
    for section, value in tomllib.loads(DEFAULT_FILE.read_text()).items():
        if section in LISTS:
            yield LISTS[section], value
        elif isinstance(value, dict):
            yield from ((f"{PREFIX}{section}_{key}", default) for key, default in value.items())
        else:
            yield f"{PREFIX}{section}", value
    yield LISTS["override"], []


def rendered(variables: Mapping[str, object]) -> str:
    """policy.toml as Ansible writes it."""
    environment = Environment(trim_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)
    environment.filters["bool"] = bool
    environment.filters["to_json"] = lambda value, **how: json.dumps(
        value if isinstance(value, str | int | float) else list(value), **how
    )
    environment.filters["comment"] = lambda text: "\n".join(["#", *(f"# {line}" for line in text.splitlines()), "#"])
    template = environment.from_string((ROLE / "templates" / "policy.toml.j2").read_text())
    return template.render({**DEFAULTS, **COMPUTED, **variables})


def keys(toml: str) -> set[str]:
    """The names of all sections and keys of a file."""
    table = tomllib.loads(toml)
    inner = {f"{name}.{key}" for name, value in table.items() if isinstance(value, dict) for key in value}
    return {*table, *inner}


def test_every_variable_is_specified_with_its_default() -> None:
    """`ansible-doc -t role` tells of every variable what it really is when nothing is set."""
    assert {name: option.get("default") for name, option in OPTIONS.items()} == DEFAULTS
    assert SPECS["memcached"]["options"] == OPTIONS


@pytest.mark.parametrize("name", OPTIONS)
def test_every_variable_is_described_in_one_sentence(name: str) -> None:
    """A type, and one sentence that ends with a full stop."""
    assert OPTIONS[name]["type"]
    assert re.fullmatch(r"[A-Z`VC].*[^.]\.", OPTIONS[name]["description"])
    assert ". " not in OPTIONS[name]["description"]


def test_every_option_of_the_program_is_a_variable_with_the_same_default() -> None:
    """Whoever knows policy.toml knows the variables, and the role changes nothing unasked."""
    expected = {name: default for name, default in program_options() if name not in {*ON_PURPOSE, *COMPUTED}}
    assert {name: DEFAULTS[name] for name in expected} == expected
    assert {name: default for name, default in program_options() if name in COMPUTED} == COMPUTED


def test_no_variable_is_named_like_an_option_that_does_not_exist() -> None:
    """A variable with a section's name in it is an option of that section."""
    sections = [key for key, value in tomllib.loads(DEFAULT_FILE.read_text()).items() if isinstance(value, dict)]
    named = {name for name in OPTIONS for section in sections if name.startswith(f"{PREFIX}{section}_")}
    assert named <= {name for name, _ in program_options()}


@pytest.mark.parametrize(
    ("section", "settings"),
    [
        ("", Config),
        ("listen_", Listen),
        ("reputation_", ReputationSettings),
        ("counters_", CounterSettings),
        ("log_", Log),
    ],
)
def test_a_word_is_chosen_from_the_program_s_words(section: str, settings: type) -> None:
    """The role takes exactly the words that the program takes."""
    hints = typing.get_type_hints(settings)
    words = {
        key: list(typing.get_args(hint)) for key, hint in hints.items() if typing.get_origin(hint) is typing.Literal
    }
    assert words == {key: OPTIONS[f"{PREFIX}{section}{key}"]["choices"] for key in words}


def test_the_role_writes_what_the_program_does_by_default() -> None:
    """Nothing set: the file that the role writes means the same as the program's own, with memcached."""
    text = rendered({})
    assert parse(text.replace('store = "memcached"', 'store = "memory"'), "policy.toml") == Config()
    assert keys(text) == keys(DEFAULT_FILE.read_text())


def test_the_role_writes_what_it_is_told() -> None:
    """Overrides, tiers with replies, numbers from the command line (they come as texts), quotes and backslashes."""
    config = parse(
        rendered(
            {
                f"{PREFIX}mode": "observe",
                f"{PREFIX}overrides": [
                    {"networks": ["192.0.2.0/24", "2001:db8::/32"], "score": 75},
                    {"networks": ["198.51.100.25"], "limit": "unlimited"},
                    {"networks": ["198.51.100.26"], "limit": "5000"},
                ],
                f"{PREFIX}tiers": [
                    {"scores": "0-50", "limit": 0, "reply": '550 5.7.1 "no" \\ {{ score }} – never'},
                    {"scores": "51-100", "limit": "unlimited"},
                ],
                f"{PREFIX}unscored_limit": "250",
                f"{PREFIX}counters_replicas": "2",
                f"{PREFIX}counters_servers": ["192.0.2.11:11211", "[2001:db8::1]:11211"],
            }
        ),
        "policy.toml",
    )
    assert config.mode == "observe"
    assert [(override.score, override.limit) for override in config.overrides] == [
        (75, None),
        (None, float("inf")),
        (None, 5000),
    ]
    assert config.tiers.tiers[0].limit.reply == '550 5.7.1 "no" \\ {{ score }} – never'
    assert [rule.messages for rule in config.tiers.limits] == [0, float("inf"), 250, float("inf")]
    assert config.counters.replicas == 2
    assert [str(server) for server in config.counters.servers] == ["192.0.2.11:11211", "[2001:db8::1]:11211"]


def test_what_ansible_says_of_its_files_may_have_several_lines() -> None:
    """Every line of ansible.cfg's ansible_managed becomes a comment."""
    assert keys(rendered({"ansible_managed": "Ansible managed\nmode = none"})) == keys(DEFAULT_FILE.read_text())
    for template in (ROLE / "templates").iterdir():
        assert all("| comment }}" in line for line in template.read_text().splitlines() if "ansible_managed" in line)


def test_what_a_reload_does_not_take_up_restarts_the_daemon() -> None:
    """The keys of [listen] and [state], the store and the log's target; everything else is reloaded."""
    keys = re.search(r"\(\?:(.*)\)", read(ROLE / "vars" / "main.yml")["__senderscore_policy_restart_keys"])
    assert keys
    assert set(keys[1].split("|")) == {field.name for field in fields(Listen)} | {"directory", "store", "target"}


def test_replies_are_checked_as_the_program_checks_them() -> None:
    """Before anything is changed, the role refuses replies with other actions or variables."""
    known = re.search(
        r"difference\(\[(.*?)\]\)", (ROLE / "tasks" / "preflight_variables.yml").read_text().split("reply_names")[1]
    )
    assert known
    assert set(re.findall(r"\w+", known[1])) == VARIABLES


@pytest.mark.parametrize(
    "check",
    [
        "check_policy_service inet:127.0.0.1:10045",
        "check_policy_service { inet:127.0.0.1:10045 }",
        "check_policy_service,{inet:127.0.0.1:10045,timeout=10s,default_action=DUNNO}",
        "check_policy_service { timeout=10s inet:127.0.0.1:10045 }",
        "check_policy_service { inet:127.0.0.1:10045, timeout=10s, { default_action = 451 4.3.5 no server } }",
        "check_policy_service { { default_action = 451 4.3.5 no server }, inet:127.0.0.1:10045, {x = y} }",
        "warn_if_reject check_policy_service inet:127.0.0.1:10045",
        "warn_if_reject, check_policy_service { inet:127.0.0.1:10045, { default_action = DUNNO } }",
    ],
)
def test_the_role_knows_its_check_in_postfix_s_lists(check: str) -> None:
    """It is taken out as a whole, with all of its braces and what only warns about it, and nothing else is."""
    endpoints = "|".join(map(re.escape, ["unix:private/policy", "inet:127.0.0.1:10045"]))
    ours = read(ROLE / "vars" / "main.yml")["__senderscore_policy_postfix_any_check"].replace("ENDPOINT", endpoints)
    others = "warn_if_reject reject_rbl_client zen.test, check_policy_service {{ inet:127.0.0.1:{port}, {{ a = b }} }}"
    for other in (others.format(port=1004), others.format(port=100450)):
        assert re.sub(ours, "", f"{check}, {other}") == f", {other}"
        assert re.sub(ours, "", f"{other}, {check}") == other
        assert re.sub(ours, "", f"{other} {check}, {other}") == f"{other}, {other}"


@pytest.mark.parametrize("file", ["config.yml", "memcached_present.yml", "postfix.yml"])
def test_a_changed_configuration_is_taken_up_before_anything_else_can_fail(file: str) -> None:
    """The handlers run right after the last task that notifies them: a later run would not know that they are due."""
    tasks = read(ROLE / "tasks" / file)
    last = max(number for number, task in enumerate(tasks) if "'notify'" in str(task))
    assert tasks[last + 1].get("ansible.builtin.meta") == "flush_handlers"
    # Ansible ignores a condition on this, also one that came with an import.
    assert "when" not in tasks[last + 1]
    imports = [
        task
        for name in ("present.yml", "absent.yml")
        for task in read(ROLE / "tasks" / name)
        if task.get("ansible.builtin.import_tasks") == file
    ]
    assert all("when" not in task for task in imports)


def test_the_role_knows_what_doctor_says_of_a_file_that_the_daemon_has_not_read(tmp_path: Path) -> None:
    """Then it restarts the daemon, which an earlier run did not come to."""
    file = tmp_path / "policy.toml"
    file.touch()
    running = Running(status={}, own={"file": str(file), "read_at": 0.0})
    condition = next(
        task["when"] for task in read(ROLE / "tasks" / "service.yml") if task["name"] == "Let the daemon read its file"
    )
    said = re.search(r"search\('(.*)'\)", condition)
    assert said
    assert said[1] in _in_force(running, file).detail


def variables_table() -> str:
    """The table of the README, made from the specification."""
    rows = ["| Variable | Type | Default | Meaning |", "|---|---|---|---|"]
    for name, option in OPTIONS.items():
        default = option["default"]
        text = json.dumps(default, ensure_ascii=False)
        stated = f"`{text}`" if len(text) <= 60 else "the program's"
        shown = "computed" if text.startswith('"{{') else stated
        kind = option["type"] + (f": {', '.join(map(str, option['choices']))}" if "choices" in option else "")
        meaning = re.sub(r"[VC]\((.*?)\)", r"`\1`", option["description"])
        rows.append(f"| `{name}` | {kind} | {shown} | {meaning} |")
    return "\n".join(rows)


def test_the_readme_lists_every_variable() -> None:
    """The README's table is the specification."""
    assert variables_table() in (ROLE / "README.md").read_text()


def test_the_example_inventory_uses_variables_that_exist() -> None:
    """Whoever copies the example gets what it says."""
    used = re.findall(rf"{PREFIX}\w+(?=:)", (ANSIBLE / "inventory" / "hosts.yml").read_text())
    assert used
    assert set(used) <= set(OPTIONS)
