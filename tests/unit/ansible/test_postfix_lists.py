"""The role's filter edits Postfix's restriction lists, and nothing else.

Each file of `postfix/` is a small Postfix configuration in sections: main.cf and master.cf before the role runs, the
files that differ after `present` and `absent`, a pattern of the refusal, the parameters that still name the daemon
after `absent` (left), and the role's variables position and list.
"""

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROLE = Path(__file__).parents[3] / "ansible" / "roles" / "senderscore_policy"
CORPUS = Path(__file__).parent / "postfix"
CHECK = "check_policy_service { inet:127.0.0.1:10045, timeout=5s, try_limit=1, default_action=DUNNO }"
END_OF_DATA = "smtpd_end_of_data_restrictions"
DIRECTORY = "/etc/postfix"
MASTER = "smtp inet n - n - - smtpd\n"


def _filter() -> Any:
    """The filter as Ansible loads it, from a file outside of any package."""
    spec = importlib.util.spec_from_file_location(
        "senderscore_policy_postfix", ROLE / "filter_plugins" / "senderscore_policy_postfix.py"
    )
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.FilterModule().filters()["senderscore_policy_postfix"]


PLAN = _filter()


def plan(main: str, master: str = MASTER, remembered: Any = None, others: Any = (), **wish: Any) -> dict[str, Any]:
    """What the filter makes of the texts of a main.cf and a master.cf."""
    reading = {"directory": DIRECTORY, "main": main, "master": master, "remembered": remembered, "others": others}
    defaults = {
        "state": "present",
        "list": END_OF_DATA,
        "position": "last",
        "services": [],
        "check": CHECK,
        "endpoint": "inet:127.0.0.1:10045",
        "listen": ["inet:127.0.0.1:10045"],
    }
    return dict(PLAN(reading, {**defaults, **wish}))


def undone(main: str, master: str = MASTER, **wish: Any) -> tuple[str, str]:
    """The texts after the check was put in, put in again and removed."""
    there = plan(main, master, **wish)
    again = plan(there["main"], there["master"], there["remember"], **wish)
    assert again == there
    back = plan(there["main"], there["master"], there["remember"], **{**wish, "state": "absent"})
    return back["main"], back["master"]


class Case:
    """A file of the corpus."""

    def __init__(self, file: Path) -> None:
        parts = re.split(r"^=== (\S+)\n", file.read_bytes().decode(), flags=re.MULTILINE)
        self.sections = dict(zip(parts[1::2], parts[2::2], strict=True))
        self.files = [self.sections["main.cf"], self.sections["master.cf"]]
        self.wish = {name: self.text(name).strip() for name in ("position", "list") if name in self.sections}

    def text(self, name: str) -> str:
        """The text of a section; empty if the file has no such section."""
        return self.sections.get(name, "")

    def expected(self, state: str) -> list[str]:
        """The texts of main.cf and master.cf after a run of the role."""
        names = ("main.cf", "master.cf")
        return [self.text(f"{state}/{name}") or text for name, text in zip(names, self.files, strict=True)]


CASES = [pytest.param(Case(file), id=file.stem) for file in sorted(CORPUS.iterdir())]


@pytest.mark.parametrize("case", CASES)
def test_the_role_adds_the_check_or_refuses(case: Case) -> None:
    """The check goes into its place in the list, and every other line stays."""
    made = plan(*case.files, **case.wish)
    refusals = "\n".join(made["refusals"])
    if pattern := case.text("refused").strip():
        assert re.search(pattern, refusals)
    else:
        assert refusals == ""
        assert [made["main"], made["master"]] == case.expected("present")


@pytest.mark.parametrize("case", [case for case in CASES if not case.values[0].text("refused")])  # type: ignore[attr-defined]
def test_a_second_run_changes_nothing_and_absent_restores(case: Case) -> None:
    """After `absent`, the files have their old text, apart from a check that was there by hand."""
    assert list(undone(*case.files, **case.wish)) == case.expected("absent")


@pytest.mark.parametrize("case", CASES)
def test_absent_reports_what_still_names_the_daemon(case: Case) -> None:
    """Lists that the role does not edit, classes and variables are named; the role then keeps the daemon."""
    left = [f"{DIRECTORY}/{line}" for line in case.text("left").splitlines()]
    if not case.text("refused"):
        assert plan(*case.files, state="absent")["mentions"] == left


