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
        "421",
        "450 4.7.1 later",
        "DEFER_IF_PERMIT later",
        "REJECT",
        "reject with text",
        "HOLD",
        "DUNNO",
        "WARN {{ score }}",
        "PREPEND X-Score: {{ score }}",
        "421 {% if score is number %}score {{ score }}{% else %}no score{% endif %}",
    ],
)
def test_sound(source: str) -> None:
    """Every kind of access(5) action is taken."""
    ReplyTemplate(source)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{{ score", "not a valid jinja2 template"),
        ("421 {{ scor }}", "unknown variable scor"),
        ("go away", "no action of access(5)"),
        ("221 bye", "no action of access(5)"),
        ("", "no action of access(5)"),
        ("PREPEND", "needs a text"),
        ("421 {{ score.__class__.__mro__ }}", "template"),
        ("421 {{ score.__init__.__globals__ }}", "template"),
        ("421 {{ 1 / 0 }}", "fails when it is rendered"),
        ("421 {% include 'x' %}", "template"),
        ("421 {% for i in range(9) %}x{% endfor %}", "unknown variable range"),
    ],
)
def test_refused(source: str, problem: str) -> None:
    """What is no template, or renders to no action, is refused when it is loaded."""
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
