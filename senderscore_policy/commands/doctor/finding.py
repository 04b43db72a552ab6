"""What a check of `doctor` comes to."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How bad it is; the value is the word that people are shown."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `doctor`, and one object of `doctor --json`.

    Args:
        check: what was looked at, one word.
        status: FAIL: the policy does not do its work. WARN: it does, but something may surprise, or could not be seen.
        detail: what was found, without a full stop.
        remedy: what to do about it; empty where nothing is to be done.
    """

    check: str
    status: Status
    detail: str
    remedy: str = ""
