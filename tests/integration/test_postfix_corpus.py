"""What `doctor` says about the Postfix configurations in tests/postfix, one for each kind, as postconf reads them."""

import shutil
from pathlib import Path

import pytest

from senderscore_policy.commands.doctor.finding import Finding, Status
from senderscore_policy.commands.doctor.postconf import BrokenPostfixError, Postfix, read_postfix
from senderscore_policy.commands.doctor.postfix import permitted_networks, postfix_findings
from senderscore_policy.config.model import Config

pytestmark = pytest.mark.skipif(shutil.which("postconf", path="/usr/sbin") is None, reason="Postfix is not installed")

SERVED = Config().listen.policy
CORPUS = Path(__file__).parents[1] / "postfix"
CHECK = "check_policy_service { inet:127.0.0.1:10045, timeout=5s, try_limit=1, default_action=DUNNO }"
END = "smtpd_end_of_data_restrictions = "
STOPS, DEFERS = "smtpd does not start", "Postfix defers every message"

EXPECTED: dict[str, list[tuple[str, str, str]]] = {
    "recommended": [],
    "behind-postscreen": [],
    "class": [],
    "class-of-a-static-map": [],
    "loopback-beside": [],
    "service-enabled-by-exception": [],
    "variable-of-a-service": [],
    "warned-reject-before": [],
    "attribute-with-a-wrong-value": [("FAIL restriction", f'"try_limit=0", in|{STOPS}', f'"{END}{CHECK}"')],
    "attribute-with-spaces": [("FAIL restriction", f'"default_action" without "="|{STOPS}', f'"{END}{CHECK}"')],
    "attributes-without-braces": [("FAIL restriction", f'"timeout=5s" is not a|braces|{DEFERS}', f'"{END}{CHECK}"')],
    "unknown-attribute": [
        ("FAIL restriction", f'unknown attribute "max_tries"|{STOPS}', "timeout=5s, policy_context=mx, try_limit=1")
    ],
    "unclosed-brace": [("FAIL restriction", f"no closing brace|{STOPS}", f'"{END}{CHECK}"')],
    "comment-behind-the-value": [
        ("FAIL restriction", f'"#" is not a restriction|comments|{DEFERS}', f'"{END}permit_mynetworks, {CHECK}"')
    ],
    "misspelt-word": [
        (
            "FAIL restriction",
            f'"permit_sasl_authenticate" is not|{DEFERS}',
            f'"{END}permit_sasl_authenticated, {CHECK}"',
        )
    ],
    "misspelt-word-in-another-list": [
        ("FAIL restriction", f"smtpd_recipient_restrictions: {DEFERS}", "_restrictions = reject_unlisted_recipient")
    ],
    "map-forgotten": [("FAIL restriction", f"check_client_access needs a map|{DEFERS}", "correct it in ")],
    "check-forgotten": [("FAIL restriction", f"inet:127.0.0.1:10045|{DEFERS}", f'"{END}permit_mynetworks, {CHECK}"')],
    "transport-forgotten": [("FAIL restriction", f'not "127.0.0.1:10045"|{STOPS}', f'"{END}{CHECK}"')],
    "class-without-definition": [("FAIL restriction", f'class "limits" has no definition|{STOPS}', "correct it in ")],
    "line-pasted-behind-o": [
        ("FAIL postfix", f'{STOPS}|argument "check_policy_service', f"-o {{ {END}permit_mynetworks, {CHECK} }}")
    ],
    "spaces-behind-o": [("FAIL postfix", f"{STOPS}|argument", "write -o { name = value }")],
    "class-of-an-access-map": [("WARN postfix", "an access map, which doctor cannot follow", "see the check requests")],
    "class-that-permits": [("FAIL postfix", "does not ask", f'"{END}{CHECK}, partners"')],
    "permitted-before": [("FAIL postfix", "never comes to the check: permit before", f'"{END}{CHECK}, permit"')],
    "permitted-by-a-map": [
        ("FAIL postfix", "check_client_access static:OK before it", f'"{END}{CHECK}, check_client_access static:OK"')
    ],
    "everybody-is-mynetworks": [("FAIL postfix", "mynetworks has every address", f'"{END}{CHECK}, permit_mynetworks"')],
    "other-service": [
        ("FAIL postfix", "does not ask|unix:private/quota", f'"{END}check_policy_service unix:private/quota, {CHECK}"')
    ],
    "other-service-and-reject": [
        ("FAIL postfix", "does not ask", f'"{END}check_policy_service unix:private/quota, {CHECK}, reject"')
    ],
    "other-service-before": [
        (
            "WARN restriction",
            "behind unix:private/quota: what that lets through with OK skips this check",
            f'"{END}{CHECK}, check_policy_service unix:private/quota"',
        )
    ],
    "own-networks-limited": [
        ("WARN mynetworks", "mynetworks has 192.0.2.0/24, [exempt] does not", f'"{END}permit_mynetworks, {CHECK}"')
    ],
    "own-networks-in-a-table": [("WARN mynetworks", "hash:/etc/postfix/networks", f"permit_mynetworks, {CHECK}")],
    "master-overrides": [
        (
            "FAIL postfix",
            "does not ask|master.cf sets -o smtpd_end_of_data_restrictions=",
            f"master.cf, at smtp/inet: -o {{ {END}permit_mynetworks, {CHECK} }}; then: postfix -c ",
        )
    ],
    "master-overrides-by-another": [
        (
            "FAIL postfix",
            "192.0.2.25:25/inet does not ask|master.cf sets",
            f"-o {{ {END}check_policy_service unix:private/quota, {CHECK} }}",
        )
    ],
    "service-disabled": [("FAIL postfix", "master_service_disable or multi_instance_enable turns off smtp/inet", "")],
    "misspelt-parameter": [
        ("FAIL postfix", "main.cf sets smtpd_end_of_data_restriction, which Postfix does not know", CHECK)
    ],
    "default-terms": [
        ("WARN default_action", "default_action=451 4.3.5", CHECK.replace("127.0.0.1", "localhost")),
        ("WARN timeout", "2 tries: a message waits 1 s while the daemon is down, 201 s while it hangs", "timeout=5s"),
    ],
    "short-timeout": [("WARN timeout", "timeout=1s, 2 tries: the daemon may need 1.25 s", "max_idle=100s")],
}
"""For each configuration the findings that are not OK: what their detail says, and their remedy."""
BROKEN = {
    "unclosed-brace-in-master": "master.cf: missing '}' in ",
    "line-without-equals": "main.cf, line 7: missing '=' after attribute name",
    "unknown-group": "parameter setgid_group: unknown group name: no-such-group",
}
"""Configurations that Postfix itself cannot read, and its words."""
OTHERS = {"references-everywhere"}


