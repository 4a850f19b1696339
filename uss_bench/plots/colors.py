"""The colors in which predictions are shown: a cluster has the color of the class that it is matched to."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable

import numpy as np

from uss_bench.evaluation.scoring import score_under
from uss_bench.results.arrays import Arrays
from uss_bench.results.collection import Entry
from uss_bench.results.record import UNMATCHED, Checkpoint, Refinement, RunRecord
from uss_bench.results.scores import score_row

Color = tuple[int, int, int]
"""RGB, 0-255."""

IGNORED: Color = (24, 24, 24)
"""Of pixels without a label."""
_UNMATCHED: Color = (172, 172, 172)
"""Of clusters without a class, in a legend; in a map each has a gray of its own."""


def cluster_colors(
    record: RunRecord, arrays: Arrays, refinement: Refinement, checkpoint: Checkpoint = "last"
) -> np.ndarray:
    """Return uint8 (K, 3): the color of each cluster's class, grays for clusters without one.

    Without labels, clusters have colors that differ in hue and lightness.
    """
    counts = arrays.counts.get((checkpoint, refinement))
    if counts is None:
        return np.array([_distinct(index) for index in range(record.clusters)], dtype=np.uint8)
    row = score_row(record, refinement, checkpoint)
    fixed = None if row is None else row.class_of_cluster
    matched = score_under(counts, record.protocol, fixed).class_of_cluster
    colors: np.ndarray = np.array([row.color for row in record.classes], dtype=np.uint8)[matched]
    unmatched = matched == UNMATCHED
    colors[unmatched] = np.linspace(110, 235, max(1, unmatched.sum())).round()[: unmatched.sum(), None]
    return colors


def legend(shown: Iterable[Entry]) -> list[tuple[str, Color]]:
    """Return names and colors of the classes of one table, and of unmatched clusters where there are any.

    Without labels the clusters are named.
    """
    found: dict[str, Color] = {}
    for entry in shown:
        record = entry.record
        if not entry.arrays.counts:
            found |= {f"cluster {index}": _distinct(index) for index in range(record.clusters)}
        else:
            found |= {row.name: row.color for row in record.classes}
            if record.last is not None and UNMATCHED in record.last.raw.class_of_cluster:
                found["unmatched cluster"] = _UNMATCHED
    return list(found.items())


def _distinct(index: int) -> Color:
    golden = 0.618033988749895
    hue, lightness = (0.58 + index * golden) % 1.0, (0.55, 0.40, 0.70)[index % 3]
    red, green, blue = (round(255 * value) for value in colorsys.hls_to_rgb(hue, lightness, 0.60))
    return red, green, blue
