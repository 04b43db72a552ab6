"""The answer to Postfix: the reply template, rendered, and what access(5) allows as an action."""

import re
from typing import Final

from jinja2 import StrictUndefined, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from senderscore_policy.errors import ConfigError
from senderscore_policy.policy.tiers import UNLIMITED

PERMIT: Final = "DUNNO"
VARIABLES: Final = frozenset({"score", "tier", "limit", "count", "window", "client_address"})
LONGEST_REPLY: Final = 512
"""Bytes of an action; an SMTP reply line holds 512 (RFC 5321, 4.5.3.1.5)."""

# access(5), ACCEPT/REJECT/OTHER ACTIONS. A bare number is the same as OK, so a code needs a text.
_CODE = re.compile(r"[45][0-9]{2}( [45]\.[0-9]{1,3}\.[0-9]{1,3})? .*\S.*")
_WORDS: Final = frozenset({"REJECT", "DEFER", "DEFER_IF_PERMIT", "HOLD", "DISCARD"})
_PASSES: Final = frozenset({"OK", "DUNNO", "WARN", "INFO", "PREPEND", "DEFER_IF_REJECT"})
"""Actions with which the message passes at end of data."""
_ADDRESS: Final = (re.compile(r"[^\s@]+@[^\s@]+"), "an address, user@domain")
_TRANSPORT: Final = (re.compile(r"[\w.-]+:\S*"), "a transport and a destination, transport:destination")
_TARGETS: Final = {"BCC": _ADDRESS, "REDIRECT": _ADDRESS, "FILTER": _TRANSPORT}
"""Actions that Postfix ignores, with a warning in its log, if their target is invalid."""
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
# What jinja2's own code, the Python it compiles to, and its filters raise on odd templates, TemplateError aside.
_ERRORS = (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, SyntaxError, TypeError, ValueError)
_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
# A template is a line of text: without range() and the other globals it has nothing to loop over for long.
_ENVIRONMENT.globals.clear()


def action_problem(action: str) -> str | None:
    """The reason why this text does not keep a message out at end of data; None if it does."""
    word, _, text = action.partition(" ")
    name = word.upper()
    if name in _WORDS or _CODE.fullmatch(action):
        return None
    if word.isascii() and word.isdecimal():
        return f"{action!r} is not a code from 400 to 599 with a text after it; Postfix lets the message pass then"
    if name in _PASSES:
        advice = 'to let all pass, set mode = "observe" or limit = "unlimited"'
        return f"{word} lets the message pass at end of data; {advice}"
    if name in _TARGETS:
        pattern, example = _TARGETS[name]
        return None if pattern.fullmatch(text.strip()) else f"{word} needs {example} after it, see access(5)"
    return f"{word!r} is not an action of access(5); begin with a code such as 421 or with DEFER, REJECT, HOLD …"


class ReplyTemplate:
    """A reply to a client above its limit: jinja2 text that renders to an access(5) action.

    The template sees `score` (0 to 100, or "unknown"), `tier`, `limit`, `count`, `window` ("hour", "10 minutes")
    and `client_address`. ConfigError: it is not a template, uses another variable, or renders to an invalid action.
    """

    def __init__(self, source: str) -> None:
        try:
            variables = meta.find_undeclared_variables(_ENVIRONMENT.parse(source))
            self._template = _ENVIRONMENT.from_string(source)
            if unknown := ", ".join(sorted(variables - VARIABLES)):
                raise ConfigError([f"unknown variable {unknown}; there are {', '.join(sorted(VARIABLES))}"])
        except TemplateError as error:
            raise ConfigError([f"not a valid jinja2 template: {error}"]) from error
        except _ERRORS as error:
            raise ConfigError([f"not a template that can be compiled: {error}"]) from error
        # Whether it differs from message to message, not only by score, tier and limit.
        self.individual = not variables.isdisjoint({"count", "client_address"})
        # By these three, unless it is individual: rendering takes longer than all the rest of a decision.
        self.rendered: dict[tuple[int | None, str, float], str] = {}
        for score in (75, None):
            if problem := self.problem(score, "71-80", 800):
                raise ConfigError([problem])

    def problem(self, score: int | None, tier: str, limit: float) -> str | None:
        """The reason why such a client would get an invalid action, or None; the limit is a number."""
        try:
            return action_problem(self.render(score, tier, limit, int(limit) + 1, "hour", "192.0.2.75"))
        except (TemplateError, *_ERRORS) as error:
            return f"the template fails when it is rendered: {error}"

    def render(  # noqa: PLR0917 - the variables of the template, in the documented order
        self, score: int | None, tier: str, limit: float, count: int, window: str, client_address: str
    ) -> str:
        """The action for Postfix: one line, without control characters, of at most `LONGEST_REPLY` bytes."""
        shown = "unknown" if score is None else score
        most = "unlimited" if limit == UNLIMITED else int(limit)
        text = self._template.render(
            score=shown, tier=tier, limit=most, count=count, window=window, client_address=client_address
        )
        line = _UNPRINTABLE.sub(" ", text).strip()
        return line.encode()[:LONGEST_REPLY].decode(errors="ignore")
