"""What a repeated record says to a person: what differs beforehand, and what moved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from uss_bench.cli.output.tables import table
from uss_bench.results.differences import Change, Movement, Weight
from uss_bench.results.record import Refinement, RunRecord
from uss_bench.results.scores import METRICS, REFINEMENTS, Metric, four_scores, score_row
from uss_bench.runtime.formatting import number, shortened

_SHOWN = 3
"""How many images and classes are named."""


def differences_text(record: RunRecord, path: Path, found: Mapping[Weight, list[Change]]) -> str:
    """Return a table of what differs, before anything runs."""
    title = click.style(f"{record.stem}, made {record.created[:10] or 'some day'}", bold=True)
    if not any(found.values()):
        return (
            f"{title}  {path}\nNothing differs: code, versions, data, weights and machine are the record's."
        )
    return f"{title}  {path}\n\n{differences_table(found, 'record', 'here')}\n"


def differences_table(found: Mapping[Weight, list[Change]], before: str, after: str) -> str:
    """Return a row for each difference, and what it may do to the numbers; the columns have these names."""
    effects = {"input": "ANOTHER INPUT", "cause": "may move numbers", "harmless": "should not matter"}
    rows = [
        (one.field, shortened(one.before), shortened(one.after), effects[weight])
        for weight, several in found.items()
        for one in several
    ]
    return table(rows, ["differs", before, after, ""])


def pair_text(a: RunRecord, b: RunRecord, found: Mapping[Weight, list[Change]]) -> str:
    """Return in what two records differ, and their scores."""
    heading = "\n".join(
        f"{click.style(side, bold=True)}  {one.stem}, made {one.created[:10] or 'some day'}"
        for side, one in (("A", a), ("B", b))
    )
    what = differences_table(found, "A", "B") if any(found.values()) else "Nothing differs."
    rows = []
    for kind, name in REFINEMENTS.items():
        for metric, title in METRICS.items():
            old, new = (_score(one, kind, metric) for one in (a, b))
            change = f"{new - old:+.2f}" if old is not None and new is not None else ""
            rows.append((f"{title} {name}", number(old, 2), number(new, 2), change))
    return f"{heading}\n\n{what}\n\n{table(rows, ['', 'A', 'B', 'B − A'], align='lrrr')}"


def _score(record: RunRecord, refinement: Refinement, metric: Metric) -> float | None:
    row = score_row(record, refinement)
    return getattr(row, metric) if row else None


def movement_text(
    before: RunRecord,
    after: RunRecord,
    moved: Movement,
    classes: list[tuple[str, float | None, float | None]],
) -> str:
    """Return how scores, classes and images moved.

    Args:
        classes: those that moved, with IoU in the record and here.
    """
    assert before.last is not None
    assert after.last is not None
    names = [f"{metric} {kind}" for kind in REFINEMENTS.values() for metric in METRICS.values()]
    scores = zip(names, four_scores(before.last), four_scores(after.last), strict=False)
    rows = [(name, f"{old:.2f}", f"{new:.2f}", f"{new - old:+.2f}") for name, old, new in scores]
    what = f"{REFINEMENTS[moved.refinement]}, {moved.checkpoint} checkpoint"
    for name, first, second in classes[:_SHOWN]:
        change = f"{second - first:+.2f}" if first is not None and second is not None else ""
        rows.append((f"IoU of {name}", number(first, 2), number(second, 2), change))
    same = before.state_sha256 == after.state_sha256
    lines = ["The counts moved.\n", table(rows, ["", "record", "here", ""], align="lrrr"), ""]
    if moved.images:
        lines.append(f"Images that moved most ({what}; {len(moved.images)} of {before.images} moved):")
        lines += [f"  {share:8.3%} of the pixels  {image}" for image, share in moved.images[:_SHOWN]]
    else:
        lines.append("No image moved: the clusters are numbered in another order.")
    lines.append(
        "The trained state is the same, byte by byte: prediction or refinement moved."
        if same
        else "The trained state is another: training moved."
    )
    return "\n".join(lines)