def findings_of(postfix: Postfix, *, asked: bool = False) -> list[Finding]:
    """All findings about a Postfix whose daemon listens on the default address."""
    return list(postfix_findings(postfix, SERVED, Config(), asked=asked))


@pytest.mark.parametrize("name", [path.name for path in CORPUS.iterdir() if path.name not in {*BROKEN, *OTHERS}])
def test_each_kind_of_configuration(name: str) -> None:
    """Every fault is a finding with its cause and a remedy, and a configuration without faults has none."""
    findings = findings_of(read_postfix(CORPUS / name))
    worse = [each for each in findings if each.status is not Status.OK]
    assert [f"{each.status} {each.check}" for each in worse] == [head for head, *_ in EXPECTED[name]]
    for finding, (_, said, remedy) in zip(worse, EXPECTED[name], strict=True):
        assert [part for part in said.split("|") if part not in finding.detail] == []
        assert remedy in finding.remedy
    if any(each.status is Status.FAIL for each in worse):
        # Nothing says that the daemon is asked.
        assert [each.check for each in findings if each.status is Status.OK and each.check == "restriction"] == []


@pytest.mark.parametrize(("name", "reason"), BROKEN.items())
def test_what_postfix_cannot_read(name: str, reason: str) -> None:
    """Postfix's own words and the file are in the error."""
    with pytest.raises(BrokenPostfixError, match=f"{name}/.*{reason}"):
        read_postfix(CORPUS / name)


def test_each_way_to_name_the_daemon_is_found() -> None:
    """Lists, variables and options of all services, in any notation; where nothing names it, the finding says so."""
    (found,) = [
        f.detail for f in findings_of(read_postfix(CORPUS / "references-everywhere")) if f.check == "references"
    ]
    assert "main.cf: limits, smtpd_client_restrictions; " in found
    assert "master.cf: 465/inet -o smtpd_end_of_data_restrictions" in found
    (none,) = [f.detail for f in findings_of(read_postfix(CORPUS / "other-service")) if f.check == "references"]
    assert none == "none"


def test_a_daemon_that_postfix_asks_is_not_said_to_be_never_asked() -> None:
    """A request within the hour shows that there is a way that doctor does not see."""
    (finding,) = [
        f for f in findings_of(read_postfix(CORPUS / "other-service"), asked=True) if f.status is not Status.OK
    ]
    assert finding.status is Status.WARN
    assert "yet Postfix asked within the hour" in finding.detail


def test_mail_of_own_networks_is_asked_about_unless_it_is_permitted_before() -> None:
    """With `permit_mynetworks` before the check, mail from there is not mail from outside."""
    assert permitted_networks(read_postfix(CORPUS / "own-networks-limited"), SERVED) == []
    networks = permitted_networks(read_postfix(CORPUS / "recommended"), SERVED)
    assert list(map(str, networks)) == ["127.0.0.0/8"]


def test_all_instances_of_postmulti_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check in the instance that takes no mail does not help; the finding names the one that does."""
    for name, more in (("out", "master_service_disable = inet\n"), ("in", "multi_instance_enable = yes\n")):
        shutil.copytree(CORPUS / ("recommended" if name == "out" else "other-service"), tmp_path / name)
        with (tmp_path / name / "main.cf").open("a") as main:
            main.write(more)
    with (tmp_path / "out" / "main.cf").open("a") as main:
        main.write(f"multi_instance_directories = {tmp_path}/in\n")
    monkeypatch.setenv("MAIL_CONFIG", str(tmp_path / "out"))
    postfix = read_postfix(None)
    assert [smtpd.name for smtpd in postfix.smtpd] == [f"{tmp_path}/in: smtp/inet"]
    (finding,) = [each for each in findings_of(postfix) if each.status is not Status.OK]
    assert finding.detail.startswith(f"{tmp_path}/in: smtp/inet does not ask")
    assert f"postconf -c {tmp_path}/in -e " in finding.remedy
    assert f"postfix -c {tmp_path}/in reload" in finding.remedy
    shutil.rmtree(tmp_path / "in")
    (error,) = read_postfix(tmp_path / "out").unread
    assert f"{tmp_path}/in/main.cf: No such file or directory" in str(error)
