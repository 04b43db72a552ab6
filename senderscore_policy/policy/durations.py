"""Lengths of time for people."""

import math


def span(seconds: float) -> str:
    """A length of time for people, in its two largest units: "3 min", "1 h 20 min", "2 d 3 h"."""
    whole = max(0, math.ceil(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes = math.ceil(whole / 60)
    parts = ((minutes // 1440, "d"), (minutes % 1440 // 60, "h"), (minutes % 60 if minutes < 1440 else 0, "min"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number)
