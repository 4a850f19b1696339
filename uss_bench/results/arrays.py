"""The arrays of a record: counts per image, and the index maps of a few images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from uss_bench.results.record import UNMATCHED, Checkpoint, Refinement


@dataclass(frozen=True, slots=True)
class Arrays:
    """The npz of a record.

    `counts` has one int64 (N, K, C) array per (checkpoint, refinement). `maps` has uint8 or uint16
    index maps (M, H, W) in the same way, for the images whose ids are `map_ids`; see `stack_maps` for maps of
    several sizes. Where the last checkpoint is the selected one the file holds its arrays once.
    """

    image_ids: list[str]
    counts: dict[tuple[Checkpoint, Refinement], np.ndarray]
    map_ids: list[str]
    maps: dict[tuple[Checkpoint, Refinement], np.ndarray]


def stack_maps(maps: Sequence[np.ndarray]) -> np.ndarray:
    """Stack maps to (M, H, W), or, where they differ in size, put them into an array (M,) of objects."""
    if len({one.shape for one in maps}) == 1:
        return np.stack(maps)
    piled = np.empty(len(maps), dtype=object)
    for index, one in enumerate(maps):  # one by one: NumPy would try to stack those that agree in part
        piled[index] = one
    return piled


def as_classes(
    counts: np.ndarray, class_of_cluster: Sequence[int] | np.ndarray, *, drop_extra: bool = False
) -> np.ndarray:
    """Add up clusters by the class that each was matched to: int64 (…, C + 1, C) of counts (…, K, C).

    Row C holds the pixels of clusters without a class; `drop_extra` leaves out clusters beyond the classes.
    """
    n_classes = counts.shape[-1]
    rows = np.asarray(class_of_cluster, dtype=np.int64)
    if drop_extra:
        counts, rows = counts[..., :n_classes, :], rows[:n_classes]
    merged = np.zeros((*counts.shape[:-2], n_classes + 1, n_classes), dtype=np.int64)
    for cluster, row in enumerate(rows):
        merged[..., n_classes if row == UNMATCHED else row, :] += counts[..., cluster, :]
    return merged
