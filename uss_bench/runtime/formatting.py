"""How numbers are written for people: one function per kind, so that every output writes them alike."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

MISSING = "–"

_BYTES = ("B", "kB", "MB", "GB", "TB", "PB")
_SECONDS = (("s", 1, 90), ("min", 60, 90 * 60), ("h", 3600, 72 * 3600), ("days", 86400, math.inf))
"""Units of time: name, length in seconds, and the time from which the next unit is used."""


def number(value: float | None, digits: int = 1) -> str:
    """Return a value with so many decimals, or a dash for None and NaN."""
    return MISSING if value is None or math.isnan(value) else f"{value:.{digits}f}"


def mean_sd(values: Sequence[float], digits: int = 1) -> str:
    """Return ``15.6 ± 0.8``: the mean and, of two values or more, their standard deviation (n − 1)."""
    if not len(values):
        return MISSING
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return number(mean, digits)
    # `statistics.stdev` raises for NaN before Python 3.13.
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return f"{number(mean, digits)} ± {number(sd, digits)}"


def with_interval(value: float, low: float, high: float) -> str:
    """Return a difference with its interval, in points: ``+1.2 (+0.4 to +2.0)``."""
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def duration(seconds: float | None) -> str:
    """Return a time with two significant digits in a suitable unit: ``4.2 s``, ``25 min``, ``3.1 h``."""
    if seconds is None:
        return MISSING
    unit, length = next((unit, length) for unit, length, until in _SECONDS if seconds < until)
    value = seconds / length
    return f"{value:,.{0 if value >= 9.95 or value == 0 else 1}f} {unit}"


def byte_size(count: float) -> str:
    """Return a number of bytes in the decimal unit that suits it: ``512 B``, ``1.5 GB``."""
    power = min(int(math.log10(count)) // 3, len(_BYTES) - 1) if count >= 1000 else 0
    return f"{count / 1000**power:,.{1 if power else 0}f} {_BYTES[power]}"


def plural(count: int, what: str) -> str:
    """Return ``1 record`` or ``1,204 records``; `what` is a noun in the singular that takes an s."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def value_text(value: Any) -> str:
    """Return a parameter's value as the command line takes it, which reads the same value from it."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except (ValueError, RecursionError):
            return value  # is read as the string that it is
    return json.dumps(value, ensure_ascii=False)


def assignments(values: Mapping[str, Any]) -> str:
    """Return parameters as the command line takes them: ``clusters=27 standardize=true``."""
    return " ".join(f"{name}={value_text(value)}" for name, value in values.items())


def shortened(value: Any) -> str:
    """Return a value for a narrow column: digests by their first twelve digits, nothing as ``unknown``."""
    text = "unknown" if value in (None, "") else str(value)
    return text if len(text) <= 28 else f"{text[:12]}…"
