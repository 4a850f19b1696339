"""A record repeated: what differs before it runs, and what moved afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from scipy.optimize import linear_sum_assignment

from uss_bench.record_files import Arrays
from uss_bench.records import Cell, Checkpoint, Refinement, RunRecord

_HARMLESS = ("uss-bench", "python", "cores", "git")
"""What of an environment may differ without moving a number: what it changes, the code's digest tells."""


@dataclass(frozen=True)
class Difference:
    """In what a repetition is not the run that it repeats."""

    what: str
    before: str
    now: str
    weight: str
    """``input``: another experiment; ``cause``: numbers may move; ``harmless``: they must not."""


@dataclass(frozen=True)
class Movement:
    """How far counts moved: of the checkpoint and refinement that moved furthest."""

    checkpoint: Checkpoint
    refinement: Refinement
    share: float
    """Of all scored pixels, how many at least are in another cluster now."""
    images: list[tuple[str, float]]
    """The images that moved, with that share of their own pixels, most first."""


def differences(record: RunRecord, cell: Cell, environment: Mapping[str, Any]) -> list[Difference]:
    """List in what a repetition differs from a record, what decides first.

    Args:
        cell: what would run.
        environment: of this machine, as `uss_bench.provenance.environment` describes it.
    """
    weights = ("input", "cause", "harmless")
    found = [*_of_inputs(record.cell, cell), *_of_environments(record.environment, environment)]
    return sorted(found, key=lambda one: weights.index(one.weight))


def _of_inputs(before: Cell, now: Cell) -> Iterator[Difference]:
    first, second = _flat(before), _flat(now)
    for name in {**first, **second}:
        if first.get(name) != second.get(name):
            weight = "cause" if name == "code of the method" else "input"
            yield Difference(name, _short(first.get(name)), _short(second.get(name)), weight)


def _flat(cell: Cell) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(cell)
    method, dataset, backbone = (values.pop(part) for part in ("method", "dataset", "backbone"))
    return {
        "method": method["name"],
        "code of the method": method["code"],
        **{f"parameter {name}": value for name, value in method["params"].items()},
        "dataset": dataset.pop("name"),
        "images and labels": dataset.pop("fingerprint"),
        **{f"dataset {name}": value for name, value in dataset.items()},
        "weights": backbone.pop("sha256"),
        "backbone": backbone.pop("name"),
        **backbone,
        **values,
    }


def _of_environments(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            weight = "harmless" if name in _HARMLESS else "cause"
            yield Difference(name, _short(before.get(name)), _short(now.get(name)), weight)


def movement(before: Arrays, after: Arrays) -> Movement | None:
    """Compare the counts of two runs; None when every one of them is equal.

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
    ious = zip(_ious(before, moved), _ious(after, moved), strict=True)
    rows = [
        (one.name, first, second)
        for one, (first, second) in zip(before.classes, ious, strict=True)
        if first != second
    ]
    return sorted(rows, key=lambda row: -abs((row[2] or 0.0) - (row[1] or 0.0)))


def _ious(record: RunRecord, moved: Movement) -> list[float | None]:
    result = record.last if moved.checkpoint == "last" else record.selected
    row = (result.raw if moved.refinement == "raw" else result.crf) if result else None
    undefined: list[float | None] = [None] * len(record.classes)
    return row.iou if row else undefined


def _short(value: Any) -> str:
    text = "unknown" if value in (None, "") else str(value)
    return text if len(text) <= 28 else f"{text[:12]}…"
