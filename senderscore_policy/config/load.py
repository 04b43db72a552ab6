"""From a TOML file to a `Config`, with everything that is wrong with the file."""

import difflib
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from senderscore_policy.config import model
from senderscore_policy.config.model import Config
from senderscore_policy.config.options import InvalidPartsError
from senderscore_policy.config.positions import KeyLines, explained
from senderscore_policy.config.values import reason
from senderscore_policy.errors import ConfigError
from senderscore_policy.policy.clients import Network, Override
from senderscore_policy.policy.tiers import Limit, Tier, TierTable

DEFAULT_FILE: Final = Path(__file__).with_name("default.toml")
"""The commented file of all options and their defaults."""
MOST_PROBLEMS: Final = 100
"""Problems shown of one file; a list in the wrong format has one in every line."""

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_LINE_BREAK: Final = re.compile(r"\s*[\r\n]\s*")
_SECTIONS: Final[dict[str, type]] = {
    "listen": model.Listen, "reputation": model.ReputationSettings, "counters": model.CounterSettings,
    "exempt": model.Exempt, "log": model.Log,
}  # fmt: skip
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reading:
    """A configuration file.

    Args:
        config: its valid part, and the defaults for the rest.
        document: its content as TOML; empty if it has syntax errors.
        tiers: the path of each [[tier]], by the name of its limit.
    """

    config: Config
    name: str = ""
    error: ConfigError | None = None
    document: Mapping[str, object] = field(default_factory=dict)
    lines: KeyLines = field(default_factory=lambda: KeyLines(""))
    tiers: Mapping[str, str] = field(default_factory=dict)

    def place(self, path: str) -> str:
        """The file, the line and the path of a key, or of the limit of this name; empty without a file."""
        path = self.tiers.get(path, path)
        line = self.lines.line(path)
        return f"{self.name}:{line}: {path}" if line else f"{self.name}: {path}".removeprefix(": ")


def load(path: Path | None) -> Config:
    """Read a configuration file; None: the defaults.

    Raises:
        ConfigError: it cannot be read (the cause is the OSError), or something in it is wrong.
    """
    return _valid(read(path))


def parse(text: str, name: str) -> Config:
    """Read a configuration from TOML text; messages call it by the name.

    Raises:
        ConfigError: with every problem, such as `policy.toml:12: counters.buckets: …`; a syntax error comes alone.
    """
    return _valid(read_text(text, name))


def _valid(reading: Reading) -> Config:
    if reading.error:
        raise reading.error
    return reading.config


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
        problem = ConfigError([f"{path}: not UTF-8 text: {error.reason} at byte {error.start}"])
        return Reading(Config(), str(path), problem)
    return read_text(text, str(path))


