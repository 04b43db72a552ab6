"""Reads one section of a configuration file key by key, and notes everything that is wrong with it."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from senderscore_policy.config.positions import KeyLines
from senderscore_policy.config.values import shown

V = TypeVar("V")
W = TypeVar("W", bound=str)

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_LINE_BREAK: Final = re.compile(r"\s*[\r\n]\s*")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a number may be.

    Args:
        low: the smallest value allowed.
        high: the largest.
        reason: why not more or less, as the end of a sentence.
    """

    low: float
    high: float
    reason: str


class Report:
    """The problems found in a file, each with its place.

    Args:
        name: the file as messages call it.
        text: its content.
    """

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._lines = KeyLines(text)
        self._problems: list[tuple[int, str, str]] = []
        self._known: list[str] = []
        self._unknown: list[tuple[str, str]] = []

    @property
    def problems(self) -> list[str]:
        """All problems, one line each, in the order of the file."""
        return [text for _, _, text in sorted(self._problems, key=lambda problem: problem[0])]

    def add(self, path: str, problem: str, item: str = "") -> None:
        """Note a problem of the key at `path`; `item` is the text of the list that has it."""
        line = self._lines.line(path, item)
        place = self._name if line is None else f"{self._name}:{line}"
        text = _LINE_BREAK.sub(", ", f"{place}: {path}: {problem}")
        self._problems.append((line or 0, path, text))

    def faultless(self, *paths: str) -> bool:
        """Whether nothing has been found at these keys and below."""
        return not any(
            found == path or found.startswith((f"{path}.", f"{path}["))
            for _, found, _ in self._problems
            for path in paths
        )

    def know(self, path: str) -> None:
        """Note that a key exists, for suggestions."""
        self._known.append(path)

    def unknown(self, section: str, key: str) -> None:
        """Note a key that does not exist; it becomes a problem in `add_unknown`, once all known keys are noted."""
        self._unknown.append((section, key))

    def add_unknown(self) -> None:
        """Report the unknown keys, each with the key that may have been meant."""
        for section, key in self._unknown:
            beside = [path.removeprefix(section) for path in self._known if path.startswith(section)]
            close = difflib.get_close_matches(key, [name for name in beside if "." not in name], 1)
            elsewhere = [path for path in self._known if path.rpartition(".")[2] == key]
            if close:
                hint = f"; did you mean {close[0]}?"
            elif key == "mode":
                hint = "; mode stands at the top of the file, before the first [section]"
            elif elsewhere:
                hint = f"; did you mean {' or '.join(dict.fromkeys(elsewhere))}?"
            else:
                hint = ""
            self.add(section + (key if _BARE_KEY.fullmatch(key) else ascii(key)), f"there is no such key{hint}")


class Section:
    """One table of the file. Each method reads one key: its value, or the default if it is absent or wrong.

    Args:
        report: where problems go.
        path: the table's path; empty for the whole file.
        table: what the file says.
    """

    def __init__(self, report: Report, path: str, table: Mapping[str, object]) -> None:
        self.report = report
        self.path = path
        self._prefix = f"{path}." if path else ""
        self._table = table
        self._taken: set[str] = set()

    def wrong(self, key: str, problem: str, item: str = "") -> None:
        """Note a problem of a key of this section."""
        self.report.add(self._prefix + key, problem, item)

    def take(self, key: str) -> object | None:
        """What the file says; None if it says nothing (TOML has no null)."""
        self._taken.add(key)
        self.report.know(self._prefix + key)
        return self._table.get(key)

    def has(self, key: str) -> bool:
        """Whether the file says anything."""
        return key in self._table

    def faultless(self, *keys: str) -> bool:
        """Whether nothing has been found wrong with these keys, so that they may be compared."""
        return self.report.faultless(*(self._prefix + key for key in keys))

    def finish(self) -> None:
        """Note the keys that nobody has read."""
        for key in self._table:
            if key not in self._taken:
                self.report.unknown(self._prefix, key)

    def boolean(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.take(key)
        if isinstance(value, bool):
            return value
        if value is not None:
            self.wrong(key, f"must be true or false, not {shown(value)}")
        return default

    def whole(self, key: str, default: int, bounds: Bounds) -> int:
        """A whole number."""
        value = self.take(key)
        if isinstance(value, int) and not isinstance(value, bool) and bounds.low <= value <= bounds.high:
            return value
        if value is not None:
            self._out_of(bounds, key, value, "a whole number")
        return default

    def number(self, key: str, default: float, bounds: Bounds) -> float:
        """A number, whole or not."""
        value = self.take(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and bounds.low <= value <= bounds.high:
            return value
        if value is not None:
            self._out_of(bounds, key, value, "a number")
        return default

    def _out_of(self, bounds: Bounds, key: str, value: object, kind: str) -> None:
        allowed = f"must be {kind} from {bounds.low:g} to {bounds.high:.10g}"
        self.wrong(key, f"{allowed} ({bounds.reason}), not {shown(value)}")

    def word(self, key: str, default: W, words: Sequence[W]) -> W:
        """One of a few words."""
        value = self.take(key)
        for word in words:
            if value == word:
                return word
        if value is not None:
            allowed = " or ".join(f'"{word}"' for word in words)
            self.wrong(key, f"must be {allowed}, not {shown(value)}")
        return default

    def text(self, key: str, default: V, read: Callable[[str], V]) -> V:
        """A text, read by `read`, whose ValueError says what is wrong with it."""
        value = self.take(key)
        if value is None:
            return default
        if not isinstance(value, str):
            self.wrong(key, f"must be a text in quotes, not {shown(value)}")
            return default
        try:
            return read(value)
        except ValueError as error:
            self.wrong(key, str(error))
            return default

    def texts(self, key: str, default: tuple[V, ...], read: Callable[[str], V]) -> tuple[V, ...]:
        """A list of texts, each read by `read`."""
        value = self.take(key)
        if value is None:
            return default
        if not isinstance(value, list):
            self.wrong(key, f'must be a list of texts, such as ["…", "…"], not {shown(value)}')
            return default
        values = []
        for number, item in enumerate(value, 1):
            if not isinstance(item, str):
                self.wrong(f"{key}[{number}]", f"must be a text in quotes, not {shown(item)}")
                continue
            try:
                values.append(read(item))
            except ValueError as error:
                self.wrong(f"{key}[{number}]", str(error), item)
        return tuple(values)

    def section(self, key: str) -> "Section":
        """The [section] of this name; empty if the file has none."""
        value = self.take(key)
        if value is not None and not isinstance(value, dict):
            hint = "one bracket on each side" if isinstance(value, list) else "the keys below it"
            self.wrong(key, f"must be a section: [{key}], {hint}")
            value = None
        return Section(self.report, self._prefix + key, value or {})

    def sections(self, key: str) -> list["Section"] | None:
        """All [[sections]] of this name; None if the file has none."""
        value = self.take(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.wrong(key, f"must be written [[{key}]], with two brackets on each side, once for each")
            return []
        return [Section(self.report, f"{self._prefix}{key}[{number}]", item) for number, item in enumerate(value, 1)]
