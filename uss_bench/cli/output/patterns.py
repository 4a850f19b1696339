"""Readings of a paper and whether its ablation's pattern shows, as a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from uss_bench.audit.patterns import Reading, Removal, Removed
from uss_bench.cli.output.tables import NOT_YET, place, table
from uss_bench.runtime.formatting import with_interval


def readings_text(
    labels: Iterable[str], removals: Sequence[Removal], found: Sequence[Reading], *, markdown: bool = False
) -> str:
    """Return a row per reading and table of records, those without records below, and what follows.

    Args:
        labels: of all readings.
        removals: the rows of the ablation in print, which are the columns here.
    """
    printed = ["*in print*", "", "", *(f"{-one.points:+.1f}" for one in removals), "", ""]
    rows = [printed, *(_row(one) for label in labels for one in found if one.label == label)]
    measured = {one.label for one in found}
    rows += [[label, NOT_YET, *[""] * (len(removals) + 3)] for label in labels if label not in measured]
    headers = ["reading", "on", "Acc", *(one.label for one in removals), "deepest is deepest", "pattern"]
    return f"{table(rows, headers, markdown=markdown)}\n\n{_summary(found)}"


def _row(one: Reading) -> list[str]:
    return [
        one.label,
        place(one.full),
        f"{one.accuracy:.1f}",
        *(_removed(row) for row in one.rows),
        ", ".join(order or NOT_YET for order in one.orders),
        one.pattern or NOT_YET,
    ]


def _removed(row: Removed | None) -> str:
    if row is None:
        return NOT_YET
    interval = row.difference.interval
    return f"{with_interval(row.difference.value, interval.low, interval.high)}: {row.outcome}"


def _summary(found: Sequence[Reading]) -> str:
    whole = [one for one in found if one.pattern is not None]
    if not whole:
        return "No reading has been measured with enough rows to judge the pattern yet."
    by_label: dict[str, list[Reading]] = {}
    for one in whole:
        by_label.setdefault(one.label, []).append(one)
    shown = [label for label, group in by_label.items() if all(one.pattern == "holds" for one in group)]
    excluded = [label for label, group in by_label.items() if any(one.pattern == "does not" for one in group)]
    said = [
        f"The whole pattern shows wherever it was measured in {_list(shown)}."
        if shown
        else "No reading shows the whole pattern wherever it was measured."
    ]
    if excluded:
        said.append(f"Some part of it is contradicted in {_list(excluded)}.")
    return " ".join(said)


def _list(labels: Sequence[str]) -> str:
    return "; ".join(f"“{label}”" for label in labels)
