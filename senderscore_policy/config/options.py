"""Declares an option: `option(default, check)` is the field of a dataclass, and the check reads the file's value.

A check takes the value that TOML gives and returns the option's value; its ValueError says what is allowed.
"""

from collections.abc import Callable
from dataclasses import field
from typing import Any, Final, NoReturn, TypeVar

V = TypeVar("V")
D = TypeVar("D")
Check = Callable[[object], V]

LONGEST_SHOWN: Final = 80


class InvalidPartsError(ValueError):
    """Some parts of a list are invalid."""

    def __init__(self, problems: list[tuple[str, str, str]], valid: Any) -> None:
        super().__init__(problems)
        self.problems = problems  # of each the index ("[2]"; "" for the whole list), the part's text and what is wrong
        self.valid = valid  # the option's value without these parts


def option(default: D, check: Check[V], *, key: str = "", required: str = "") -> D | V:
    """A field that the file may set, at the path `key`, or that it has to set (`required` is an example then)."""
    return field(default=default, metadata={"check": check, "key": key, "required": required})


def shown(value: object) -> str:
    """A value as an error message shows it: on one line, and cut when it is long."""
    if isinstance(value, bool):
        return str(value).lower()
    text = ascii(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}…"


def refuse(value: object, allowed: str) -> NoReturn:
    raise ValueError(f"{allowed}, not {shown(value)}")


def absolute_path(text: str, allowed: str) -> str:
    """An absolute path; the text `allowed` says so otherwise."""
    return text if text.startswith("/") and text.isprintable() else refuse(text, allowed)


def boolean(value: object) -> bool:
    return value if isinstance(value, bool) else refuse(value, "must be true or false")


def _between(low: float, high: float, reason: str, kind: str, types: Any) -> Check[Any]:
    """A number; `reason` explains the bounds in the error message."""

    def check(value: object) -> Any:
        if isinstance(value, types) and not isinstance(value, bool) and low <= value <= high:
            return value
        refuse(value, f"must be {kind} from {low:g} to {high:.10g} ({reason})")

    return check


def whole(low: int, high: int, reason: str) -> Check[int]:
    return _between(low, high, reason, "a whole number", int)


def number(low: float, high: float, reason: str) -> Check[float]:
    return _between(low, high, reason, "a number", int | float)


def one_of(*words: V) -> Check[V]:
    allowed = " or ".join(f'"{word}"' for word in words)

    def check(value: object) -> V:
        for word in words:
            if value == word:
                return word
        refuse(value, f"must be {allowed}")

    return check


def text(parse: Callable[[str], V]) -> Check[V]:
    """A text, read by `parse`, whose ValueError says what is allowed."""

    def check(value: object) -> V:
        if not isinstance(value, str):
            refuse(value, "must be a text in quotes")
        return parse(value)

    return check


def texts(parse: Callable[[str], V], *, distinct: bool = False) -> Check[tuple[V, ...]]:
    """A list of texts, each read by `parse`; a `distinct` one needs an item, and has none twice."""
    item_check = text(parse)

    def check(value: object) -> tuple[V, ...]:
        if not isinstance(value, list):
            refuse(value, 'must be a list of texts, such as ["…", "…"]')
        valid: list[V] = []
        problems: list[tuple[str, str, str]] = []
        for number, item in enumerate(value, 1):
            try:
                found = item_check(item)
            except ValueError as error:
                problems.append((f"[{number}]", item if isinstance(item, str) else "", str(error)))
                continue
            if distinct and found in valid:
                problems.append(("", str(found), f'names "{found}" more than once'))
            else:
                valid.append(found)
        if distinct and not value:
            raise ValueError("must name at least one")
        if problems:
            raise InvalidPartsError(problems, tuple(valid))
        return tuple(valid)

    return check
