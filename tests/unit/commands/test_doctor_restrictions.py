"""Postfix's restriction lists, as `doctor` reads them."""

import pytest

from senderscore_policy.commands.doctor.restrictions import (
    Hook,
    joined,
    restrictions_of,
    seconds,
    service_of,
    similar,
    tokens,
)


def hooks(parameters: dict[str, str]) -> tuple[Hook, ...]:
    """The policy services of the lists."""
    return restrictions_of(parameters).hooks


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
        ("a} b", ["a}", "b"]),
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
    assert [(each.endpoint, each.options) for each in hooks({EOD: value})] == [(ENDPOINT, options)]


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
    assert hook.blocked_by == word


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
    ("text", "value"), [("10s", 10), ("5 sec", 5), ("100", 100), ("2m", 120), ("1h", 3600), ("", None), ("x", None)]
)
def test_time_values(text: str, value: float | None) -> None:
    """As postconf(5) writes them."""
    assert seconds(text) == value


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        ("unix:private/policy", ""),
        ("{ inet:h:1, timeout=2m, try_limit=1, request_limit=0, { policy_context = a b } }", ""),
        ("", "needs an endpoint"),
        ("tcp:127.0.0.1:1", "needs an endpoint"),
        ("{ inet:h:1, Timeout=5s }", 'unknown attribute "Timeout"'),
        ("{ inet:h:1, timeout=five }", 'invalid value in "timeout=five"'),
        ("{ inet:h:1, try_limit= }", 'invalid value in "try_limit="'),
        ("{ inet:h:1, =5s }", 'the attribute "=5s"'),
        ("{ inet:h:1, { timeout = 5s }", "no closing brace"),
        ("{ inet:h:1 }x", 'has "x" behind its closing brace'),
    ],
)
def test_what_smtpd_cannot_read_in_a_policy_service(argument: str, problem: str) -> None:
    """Transport, braces, names and values of attributes are those of Postfix."""
    found = service_of(argument)[2]
    assert (problem in found) if problem else found == ""


def test_only_words_that_are_reached_are_faults() -> None:
    """Behind a final permit nothing is looked at, and smtpd ends at its first unknown word."""
    assert restrictions_of({EOD: "permit, no_such_thing"}).faults == ()
    assert [fault.word for fault in restrictions_of({EOD: "first_mistake second_mistake"}).faults] == ["first_mistake"]
    shorthand = {"smtpd_sender_restrictions": "hash:/etc/postfix/senders"}
    assert restrictions_of(shorthand).faults == ()


def test_arguments_are_not_taken_for_restrictions() -> None:
    """Each check that has an argument takes the word behind it."""
    value = "sleep 1, reject_rbl_client zen.example.org, check_helo_access inline:{{a = b}}, "
    value += f"check_policy_service {ENDPOINT}"
    found = restrictions_of({EOD: value})
    assert (found.faults, [hook.endpoint for hook in found.hooks]) == ((), [ENDPOINT])
    assert joined(tokens(value)) == value


def test_a_misspelt_word_is_recognized() -> None:
    """The remedy has the word that is meant, and none for a word that is like no other."""
    assert (similar("Permit_MyNetwork"), similar("quota")) == ("permit_mynetworks", "")
