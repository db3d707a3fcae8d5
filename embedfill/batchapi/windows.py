"""Lengths of time as the API writes them: `24h`, `7d`. Compares with no clock."""

import re

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def window_s(window: str) -> int | None:
    """`"24h"` in seconds; None for what is no such time."""
    found = re.fullmatch(r"(\d+)([smhd])", window, re.ASCII)
    return int(found[1]) * _UNITS[found[2]] if found else None