def read_text(text: str, name: str) -> Reading:
    """Read the valid part of a configuration; the arguments are those of `parse`."""
    text = text.removeprefix("\N{BYTE ORDER MARK}")
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # TOMLDecodeError is a ValueError, and so is an integer of more digits than Python takes.
        line, problem, excerpt = explained(text, str(error))
        place = f"{name}:{line}" if line else name
        return Reading(Config(), name, ConfigError([f"{place}: not valid TOML: {problem}"], excerpt))
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
        self._known: list[str] = []
        self._unknown: list[tuple[str, str]] = []
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
        self._problems.append((line or 0, _LINE_BREAK.sub(", ", f"{place}: {path}: {problem}")))

    def valid(self, *paths: str) -> bool:
        """Whether nothing is wrong with these keys and the ones below them."""
        return self._wrong.isdisjoint(paths)

    def config(self, document: Mapping[str, object]) -> Config:
        sections: dict[str, Any] = {
            key: self.section(cls, self._table(document, key), key) for key, cls in _SECTIONS.items()
        }
        exempt = sections["exempt"]
        if exempt.networks_file:
            sections["exempt"] = replace(exempt, networks=exempt.networks + exempt.networks_file.networks)
        tables = {key: self._table(document, key) for key in ("unscored", "unavailable", "reply", "state")}
        overrides = self._overrides(document)
        tiers = self._tiers(document, tables)
        values = self._options(Config, document, "")
        config = Config(**sections, **values, overrides=overrides, tiers=tiers)
        for key, option in (("reply", "over_limit"), ("state", "directory")):
            self._note_unknown(tables[key], f"{key}.", {option})
        self._note_unknown(document, "", {*_SECTIONS, *tables, "mode", "override", "tier"})
        own = config.over_limit != model.OVER_LIMIT and self.valid("reply.over_limit")
        if own and (problem := model.reply_problem(config.over_limit, config.reply_cases)):
            self.wrong("reply.over_limit", problem)
            return replace(config, over_limit=model.OVER_LIMIT)
        return config

    def section(self, cls: type[T], table: Mapping[str, object], path: str) -> T:
        """A section; an option that is absent or wrong has its default."""
        result = cls(**self._options(cls, table, f"{path}."))
        self._note_unknown(table, f"{path}.", {each.name for each in fields(cls)})  # type: ignore[arg-type]
        for keys, problem in getattr(result, "conflicts", tuple)():
            if self.valid(*(f"{path}.{key}" for key in keys)):
                self.wrong(f"{path}.{keys[0]}", problem)
                [default] = [each.default for each in fields(cls) if each.name == keys[0]]  # type: ignore[arg-type]
                result = replace(result, **{keys[0]: default})  # type: ignore[type-var]
        return result

    def _options(self, cls: Any, table: Mapping[str, object], prefix: str) -> dict[str, Any]:
        """The options of a class that the file sets."""
        found: dict[str, Any] = {}
        for each in fields(cls):
            if "check" not in each.metadata:
                continue
            path = prefix + (each.metadata["key"] or each.name)
            self._known.append(path)
            value = _look_up(table, each.metadata["key"] or each.name)
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
        for path, table in self._tables(document, "override") or []:
            settings = self.section(model.OverrideSettings, table, path)
            listed = settings.networks_file.networks if settings.networks_file else ()
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

    def _tiers(self, document: Mapping[str, object], tables: Mapping[str, Mapping[str, object]]) -> TierTable:
        """All [[tier]], [unscored] and [unavailable]; without any [[tier]] the default's ten are in force."""
        default = model.default_tiers()
        limits = [
            Limit(key, self.section(model.NoScore, tables[key], key).limit) for key in ("unscored", "unavailable")
        ]
        found = self._tables(document, "tier")
        if found is None:
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
        self._known.append(key)
        value = document.get(key)
        if isinstance(value, dict):
            return value
        if value is not None:
            hint = "one bracket on each side" if isinstance(value, list) else "the keys below it"
            self.wrong(key, f"must be a section: [{key}], {hint}")
        return {}

    def _tables(self, document: Mapping[str, object], key: str) -> list[tuple[str, Mapping[str, object]]] | None:
        """All [[sections]] of this name with their paths; None if the file has none."""
        self._known.append(key)
        value = document.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.wrong(key, f"must be written [[{key}]], with two brackets on each side, once for each")
            return []
        return [(f"{key}[{number}]", item) for number, item in enumerate(value, 1)]

    def _note_unknown(self, table: Mapping[str, object], prefix: str, known: Collection[str]) -> None:
        """Remember the unknown keys; suggestions need all known keys first."""
        self._unknown += [(prefix, key) for key in table if key not in known]

    def report_unknown(self) -> None:
        for section, key in self._unknown:
            siblings = [path.removeprefix(section) for path in self._known if path.startswith(section)]
            close = difflib.get_close_matches(key, [name for name in siblings if "." not in name], 1)
            elsewhere = [path for path in self._known if path.rpartition(".")[2] == key]
            hint = ""
            if close:
                hint = f"; did you mean {close[0]}?"
            elif key == "mode":
                hint = "; mode belongs at the top of the file, before the first [section]"
            elif elsewhere:
                hint = f"; did you mean {' or '.join(dict.fromkeys(elsewhere))}?"
            self.wrong(section + (key if _BARE_KEY.fullmatch(key) else ascii(key)), f"unknown key{hint}")


def _look_up(document: Mapping[str, object], path: str) -> object | None:
    """The value at a path of one or two keys."""
    section, _, key = path.rpartition(".")
    table = document.get(section, {}) if section else document
    return table.get(key) if isinstance(table, dict) else None
