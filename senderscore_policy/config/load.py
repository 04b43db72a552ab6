"""From a TOML file to a `Config`, with everything that is wrong with the file."""

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from senderscore_policy.config import model
from senderscore_policy.config.model import Config
from senderscore_policy.config.options import InvalidPartsError
from senderscore_policy.config.positions import KeyLines, explained, without_statement
from senderscore_policy.config.values import reason
from senderscore_policy.errors import ConfigError
from senderscore_policy.policy.clients import Network, Override
from senderscore_policy.policy.tiers import Limit, Tier, TierTable

DEFAULT_FILE: Final = Path(__file__).with_name("default.toml")
"""The commented file of all options and their defaults."""
MOST_PROBLEMS: Final = 100
"""Problems shown of one file; a list in the wrong format has one in every line."""

_SECTIONS: Final[dict[str, Any]] = {
    each.name: each.default_factory for each in fields(Config) if is_dataclass(each.default_factory)
}
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reading:
    """A configuration file."""

    config: Config  # its valid part, and the defaults for the rest
    name: str = ""
    error: ConfigError | None = None
    document: Mapping[str, object] = field(default_factory=dict)  # empty if the file has syntax errors
    lines: KeyLines = field(default_factory=lambda: KeyLines(""))
    tiers: Mapping[str, str] = field(default_factory=dict)  # the path of each [[tier]], by the name of its limit

    def place(self, path: str) -> str:
        """The file, the line and the path of a key, also of a limit by its name; empty without a file."""
        limit, dot, key = path.partition(".")
        path = self.tiers.get(limit, limit) + dot + key
        line = self.lines.line(path)
        return f"{self.name}:{line}: {path}" if line else f"{self.name}: {path}".removeprefix(": ")

    def valid(self) -> Config:
        """The configuration; ConfigError: something in it is wrong."""
        if self.error:
            raise self.error
        return self.config


def load(path: Path | None) -> Config:
    """Read a configuration file; None: the defaults.

    Raises:
        ConfigError: it cannot be read (the cause is the OSError), or something in it is wrong.
    """
    return read(path).valid()


def parse(text: str, name: str) -> Config:
    """Read a configuration from TOML text; messages call it by the name.

    Raises:
        ConfigError: with every problem, such as `policy.toml:12: counters.buckets: …`; a syntax error comes alone.
    """
    return read_text(text, name).valid()


def read(path: Path | None) -> Reading:
    """Read the valid part of a configuration file; `Reading.error` has the rest. None: the defaults."""
    if path is None:
        return Reading(Config())
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        problem = ConfigError([f"{path}: {reason(error)}"])
        problem.__cause__ = error
        return Reading(Config(), str(path), problem)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        problem = ConfigError([f"{path}:{line}: not UTF-8 text ({error.reason}): save the file as UTF-8"])
        return Reading(read_text(error.object.decode("latin-1"), str(path)).config, str(path), problem)
    return read_text(text, str(path))


def read_text(text: str, name: str, left: int = 20) -> Reading:
    """Read the valid part of a configuration: the rest of it without up to `left` statements that are not TOML."""
    text = text.removeprefix("\N{BYTE ORDER MARK}")
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # TOMLDecodeError is a ValueError, and so is an integer of more digits than Python takes.
        line, problem, excerpt = explained(text, str(error))
        place = f"{name}:{line}" if line else name
        rest = read_text(without_statement(text, line), name, left - 1).config if line and left else Config()
        return Reading(rest, name, ConfigError([f"{place}: not valid TOML: {problem}"], excerpt))
    reader = _Reader(name, text)
    config = reader.config(document)
    reader.report_unknown()
    return Reading(config, name, reader.error, document, reader.lines, reader.tiers)


