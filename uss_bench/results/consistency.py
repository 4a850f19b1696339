"""What must hold between the parts of a record before anything is made of it.

A record may come from anybody. Its schema says what it is made of; here it is said what fits together.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, get_args

import numpy as np

from uss_bench.results.record import UNMATCHED, Checkpoint, Refinement, RunRecord

if TYPE_CHECKING:
    from uss_bench.results.arrays import Arrays

_MOST_PIXELS = 2**53
"""Pixels that a result may count, so that sums are exact."""


def misfit(record: RunRecord) -> str:
    """Say what a record states of other classes or clusters than its own; '' where all fits."""
    classes, clusters = len(record.classes), record.clusters
    for checkpoint, _, row in record.score_rows():
        for column, values in (("iou", row.iou), ("precision", row.precision), ("recall", row.recall)):
            if len(values) != classes:
                return f"{column} of '{checkpoint}' has {len(values)} values for {classes} classes"
        if len(row.class_of_cluster) != clusters:
            return (
                f"class_of_cluster of '{checkpoint}' has {len(row.class_of_cluster)} for {clusters} clusters"
            )
        if not all(UNMATCHED <= one < classes for one in row.class_of_cluster):
            return f"class_of_cluster of '{checkpoint}' names a class that is not there"
    last, chosen = record.last, record.selected
    if last and chosen and chosen.step is None and (chosen.crf is None) != (last.crf is None):
        return "the selected state is the last, and only one of them has scores after the CRF"
    return ""


def check_arrays(arrays: Arrays, record: RunRecord) -> None:
    """Hold the arrays of a record against what the record states.

    Raises:
        ValueError: saying what does not fit.
    """
    for ids in (arrays.image_ids, arrays.map_ids):
        if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
            raise ValueError("its ids are no list of texts")
    known = {*product(get_args(Checkpoint), get_args(Refinement))}
    if other := (arrays.counts.keys() | arrays.maps.keys()) - known:
        raise ValueError(f"it holds '{'/'.join(sorted(other)[0])}'")
    if missing := _stated(record) - arrays.counts.keys():
        raise ValueError(f"it lacks the counts of '{'/'.join(sorted(missing)[0])}'")
    for (checkpoint, refinement), counts in arrays.counts.items():
        if counts.ndim != 3 or counts.dtype.kind not in "iu" or (counts.size and counts.min() < 0):
            raise ValueError(
                f"{refinement} counts of '{checkpoint}' are {counts.dtype} {counts.shape}, "
                "not whole numbers (images, clusters, classes) from 0 on"
            )
        if counts.shape != (len(arrays.image_ids), record.clusters, len(record.classes)) or not counts.size:
            raise ValueError(
                f"{refinement} counts of '{checkpoint}' are {counts.shape}, for {len(arrays.image_ids)} "
                f"images, {record.clusters} clusters and {len(record.classes)} classes"
            )
        if counts.sum(dtype=np.float64) > _MOST_PIXELS:
            raise ValueError(f"{refinement} counts of '{checkpoint}' are of more pixels than there can be")
    for (checkpoint, refinement), maps in arrays.maps.items():
        apart = maps.ndim in (1, 3) and len(maps) == len(arrays.map_ids)
        if not apart or not all(one.ndim == 2 and one.size and one.dtype.kind == "u" for one in maps):
            raise ValueError(
                f"{refinement} maps of '{checkpoint}' are {maps.dtype} {maps.shape}, "
                f"not one map of cluster numbers for each of {len(arrays.map_ids)} images"
            )
        if any(int(one.max()) >= record.clusters for one in maps):
            raise ValueError(f"{refinement} maps of '{checkpoint}' hold a cluster beyond {record.clusters}")


def _stated(record: RunRecord) -> set[tuple[Checkpoint, Refinement]]:
    """Return what counts the record has scores of; a selected state that is the last has no other ones."""
    same = record.selected is not None and record.selected.step is None
    return {
        (checkpoint, refinement)
        for checkpoint, refinement, _ in record.score_rows()
        if not (same and checkpoint == "selected")
    }
