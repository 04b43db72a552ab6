"""Lengths of time for people."""

import math


def span(seconds: float) -> str:
    """A length of time in its two largest units, rounded up: "0.25 ms", "40 s", "1 h 20 min", "2 d 3 h"."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    whole = max(0, math.ceil(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes = math.ceil(whole / 60)
    parts = ((minutes // 1440, "d"), (minutes % 1440 // 60, "h"), (minutes % 60 if minutes < 1440 else 0, "min"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


def period(seconds: int) -> str:
    """The period in "messages per …", in its largest whole unit: "hour", "10 minutes", "2 days"."""
    units = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
    length, unit = next((length, unit) for length, unit in units if seconds % length == 0)
    return unit if seconds == length else f"{seconds // length} {unit}s"
