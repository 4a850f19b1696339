"""What a repeated record says to a person: what differs beforehand, and what moved."""

from __future__ import annotations

from pathlib import Path

import click
from tabulate import tabulate

from uss_bench.records import RunRecord
from uss_bench.rerun import Difference, Movement
from uss_bench.summary import four_scores

_SHOWN = 3
"""How many images and classes are named."""


def differences_text(record: RunRecord, path: Path, found: list[Difference]) -> str:
    """Return a table of what differs, before anything runs."""
    title = click.style(f"{record.stem}, made {record.created[:10] or 'some day'}", bold=True)
    if not found:
        return (
            f"{title}  {path}\nNothing differs: code, versions, data, weights and machine are the record's."
        )
    says = {"input": "ANOTHER INPUT", "cause": "may move numbers", "harmless": "should not matter"}
    rows = [(one.what, one.before, one.now, says[one.weight]) for one in found]
    table = tabulate(rows, headers=["differs", "record", "here", ""], disable_numparse=True)
    return f"{title}  {path}\n\n{table}\n"


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
    names = ["Acc raw", "mIoU raw", "Acc CRF", "mIoU CRF"]
    scores = zip(names, four_scores(before.last), four_scores(after.last), strict=False)
    rows = [(name, f"{old:.2f}", f"{new:.2f}", f"{new - old:+.2f}") for name, old, new in scores]
    what = f"{'raw' if moved.refinement == 'raw' else 'CRF'}, {moved.checkpoint} checkpoint"
    for name, first, second in classes[:_SHOWN]:
        change = f"{second - first:+.2f}" if first is not None and second is not None else ""
        old, new = (f"{value:.2f}" if value is not None else "–" for value in (first, second))
        rows.append((f"IoU of {name}", old, new, change))
    alignment = ("left", "right", "right", "right")
    table = tabulate(rows, headers=["", "record", "here", ""], colalign=alignment, disable_numparse=True)
    same = before.state_sha256 == after.state_sha256
    lines = ["The counts moved.\n", table, ""]
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
