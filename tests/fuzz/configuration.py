"""A configuration file."""

import re

from senderscore_policy.config.load import parse
from senderscore_policy.config.model import Config, policy_of
from senderscore_policy.config.warnings import warnings_of
from senderscore_policy.errors import ConfigError
from senderscore_policy.policy.reply import ReplyTemplate, action_problem

SMALLER = ()
# A template may reckon and pad as it likes: it is the administrator who waits for it.
_EXPENSIVE = re.compile(rb"\*|[0-9]{4}|for|center|indent|format")


def check(data: bytes) -> None:
    """A file is a configuration whose every reply is an action of access(5), or an error of whole lines."""
    if b"{" in data and _EXPENSIVE.search(data):
        return
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    config = _parsed(text)
    if isinstance(config, Config):
        _use(config)
    else:
        assert config
        assert all(problem.splitlines() == [problem] for problem in config)


def _parsed(text: str) -> Config | list[str]:
    """The configuration, or what is wrong with it."""
    try:
        return parse(text, "policy.toml")
    except ConfigError as error:
        return error.problems


def _use(config: Config) -> None:
    rules = policy_of(config)
    for template in (rules.over_limit, *rules.tier_replies.values()):
        _render(template)
    assert all(text.splitlines() == [text] for _, text in warnings_of(config))


def _render(template: ReplyTemplate) -> None:
    for score in (0, 100, None):
        action = template.render(score, "0-10", 800, 801, "hour", "192.0.2.75")
        assert action_problem(action) is None
        assert len(action.splitlines()) == 1