class _Reader:
    """Reads a document table by table, and notes everything that is wrong with it."""

    def __init__(self, name: str, text: str) -> None:
        self.lines = KeyLines(text)
        self.tiers: dict[str, str] = {}
        self._name = name
        self._known: dict[str, None] = {}
        self._read: list[tuple[str, Mapping[str, object]]] = []
        self._wrong: set[str] = set()
        self._problems: list[tuple[int, str]] = []
        self._more = 0

    @property
    def error(self) -> ConfigError | None:
        problems = [text for _, text in sorted(self._problems, key=lambda problem: problem[0])]
        if self._more:
            problems.append(f"{self._name}: {self._more} more problems like these")
        return ConfigError(problems) if problems else None

    def wrong(self, path: str, problem: str, item: str = "") -> None:
        """Note a problem of the key at `path`; `item` is the text of the list that has it."""
        around = path
        while around:
            self._wrong.add(around)
            around = around[: max(around.rfind("."), around.rfind("["), 0)]
        if len(self._problems) >= MOST_PROBLEMS:
            self._more += 1
            return
        line = self.lines.line(path, item)
        place = self._name if line is None else f"{self._name}:{line}"
        self._problems.append((line or 0, re.sub(r"\s*[\r\n]\s*", ", ", f"{place}: {path}: {problem}")))

    def valid(self, *paths: str) -> bool:
        """Whether nothing is wrong with these keys and the ones below them."""
        return self._wrong.isdisjoint(paths)

    def config(self, document: Mapping[str, object]) -> Config:
        sections = {key: self.section(cls, self._table(document, key), key) for key, cls in _SECTIONS.items()}
        exempt = sections["exempt"]
        sections["exempt"] = replace(exempt, networks=exempt.networks + (exempt.networks_file or ()))
        options = {"mode": document.get("mode")}
        for section, key in (("reply", "over_limit"), ("state", "directory")):
            table = self._table(document, section)
            options[f"{section}.{key}"] = table.get(key)
            self._read.append((f"{section}.", table))
        overrides, tiers = self._overrides(document), self._tiers(document)
        config = Config(**sections, **self._options(Config, options, ""), overrides=overrides, tiers=tiers)
        self._read.append(("", document))
        own = config.over_limit != model.OVER_LIMIT and self.valid("reply.over_limit")
        if own and (problem := model.reply_problem(config.over_limit, config.reply_cases)):
            self.wrong("reply.over_limit", problem)
            return replace(config, over_limit=model.OVER_LIMIT)
        return config

    def section(self, cls: type[T], table: Mapping[str, object], path: str) -> T:
        """A section; an option that is absent or wrong has its default."""
        result = cls(**self._options(cls, table, f"{path}."))
        self._read.append((f"{path}.", table))
        for keys, problem in getattr(result, "conflicts", tuple)():
            if self.valid(*(f"{path}.{key}" for key in keys)):
                self.wrong(f"{path}.{keys[0]}", problem)
                result = replace(result, **{keys[0]: getattr(cls(), keys[0])})  # type: ignore[type-var]
        return result

    def _options(self, cls: Any, table: Mapping[str, object], prefix: str) -> dict[str, Any]:
        """The options of a class that the file sets."""
        found: dict[str, Any] = {}
        for each in fields(cls):
            if "check" not in each.metadata:
                continue
            key = each.metadata["key"] or each.name
            path = prefix + key
            self._known[path] = None
            value = table.get(key)
            if value is None:
                if example := each.metadata["required"]:
                    self.wrong(path, f"must be given, for example {example}")
                continue
            try:
                found[each.name] = each.metadata["check"](value)
            except InvalidPartsError as error:
                for part, item, problem in error.problems:
                    self.wrong(path + part, problem, item)
                if error.valid:
                    found[each.name] = error.valid
            except ValueError as error:
                self.wrong(path, str(error))
        return found

    def _overrides(self, document: Mapping[str, object]) -> tuple[Override, ...]:
        given: dict[Network, str] = {}
        overrides = []
        for path, table in self._tables(document, "override"):
            settings = self.section(model.OverrideSettings, table, path)
            listed = settings.networks_file or ()
            for network in settings.networks:
                if network in given:
                    self.wrong(f"{path}.networks", f"{network} is already in {given[network]}", str(network))
                given.setdefault(network, path)
            for network in listed:
                if given.setdefault(network, path) != path:
                    self.wrong(f"{path}.networks_file", f"{network} is already in {given[network]}")
            if self.valid(path):
                overrides.append(Override(settings.networks + listed, settings.score, settings.limit))
        return tuple(overrides)

    def _tiers(self, document: Mapping[str, object]) -> TierTable:
        """All [[tier]], [unscored] and [unavailable]; without any [[tier]] the default's ten are in force."""
        default = model.default_tiers()
        limits = [
            Limit(key, self.section(model.NoScore, self._table(document, key), key).limit)
            for key in ("unscored", "unavailable")
        ]
        found = self._tables(document, "tier")
        if "tier" not in document:
            return TierTable(default.tiers, *limits)
        tiers = {path: self.section(model.TierSettings, table, path).tier for path, table in found}
        self.tiers = {tier.limit.name: path for path, tier in tiers.items()}
        if self.valid(*([f"{path}.scores" for path in tiers] or ["tier"])):
            self._check_contiguous(tiers)
        return TierTable(list(tiers.values()) if self.valid("tier") else default.tiers, *limits)

    def _check_contiguous(self, tiers: Mapping[str, Tier]) -> None:
        """Report the scores that no tier has and those that two have."""
        next_score, previous = 0, ""
        for path, tier in sorted(tiers.items(), key=lambda item: item[1].low):
            if tier.low > next_score:
                self.wrong("tier", f"no tier has the scores {next_score}-{tier.low - 1}")
            if tier.low < next_score:
                both = f"{tier.low}-{min(tier.high, next_score - 1)}"
                self.wrong(f"{path}.scores", f"{previous} has the scores {both}, too")
            if tier.high >= next_score:
                next_score, previous = tier.high + 1, path
        if next_score <= 100:
            self.wrong("tier", f"no tier has the scores {next_score}-100")

    def _table(self, document: Mapping[str, object], key: str) -> Mapping[str, object]:
        """The [section] of this name; empty if the file has none."""
        self._known[key] = None
        value = document.get(key)
        if isinstance(value, dict):
            return value
        if value is not None:
            hint = "one bracket on each side" if isinstance(value, list) else "the keys below it"
            self.wrong(key, f"must be a section: [{key}], {hint}")
        return {}

    def _tables(self, document: Mapping[str, object], key: str) -> list[tuple[str, Mapping[str, object]]]:
        """All [[sections]] of this name with their paths."""
        self._known[key] = None
        value = document.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.wrong(key, f"must be written [[{key}]], with two brackets on each side, once for each")
            return []
        return [(f"{key}[{number}]", item) for number, item in enumerate(value, 1)]

    def report_unknown(self) -> None:
        """Report every key of the tables read that is unknown; suggestions need all known keys first."""
        read = [(section, key) for section, table in self._read for key in table]
        for section, key in read:
            if "." not in key and section + key in self._known:
                continue
            siblings = [path.removeprefix(section) for path in self._known if path.startswith(section)]
            close = difflib.get_close_matches(key, [name for name in siblings if "." not in name], 1)
            elsewhere = [path for path in self._known if path.rpartition(".")[2] == key]
            hint = ""
            if close:
                hint = f"; did you mean {close[0]}?"
            elif key == "mode":
                hint = "; mode belongs at the top of the file, before the first [section]"
            elif elsewhere:
                hint = f"; did you mean {' or '.join(elsewhere)}?"
            self.wrong(section + (key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else ascii(key)), f"unknown key{hint}")
