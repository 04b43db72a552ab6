"""What a check of `doctor` comes to."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """FAIL: the policy does not do its work. WARN: it does, but something may surprise, or could not be seen."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


OK, WARN, FAIL = Status


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `doctor`, and one object of `doctor --json`."""

    check: str  # what was looked at, one word
    status: Status
    detail: str  # what was found, without a full stop
    remedy: str = ""  # what to do about it; empty where nothing is to be done
