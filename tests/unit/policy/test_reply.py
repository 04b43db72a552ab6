"""Reply templates."""

import pytest

from senderscore_policy.config.model import OVER_LIMIT
from senderscore_policy.errors import ConfigError
from senderscore_policy.policy.reply import LONGEST_REPLY, ReplyTemplate, action_problem
from senderscore_policy.policy.tiers import UNLIMITED


def test_the_default_reply() -> None:
    """The default reads as the classic one, and well without a score."""
    template = ReplyTemplate(OVER_LIMIT)
    tail = "in our policy, try again later"
    assert template.render(75, "71-80", 800, 801, "hour", "192.0.2.75") == (
        f"421 sender score = 75, you're limited to 800 messages/hour {tail}"
    )
    assert template.render(None, "unscored", 5, 6, "10 minutes", "2001:db8::1") == (
        f"421 sender score = unknown, you're limited to 5 messages/10 minutes {tail}"
    )


@pytest.mark.parametrize(
    "source",
    [
        "550 5.7.1 no",
        "450 4.7.1 later",
        "499 {{ score }}",
        "DEFER_IF_PERMIT later",
        "DEFER",
        "REJECT",
        "reject with text",
        "HOLD",
        "DISCARD",
        "REDIRECT postmaster@example.org",
        "BCC postmaster@example.org",
        "FILTER smtp:[192.0.2.1]",
        "421 {% if score is number %}score {{ score }}{% else %}no score{% endif %}",
    ],
)
def test_sound(source: str) -> None:
    """Every action of access(5) that keeps a message out, or does something with it, is accepted."""
    ReplyTemplate(source)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{{ score", "not a valid jinja2 template"),
        ("421 {{ scor }}", "unknown variable scor"),
        ("go away", "not an action of access(5)"),
        ("221 bye", "not a code from 400 to 599"),
        ("421", "not a code from 400 to 599 with a text"),
        ("550 ", "not a code from 400 to 599 with a text"),
        ("600 no", "not a code from 400 to 599"),
        ("４21 4.7.1 later", "not an action of access(5)"),
        ("", "not an action of access(5)"),
        ("DUNNO", "lets the message pass"),
        ("ok", "lets the message pass"),
        ("WARN {{ score }}", "lets the message pass"),
        ("PREPEND X-Score: {{ score }}", "lets the message pass"),
        ("DEFER_IF_REJECT later", "lets the message pass"),
        ("REDIRECT nobody", "needs an address"),
        ("BCC x", "needs an address"),
        ("FILTER nonsense", "needs a transport"),
        ("FILTER", "needs a transport"),
        ("421 {{ score.__class__.__mro__ }}", "template"),
        ("421 {{ score.__init__.__globals__ }}", "template"),
        ("421 {{ 1 / 0 }}", "fails when it is rendered"),
        ("421 {% include 'x' %}", "template"),
        ("421 {% for i in range(9) %}x{% endfor %}", "unknown variable range"),
    ],
)
def test_refused(source: str, problem: str) -> None:
    """A text that is not a template, or that lets the message pass, is refused when it is loaded."""
    with pytest.raises(ConfigError) as error:
        ReplyTemplate(source)
    assert problem in str(error.value)


def test_one_line_of_bounded_length() -> None:
    """Line breaks and control characters become spaces and an endless reply is cut, so that nothing can be injected."""
    template = ReplyTemplate("421 a\r\n\n{{ client_address }}\x00b " + "ä" * 600)
    text = template.render(0, "0-10", UNLIMITED, 1, "hour", "x\nPREPEND y")
    assert text.startswith("421 a x PREPEND y b ä")
    assert len(text.encode()) <= LONGEST_REPLY
    assert text.isprintable()
    assert action_problem(text) is None
