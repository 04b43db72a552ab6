"""The dashboard and the alerts ask for what the daemon exports, and the documentation describes it."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import site
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from senderscore_policy.counters.memory import MemoryStore
from senderscore_policy.web.prometheus import Exposition

DOCS = Path(__file__).parents[3] / "docs"
TARGET_LABELS = {"job", "instance"}
"""What Prometheus adds to every sample."""
NAME = re.compile(r"senderscore_policy_\w+")
SELECTOR = re.compile(r"(senderscore_policy_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> list[Metric]:
    """What a daemon with memcached exports after it has decided and deferred messages and saved its state."""

    async def scrape() -> str:
        toml = '[counters]\nstore = "memcached"\n[[override]]\nnetworks = ["192.0.2.0/24"]\nlimit = 1\n'
        async with site(tmp_path_factory.mktemp("state"), toml) as daemon:
            # The series exist without a memcached being there.
            daemon.engine.store = MemoryStore(daemon.seen.window, daemon.clock)
            await daemon.send("192.0.2.75", 3)
            await daemon.state.save()
            page, _ = await Exposition(daemon.collector).page("")
            return page.decode()

    return list(text_string_to_metric_families(asyncio.run(scrape())))


def queries() -> Iterator[Any]:
    """Each query of the dashboard, by its panel, and of the alerts, by their names."""
    dashboard = json.loads((DOCS / "grafana/senderscore-policy.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield pytest.param(target["expr"], id=f"{panel['title']}-{target['refId']}")
    for variable in dashboard["templating"]["list"]:
        yield pytest.param(variable.get("definition", ""), id=f"variable-{variable['name']}")
    for annotation in dashboard["annotations"]["list"]:
        yield pytest.param(annotation["expr"], id=annotation["name"])
    for alert in alerts():
        yield pytest.param(alert["expr"], id=alert["alert"])


def alerts() -> list[dict[str, Any]]:
    """The alert rules."""
    (group,) = yaml.safe_load((DOCS / "prometheus/senderscore-policy.rules.yml").read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


@pytest.mark.parametrize("query", list(queries()))
def test_a_query_asks_for_what_is_exported(families: list[Metric], query: str) -> None:
    """Each name, each label and each word that a label is compared with exists in what a daemon exports."""
    samples = [sample for family in families for sample in family.samples]
    for name, selector in SELECTOR.findall(query):
        labels = [sample.labels for sample in samples if sample.name == name]
        assert labels, f"{name} is not exported"
        for label, operator, value in MATCHER.findall(selector):
            if label not in TARGET_LABELS:
                assert operator in {"=", "!="}
                assert any(each.get(label) == value for each in labels), f'no {name} with {label}="{value}"'
    known = {label for sample in samples for label in sample.labels} | TARGET_LABELS
    for grouped in re.findall(r"(?:by|on) \(([^)]*)\)", query):
        assert {label.strip() for label in grouped.split(",")} <= known


def test_each_metric_is_described(families: list[Metric]) -> None:
    """The page of the metrics names all that there are, with their labels, and no others."""
    described = re.findall(
        r"^\| `(senderscore_policy_\w+)(?:\{([\w, ]*)\})?` \|", (DOCS / "metrics.md").read_text(), re.MULTILINE
    )
    exported = set()
    for family in families:
        suffix = "_total" if family.type == "counter" else ""
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        exported.add((family.name + suffix, frozenset(labels)))
    assert {(name, frozenset(re.findall(r"\w+", labels))) for name, labels in described} == exported


def test_each_alert_is_described() -> None:
    """The page of the metrics says what each alert means."""
    page = (DOCS / "metrics.md").read_text()
    assert [alert["alert"] for alert in alerts()] == re.findall(r"^\| `(SenderscorePolicy\w+)` \|", page, re.MULTILINE)


def test_each_alert_is_tested() -> None:
    """Each alert has a test in which it fires."""
    tests = "".join(path.read_text() for path in (DOCS / "prometheus").glob("*.test.yml"))
    assert {alert["alert"] for alert in alerts()} == set(re.findall(r"SenderscorePolicy\w+", tests))
