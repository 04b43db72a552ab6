"""The Ansible role's variables agree with their specification, the README and the program."""

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

from senderscore_policy import __version__
from senderscore_policy.commands.doctor.daemon import Running, _in_force
from senderscore_policy.config.load import DEFAULT_FILE, parse
from senderscore_policy.config.model import (
    Config,
    CounterSettings,
    Listen,
    Log,
    OverrideSettings,
    ReputationSettings,
    TierSettings,
)

ANSIBLE = Path(__file__).parents[3] / "ansible"
ROLE = ANSIBLE / "roles" / "senderscore_policy"
PREFIX = "senderscore_policy_"
LISTS = {"tier": f"{PREFIX}tiers", "override": f"{PREFIX}overrides"}
COMPUTED = {
    f"{PREFIX}counters_store": "memory",
    f"{PREFIX}counters_servers": ["127.0.0.1:11211"],
    f"{PREFIX}counters_replicas": 1,
    f"{PREFIX}reputation_query_budget": 10000,
}
"""Defaults that depend on the inventory: their values for a single host."""


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
    """`ansible-doc -t role` shows the true default of every variable."""
    assert {name: option.get("default") for name, option in OPTIONS.items()} == DEFAULTS
    assert SPECS["memcached"]["options"] == OPTIONS


@pytest.mark.parametrize("name", OPTIONS)
def test_every_variable_is_described_in_one_sentence(name: str) -> None:
    """Each variable has a type and one sentence that ends with a full stop."""
    assert OPTIONS[name]["type"]
    assert re.fullmatch(r"[A-Z`VC].*[^.]\.", OPTIONS[name]["description"])
    assert ". " not in OPTIONS[name]["description"]


def test_every_option_of_the_program_is_a_variable_with_the_same_default() -> None:
    """A variable has the name and the default of its key in policy.toml."""
    expected = {name: default for name, default in program_options() if name not in COMPUTED}
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


@pytest.mark.parametrize(
    ("variable", "name", "settings"), [("tiers", "tier", TierSettings), ("overrides", "override", OverrideSettings)]
)
def test_a_key_of_a_tier_or_an_override_is_known_everywhere(variable: str, name: str, settings: type) -> None:
    """The program, argument_specs and the template have the same keys in each entry of a list."""
    keys = {field.name for field in fields(settings)}
    assert set(OPTIONS[f"{PREFIX}{variable}"]["options"]) == keys
    template = (ROLE / "templates" / "policy.toml.j2").read_text()
    block = template.partition(f"{{% for {name} in ")[2].partition("{% endfor %}")[0]
    assert set(re.findall(r"^(\w+) = ", block, re.MULTILINE)) == keys
    assert set(re.findall(rf"{name}\.(\w+)", block)) == keys


def test_the_collection_has_the_program_s_version() -> None:
    """galaxy.yml and the package are released together."""
    assert read(ANSIBLE / "galaxy.yml")["version"] == __version__


def test_the_collection_needs_the_same_ansible_as_the_role() -> None:
    """meta/runtime.yml, meta/main.yml and the oldest version that molecule/install tries agree."""
    oldest = read(ROLE / "meta" / "main.yml")["galaxy_info"]["min_ansible_version"]
    assert read(ANSIBLE / "meta" / "runtime.yml")["requires_ansible"] == f">={oldest}.0"
    tried = (ANSIBLE.parent / "molecule" / "requirements-oldest.txt").read_text()
    assert tried.strip() == f"ansible-core=={oldest}.0"


def test_the_role_writes_what_the_program_does_by_default() -> None:
    """With no variable set, the file that the role writes means the same as no file."""
    text = rendered({})
    assert parse(text, "policy.toml") == Config()
    assert keys(text) == keys(DEFAULT_FILE.read_text())


def test_the_role_writes_what_the_variables_say() -> None:
    """Overrides, replies, numbers from the command line (which are texts), quotes and backslashes arrive."""
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


def test_ansible_managed_may_have_several_lines() -> None:
    """Every line of ansible.cfg's ansible_managed becomes a comment."""
    assert keys(rendered({"ansible_managed": "Ansible managed\nmode = none"})) == keys(DEFAULT_FILE.read_text())
    for template in (ROLE / "templates").iterdir():
        assert all("| comment }}" in line for line in template.read_text().splitlines() if "ansible_managed" in line)


def test_a_key_that_a_reload_ignores_restarts_the_daemon() -> None:
    """A change of [listen], [state], the store or the log's target restarts the daemon; any other change reloads it."""
    keys = re.search(r"\(\?:(.*)\)", read(ROLE / "vars" / "main.yml")["__senderscore_policy_restart_keys"])
    assert keys
    assert set(keys[1].split("|")) == {field.name for field in fields(Listen)} | {"directory", "store", "target"}


@pytest.mark.parametrize("file", ["config.yml", "memcached_present.yml", "postfix.yml"])
def test_a_service_reads_its_new_configuration_before_another_task_can_fail(file: str) -> None:
    """The handlers run right after the last task that notifies them: a later run would not notify them again."""
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


def test_the_role_recognises_doctor_s_sentence_about_a_file_that_the_daemon_has_not_read(tmp_path: Path) -> None:
    """The role then restarts the daemon, because an earlier run failed before it could."""
    file = tmp_path / "policy.toml"
    file.touch()
    running = Running(status={}, own={"file": str(file), "read_at": 0.0})
    condition = next(
        task["when"]
        for task in read(ROLE / "tasks" / "service.yml")
        if task["name"] == "Restart a daemon that has not read its configuration"
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
    """The example inventory sets only variables that the role has."""
    used = re.findall(rf"{PREFIX}\w+(?=:)", (ANSIBLE / "inventory" / "hosts.yml").read_text())
    assert used
    assert set(used) <= set(OPTIONS)
