"""In what two experiments differ, and how far their counts moved.

The one rule of all who compare: repeated records and golden runs compare cells, claims and audits compare
protocols.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
from scipy.optimize import linear_sum_assignment

from uss_bench.results.arrays import Arrays
from uss_bench.results.record import Cell, Checkpoint, Refinement, RunRecord
from uss_bench.results.scores import score_row

Weight = Literal["input", "cause", "harmless"]
"""``input``: another experiment; ``cause``: numbers may move; ``harmless``: they must not."""

CODE = "code of the method"

_HARMLESS = ("uss-bench", "python", "cores", "git", "lock")
"""What of an environment may differ without moving a number: the code's digest shows what matters of it."""

_CELL_NAMES = {
    "method.name": "method",
    "method.code": CODE,
    "dataset.name": "dataset",
    "dataset.fingerprint": "images and labels",
    "backbone.name": "backbone",
    "backbone.sha256": "weights",
}


@dataclass(frozen=True)
class Change:
    """One field in which two experiments differ."""

    field: str
    before: Any
    after: Any


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Return the fields with other values, in order; a missing field is as one that is None."""
    pairs = ((name, before.get(name), after.get(name)) for name in {**before, **after})
    return [Change(name, first, second) for name, first, second in pairs if first != second]


def cell_fields(cell: Cell) -> dict[str, Any]:
    """Return the inputs of a run, flat, by names that a person reads."""
    found = {}
    for path, value in _flat(msgspec.to_builtins(cell)):
        name = path.replace("method.params.", "parameter ").replace(".", " ")
        found[_CELL_NAMES.get(path, name)] = value
    return found


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def differences(record: RunRecord, cell: Cell, environment: Mapping[str, Any]) -> dict[Weight, list[Change]]:
    """Return in what a repetition differs from a record, by what that may do to the numbers.

    Args:
        cell: what would run.
        environment: of this machine, as `uss_bench.results.provenance.environment` describes it.
    """
    found: dict[Weight, list[Change]] = {"input": [], "cause": [], "harmless": []}
    for one in changes(cell_fields(record.cell), cell_fields(cell)):
        found["cause" if one.field == CODE else "input"].append(one)
    for one in changes(record.environment, environment):
        found["harmless" if one.field in _HARMLESS else "cause"].append(one)
    return found


@dataclass(frozen=True)
class Movement:
    """How far counts moved: of the checkpoint and refinement that moved furthest."""

    checkpoint: Checkpoint
    refinement: Refinement
    share: float
    """Of all scored pixels, how many at least are in another cluster now."""
    images: list[tuple[str, float]]
    """The images that moved, with that share of their own pixels, most first."""


def movement(before: Arrays, after: Arrays) -> Movement | None:
    """Compare the counts of two runs; None when all of them are equal.

    Clusters are matched one to one first, so that mere renumbering moves no image; it is a movement still,
    since the same run numbers its clusters in the same way.

    Args:
        before, after: counts int64 (N, K, C) of the same images.
    """
    moved = []
    for (checkpoint, refinement), counts in before.counts.items():
        now = after.counts.get((checkpoint, refinement))
        if now is not None and np.array_equal(counts, now):
            continue
        if now is None or now.shape != counts.shape or before.image_ids != after.image_ids:
            shares = np.ones(len(counts))
        else:
            shares = moved_shares(counts, now)
        pixels = counts.sum(axis=(1, 2))
        total = float(shares @ pixels / max(pixels.sum(), 1))
        order = [index for index in np.argsort(-shares, kind="stable") if shares[index] > 0]
        images = [(before.image_ids[index], float(shares[index])) for index in order]
        moved.append(Movement(checkpoint, refinement, total, images))
    return max(moved, key=lambda one: one.share, default=None)


def moved_shares(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return, per image, the least share of its pixels that must have changed cluster, float64 (N,).

    Args:
        before: counts int64 (N, K, C) per image, cluster and class.
        after: counts of the same shape; its clusters are matched with those of `before`.
    """
    overlap = np.stack(
        [np.minimum(before[:, [cluster]], after).sum(axis=(0, 2)) for cluster in range(before.shape[1])]
    )
    _, matched = linear_sum_assignment(overlap, maximize=True)
    pixels = before.sum(axis=(1, 2))
    kept = np.minimum(before, after[:, matched]).sum(axis=(1, 2))
    shares: np.ndarray = 1 - kept / np.maximum(pixels, 1)
    return np.where(pixels > 0, shares, 0.0)


def class_movements(
    before: RunRecord, after: RunRecord, moved: Movement
) -> list[tuple[str, float | None, float | None]]:
    """Return the classes whose IoU moved, most first, with both values in percent; None is undefined."""
    rows = [score_row(one, moved.refinement, moved.checkpoint) for one in (before, after)]
    ious = (row.iou if row else [None] * len(before.classes) for row in rows)
    found = [
        (one.name, first, second)
        for one, first, second in zip(before.classes, *ious, strict=True)
        if first != second
    ]
    return sorted(found, key=lambda row: -abs((row[2] or 0.0) - (row[1] or 0.0)))
