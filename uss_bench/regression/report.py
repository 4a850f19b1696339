"""What a comparison of golden results says to a person."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from uss_bench.regression.comparison import Comparison
from uss_bench.regression.plan import Tolerance


def golden_report(comparisons: Sequence[Comparison], differing: Sequence[str], tolerance: Tolerance) -> str:
    """Return the rule that holds here, a row per run, and what is known of those that moved.

    Args:
        differing: in what this machine is not the one of the golden results.
    """
    rows = [
        (one.name, f"{100 * one.pixels:.2f} %", _points(one.accuracy), _points(one.miou), _state(one))
        for one in comparisons
    ]
    headers = ["run", "pixels moved", "Acc", "mIoU", ""]
    parts = [
        _rule(differing, tolerance),
        tabulate(
            rows, headers=headers, disable_numparse=True, colalign=("left", "right", "right", "right", "left")
        ),
    ]
    parts += [
        "\n".join([one.name, *(f"  {line}" for line in one.details)]) for one in comparisons if one.details
    ]
    return "\n\n".join(parts)


def golden_verdict(moved: Sequence[Comparison]) -> str:
    """Return one sentence that names the methods that moved, and what is known of the first."""
    methods = list(dict.fromkeys(one.method for one in moved))
    first = moved[0]
    said = "; ".join(first.details)
    return f"{len(moved)} golden runs moved ({', '.join(methods)}). {first.name}: {said or 'see the table'}."


def _rule(differing: Sequence[str], tolerance: Tolerance) -> str:
    if not differing:
        return "The machine is that of the golden results: nothing may move."
    return (
        f"Another machine than that of the golden results ({'; '.join(differing)}):\n"
        f"{100 * tolerance.pixels:g} % of the pixels and {tolerance.points:g} points may move."
    )


def _points(value: float) -> str:
    return "=" if value == 0 else f"{value:+.1f}"


def _state(one: Comparison) -> str:
    if one.moved:
        return "MOVED"
    return "same" if not (one.pixels or one.accuracy or one.miou) else "within tolerance"