ENTRIES = (
    "permit_mynetworks",
    "check_client_access static:DUNNO",
    "check_policy_service { unix:private/q, timeout=3s }",
)
GAPS = (", ", ",", " ", ",\n  ", "\n\t", ",\n# a comment\n    ", "\n\n  # another\n  ", " ,\n  ")
ENDS = ("\n", ",\n", "  \n", "\n# the end\n", ",\n\n  # indented\nbiff = no\n")


@given(
    st.lists(st.tuples(st.sampled_from(GAPS), st.sampled_from(ENTRIES)), max_size=5),
    st.sampled_from(ENDS),
    st.sampled_from(["first", "last"]),
)
def test_every_form_of_a_list_is_restored(entries: list[tuple[str, str]], end: str, position: str) -> None:
    """Whatever lines, commas and comments a list has: the check goes in once, and `absent` gives back each byte."""
    main = f"biff = no\n{END_OF_DATA} =" + "".join(gap + entry for gap, entry in entries) + end
    if entries and entries[0][0].startswith(","):
        main = main.replace("=,", "=", 1)
    made = plan(main, position=position)
    assert made["refusals"] == []
    assert made["main"].count("10045") == 1
    assert undone(main, position=position)[0] == main
    lines = [line for line in main.splitlines() if line.lstrip().startswith("#")]
    assert [line for line in made["main"].splitlines() if line.lstrip().startswith("#")] == lines


def test_a_file_without_a_newline_at_its_end_gets_one() -> None:
    """Postfix reads both forms; the newline is the one thing that `absent` leaves."""
    assert undone("biff = no")[0] == "biff = no\n"


def test_bytes_that_are_not_utf_8_stay() -> None:
    """Ansible hands such bytes over as surrogates."""
    main = b"# Gr\xfc\xdfe\nsmtpd_banner = \xe4\n".decode(errors="surrogateescape")
    assert plan(main)["main"].startswith(main)
    assert undone(main)[0] == main


def test_the_check_moves_when_the_list_changes() -> None:
    """Another value of senderscore_policy_postfix_restriction_list leaves no check behind."""
    there = plan("smtpd_data_restrictions = reject_unauth_pipelining\n")
    moved = plan(there["main"], there["master"], there["remember"], list="smtpd_data_restrictions")
    assert moved["main"] == f"smtpd_data_restrictions = reject_unauth_pipelining, {CHECK}\n"


def test_the_check_follows_another_endpoint() -> None:
    """The endpoint of the last run is known, so a new port changes the check and adds none."""
    there = plan(f"{END_OF_DATA} = permit_mynetworks\n")
    other = {"endpoint": "inet:127.0.0.1:10050", "listen": ["inet:127.0.0.1:10050"], "check": CHECK.replace("45", "50")}
    moved = plan(there["main"], there["master"], there["remember"], **other)
    assert moved["main"] == f"{END_OF_DATA} = permit_mynetworks, {other['check']}\n"


def test_an_unknown_service_is_refused() -> None:
    """A name that master.cf does not have is a typo, and the message lists the names that it has."""
    refusals = plan("", services=["25/inet"])["refusals"]
    assert refusals == ["senderscore_policy_postfix_services: master.cf has no service 25/inet. It has smtp/inet."]


def test_a_chroot_hides_an_absolute_socket() -> None:
    """Postfix would defer all mail: an smtpd in the queue directory does not see /run."""
    endpoint = "unix:/run/senderscore-policy/policy.sock"
    refusals = plan("", MASTER.replace("n - n", "n - y"), endpoint=endpoint, check=f"check_policy_service {endpoint}")
    assert "runs in a chroot" in refusals["refusals"][0]


@pytest.mark.parametrize("socket", ["unix:private/policy", "unix:/var/spool/postfix/private/policy"])
def test_a_socket_is_known_by_its_relative_path(socket: str) -> None:
    """Postfix's queue directory is the base of a path that does not begin with a slash."""
    main = f"{END_OF_DATA} = check_policy_service {socket}\n"
    listen = ["unix:/var/spool/postfix/private/policy"]
    assert plan(main, state="absent", endpoint="unix:private/policy", listen=listen)["mentions"] == []


def test_another_instance_that_asks_is_named() -> None:
    """A second Postfix on the host keeps the daemon from being removed."""
    other = {"directory": "/etc/postfix-in", "main": f"{END_OF_DATA} = {CHECK}\n", "master": MASTER}
    assert plan("", state="absent", others=[other])["mentions"] == [f"/etc/postfix-in/main.cf: {END_OF_DATA}"]
