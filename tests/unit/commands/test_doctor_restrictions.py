"""Postfix's restriction lists, as `doctor` reads them."""

import pytest

from senderscore_policy.commands.doctor.restrictions import Hook, hooks, seconds, tokens

ENDPOINT = "inet:127.0.0.1:10045"
EOD = "smtpd_end_of_data_restrictions"


@pytest.mark.parametrize(
    ("text", "elements"),
    [
        ("", []),
        ("permit_mynetworks, reject", ["permit_mynetworks", "reject"]),
        (" a\n\tb,,c ", ["a", "b", "c"]),
        ("check { inet:h:1, timeout=10s } reject", ["check", "{ inet:h:1, timeout=10s }", "reject"]),
        ("{a {b c} d} e", ["{a {b c} d}", "e"]),
    ],
)
def test_elements(text: str, elements: list[str]) -> None:
    """Commas and white space separate; braces hold together."""
    assert tokens(text) == elements


@pytest.mark.parametrize(
    ("value", "options"),
    [
        (f"check_policy_service {ENDPOINT}", {}),
        (f"permit_mynetworks CHECK_POLICY_SERVICE {{ {ENDPOINT} }}", {}),
        (
            f"check_policy_service {{ {ENDPOINT}, timeout=10s, default_action=DUNNO }}",
            {"timeout": "10s", "default_action": "DUNNO"},
        ),
        (
            f"check_policy_service {{{ENDPOINT} {{ default_action = 421 try later, please }}}}",
            {"default_action": "421 try later, please"},
        ),
    ],
)
def test_a_policy_service_with_its_options(value: str, options: dict[str, str]) -> None:
    """In both of Postfix's notations."""
    assert hooks({EOD: value}) == [Hook(EOD, ENDPOINT, options, reached=True, guarded=False, warned=False)]


def test_a_restriction_class_stands_for_its_elements() -> None:
    """A check may hide in one; one that names itself does not hang doctor."""
    parameters = {
        "smtpd_restriction_classes": "limits, loop",
        "limits": f"permit_mynetworks, check_policy_service {ENDPOINT}",
        "loop": "loop",
        EOD: "loop, limits",
    }
    assert [hook.endpoint for hook in hooks(parameters)] == [ENDPOINT]


def test_what_stands_behind_a_warning_is_only_logged() -> None:
    """warn_if_reject concerns the restriction that follows, in whatever case it is written."""
    value = f"Warn_If_Reject check_policy_service {ENDPOINT}, warn_if_reject reject_x, check_policy_service {ENDPOINT}"
    assert [hook.warned for hook in hooks({EOD: value})] == [True, False]


@pytest.mark.parametrize("word", ["permit", "reject", "defer"])
def test_what_stands_behind_the_end_is_not_reached(word: str) -> None:
    """A bare permit, reject or defer ends the list for everybody."""
    (hook,) = hooks({EOD: f"{word}, check_policy_service {ENDPOINT}"})
    assert not hook.reached


@pytest.mark.parametrize(
    ("parameters", "guarded"),
    [
        ({"smtpd_recipient_restrictions": f"check_policy_service {ENDPOINT}, reject_unauth_destination"}, False),
        ({"smtpd_recipient_restrictions": f"reject_unauth_destination, check_policy_service {ENDPOINT}"}, True),
        (
            {
                "smtpd_relay_before_recipient_restrictions": "yes",
                "smtpd_relay_restrictions": "permit_mynetworks, defer_unauth_destination",
                "smtpd_recipient_restrictions": f"check_policy_service {ENDPOINT}",
            },
            True,
        ),
        (
            {
                "smtpd_relay_before_recipient_restrictions": "no",
                "smtpd_relay_restrictions": "reject_unauth_destination",
                "smtpd_recipient_restrictions": f"check_policy_service {ENDPOINT}",
            },
            False,
        ),
        ({"smtpd_client_restrictions": f"reject, check_policy_service {ENDPOINT}"}, False),
    ],
)
def test_the_guard_against_relaying_comes_before_or_behind(parameters: dict[str, str], guarded: bool) -> None:
    """In the order in which Postfix goes through its lists."""
    assert [hook.guarded for hook in hooks(parameters)] == [guarded]


@pytest.mark.parametrize(
    ("text", "value"), [("10s", 10), ("100", 100), ("2m", 120), ("1h", 3600), ("", None), ("x", None)]
)
def test_time_values(text: str, value: float | None) -> None:
    """As postconf(5) writes them."""
    assert seconds(text) == value
