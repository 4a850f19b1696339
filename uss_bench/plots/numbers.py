"""The numbers that figures draw: scores of a configuration over its seeds, in percent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from uss_bench.errors import DataError
from uss_bench.results.collection import Configuration
from uss_bench.results.record import Refinement, ScoreRow
from uss_bench.results.scores import Metric, score_row
from uss_bench.statistics.intervals import seed_interval

ClassMetric = Literal["iou", "precision", "recall"]

CLASS_METRICS: dict[ClassMetric, str] = {"iou": "IoU", "precision": "precision", "recall": "recall"}


def score_rows(configuration: Configuration, refinement: Refinement) -> list[ScoreRow]:
    """Return the scores of the last checkpoint, one per seed.

    Raises:
        DataError: when a record has no refined scores, because its label maps were made elsewhere.
    """
    found = []
    for entry in configuration.entries:
        row = score_row(entry.record, refinement)
        if row is None:
            raise DataError(
                f"{entry.path} has no scores with CRF.",
                hint="Show raw scores with --raw, or leave it out: name the others with --method.",
            )
        found.append(row)
    return found


def scores(configuration: Configuration, metric: Metric | ClassMetric, refinement: Refinement) -> np.ndarray:
    """Return one score per seed, float64 (S,), or per seed and class, (S, C); NaN where there is none."""
    values = [getattr(row, metric) for row in score_rows(configuration, refinement)]
    return np.array(values, dtype=np.float64)


def mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over the first axis, without the NaN; NaN where all are NaN."""
    found: np.ndarray = np.ma.filled(np.ma.masked_invalid(values).mean(axis=0), np.nan)
    return found


def band(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the mean over seeds, within 0..100; NaN for a single seed."""
    interval = seed_interval(list(values))
    if interval is None:
        return float("nan"), float("nan")
    return max(interval.low, 0.0), min(interval.high, 100.0)
