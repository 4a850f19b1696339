"""Scores of measured features from their counts: intervals over images, and scores under other classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import msgspec
import numpy as np

from uss_bench.protocol import Protocol, get_protocol
from uss_bench.results.feature_record import FeatureRow
from uss_bench.results.sparse_counts import SparseCounts
from uss_bench.statistics.sampling import Sampling


def feature_sampling(
    rows: Sequence[tuple[FeatureRow, SparseCounts]],
    protocol: str,
    table: np.ndarray | None = None,
    *,
    resamples: int = 1000,
) -> Sampling:
    """Return the scores of one measure, and those of its images drawn again.

    Clusters are matched to classes anew in every draw, as `uss_bench.statistics.resampling` has it for runs.

    Args:
        rows: the measure's under several seeds and draws, on the same images.
        protocol: its id.
        table: where each class goes, int64 (C,), as `uss_bench.evaluation.taxonomies.class_table` returns it.
            The clusters stay what they are; predicted classes are merged like the true ones.
    """
    found = [_as_scored(row, counts, get_protocol(protocol), table) for row, counts in rows]
    return Sampling.of([counts for counts, _ in found], found[0][1], resamples)


def _as_scored(
    row: FeatureRow, counts: SparseCounts, protocol: Protocol, table: np.ndarray | None
) -> tuple[SparseCounts, Protocol]:
    """Return counts, and the protocol whose rules score them as the row was scored."""
    _, clusters, classes = counts.shape
    columns = np.arange(classes) if table is None else table
    classes = int(columns.max()) + 1
    if row.matching is not None:
        rules = msgspec.structs.replace(protocol, matching=row.matching, extra_clusters="strict")
        kept = counts if table is None else counts.merged(np.arange(clusters), clusters, columns, classes)
        return kept, rules
    # Predictions are classes: what a protocol calls matched already, with a row for those that are none.
    rules = msgspec.structs.replace(protocol, match_on="train")
    if table is None:
        return dataclasses.replace(counts, shape=(counts.shape[0], classes + 1, classes)), rules
    return counts.merged(np.where(columns < 0, classes, columns), classes + 1, columns, classes), rules
