"""HTML for the status page and for the report of `forecast`: one template environment and one stylesheet."""

import base64
import hashlib
import math
from importlib.resources import files
from time import time as now
from typing import Any, Final
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from senderscore_policy.policy.durations import span
from senderscore_policy.policy.status import limit_as_json
from senderscore_policy.web.chart import local, name, shade


def moment(time: float, form: str = "%H:%M:%S") -> str:
    """A time of day with the host's time zone; of another day with its date."""
    then = local(time)
    return f"{then:{form} %Z}" if then.date() == local(now()).date() else f"{then:%Y-%m-%d %H:%M %Z}"


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,}"


def _asset(file: str) -> Markup:
    return Markup((files(__package__) / "templates" / file).read_text(encoding="utf-8"))  # noqa: S704 - our own file


STYLE: Final = _asset("page.css")
SCRIPT: Final = _asset("status.js")


def source_of(text: str) -> str:
    """A source expression that allows exactly this text inline (CSP level 3, section 2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# Texts of a log, of a client or of the zone pass through autoescape; the templates mark nothing as safe.
_ENVIRONMENT: Final = jinja2.Environment(
    loader=jinja2.PackageLoader(__package__),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    "span": lambda seconds: "–" if seconds is None else span(seconds),
    "moment": moment,
    "minute": lambda time: f"{local(time):%Y-%m-%d %H:%M}",
    "second": lambda time: f"{local(time):%Y-%m-%d %H:%M:%S}",
    "path": lambda key: quote(key.replace("/", "_"), safe=":"),
    "shade": shade,
    "tier": name,
    "number": _number,
    "limit": lambda limit: "∞" if limit == math.inf else _number(limit_as_json(limit)),
}
_ENVIRONMENT.globals |= {"style": STYLE, "script": SCRIPT, "zone": lambda time=None: f"{local(time or now()):%Z}"}


def render(template: str, **values: Any) -> str:
    return _ENVIRONMENT.get_template(template).render(**values)
