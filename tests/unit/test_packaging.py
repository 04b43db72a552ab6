"""The shipped files, and facts that more than one file states."""

import dataclasses
import email.utils
import importlib.metadata
import importlib.resources
import re
from pathlib import Path

import pytest

import senderscore_policy
from senderscore_policy.config.load import load
from senderscore_policy.config.model import Config
from senderscore_policy.policy.reply import ReplyTemplate

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("contrib/*/*.md")])
RECOMMENDED = re.compile(r"smtpd_end_of_data_restrictions =\s+(.*?\})", re.DOTALL)


def read(path: str) -> str:
    """Return the text of a file of the source tree."""
    return (ROOT / path).read_text()


def name_of(page: Path) -> str:
    """Return a page's path, as the name of its test."""
    return str(page.relative_to(ROOT))


def test_the_installed_package_is_tested(pytestconfig: pytest.Config) -> None:
    """`make test` tests what the wheel installed, not the source tree."""
    if not pytestconfig.getoption("installed"):
        pytest.skip("make test asks for this")
    package = Path(senderscore_policy.__path__[0])
    assert package.parent.name == "site-packages"
    installed = importlib.metadata.distribution("senderscore-policy").locate_file("senderscore_policy")
    assert package == Path(str(installed))


@pytest.mark.parametrize("file", ["py.typed", "config/default.toml"])
def test_data_files_are_in_the_package(file: str) -> None:
    """The package holds the default file, and the mark by which type checkers know that it has types."""
    assert (importlib.resources.files(senderscore_policy) / file).is_file()


def test_the_changelog_begins_with_this_version() -> None:
    """The changelog describes the newest version under its number and its date, which is that of the package."""
    newest = re.search(r"^## \[(\S+)\] - (\d{4}-\d{2}-\d{2})$", read("CHANGELOG.md"), re.MULTILINE)
    assert newest
    assert newest[1] == senderscore_policy.__version__
    package = re.search(r"^ -- .*>  (.*)$", read("debian/changelog"), re.MULTILINE)
    assert package
    assert newest[2] == email.utils.parsedate_to_datetime(package[1]).date().isoformat()


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        "debian/senderscore-policy.README.Debian",
        "docs/man/senderscore-policy.8.scd",
        "senderscore_policy/config/default.toml",
        "senderscore_policy/commands/serve.py",
    ],
)
def test_main_cf_is_the_same_everywhere(path: str) -> None:
    """Each text recommends the same line, which exempts the site's own hosts first."""
    (line,) = RECOMMENDED.findall(read(path))
    attributes = "inet:127.0.0.1:10045, timeout=5s, try_limit=1, default_action=DUNNO"
    assert " ".join(line.replace("#", "").split()) == f"permit_mynetworks, check_policy_service {{ {attributes} }}"


def test_the_container_example_asks_as_recommended() -> None:
    """Postfix's container differs in the endpoint only: the socket that the daemon's container listens on."""
    text = read("contrib/container/postfix/Containerfile")
    (endpoint,) = re.findall(
        r"permit_mynetworks, check_policy_service \{ (\S+), timeout=5s, try_limit=1, default_action=DUNNO \}", text
    )
    assert endpoint in [str(policy) for policy in load(ROOT / "contrib/container/policy.toml").listen.policy]


def test_the_readme_shows_the_default_reply() -> None:
    """The reply in the README is the one that a client gets by default."""
    action = ReplyTemplate(Config().over_limit).render(75, "71-80", 800, 801, "hour", "192.0.2.75")
    code, text = action.split(" ", 1)
    assert f"\n{code} 4.7.1 <END-OF-MESSAGE>: End-of-data rejected: {text}\n" in read("README.md")


def test_the_demo_changes_nothing_but_scores_and_where_to_ask() -> None:
    """The demo's file adds overrides for documentation networks to the defaults, and a zone without a server."""
    demo = load(ROOT / "docs/demo.toml")
    assert {server.host for server in demo.reputation.nameservers} == {"127.0.0.1"}
    standard = Config()
    reputation = dataclasses.replace(
        demo.reputation, zone=standard.reputation.zone, nameservers=standard.reputation.nameservers
    )
    assert dataclasses.replace(demo, overrides=(), reputation=reputation) == standard


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link of a page leads to a file or folder of the source tree."""
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_make_targets_exist(page: Path) -> None:
    """Each `make` command of a page is a target of the Makefile."""
    named = set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", page.read_text(), re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    assert {first or second for first, second in named} <= targets
