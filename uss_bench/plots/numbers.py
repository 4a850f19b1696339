"""The numbers that figures draw: scores of a setting over its seeds, in percent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from uss_bench.collection import Setting
from uss_bench.errors import DataError
from uss_bench.records import Refinement, ScoreRow
from uss_bench.statistics.intervals import seed_interval

Metric = Literal["accuracy", "miou"]
ClassMetric = Literal["iou", "precision", "recall"]

METRICS: dict[Metric, str] = {"accuracy": "Acc", "miou": "mIoU"}
CLASS_METRICS: dict[ClassMetric, str] = {"iou": "IoU", "precision": "precision", "recall": "recall"}
REFINEMENTS: dict[Refinement, str] = {"raw": "raw", "crf": "CRF"}


def score_rows(setting: Setting, refinement: Refinement) -> list[ScoreRow]:
    """Return the scores of the last checkpoint, one per seed.

    Raises:
        DataError: when a record has no refined scores, because its label maps were made elsewhere.
    """
    found = []
    for entry in setting.entries:
        result = entry.record.last
        row = None if result is None else result.crf if refinement == "crf" else result.raw
        if row is None:
            raise DataError(f"{entry.path} has no scores with CRF.", hint="Show the raw ones: --raw")
        found.append(row)
    return found


def scores(setting: Setting, metric: Metric, refinement: Refinement) -> np.ndarray:
    """Return one score per seed, float64 (S,); NaN where a record has none."""
    values = [getattr(row, metric) for row in score_rows(setting, refinement)]
    return np.array(values, dtype=np.float64)


def class_scores(setting: Setting, metric: ClassMetric, refinement: Refinement) -> np.ndarray:
    """Return one score per seed and class, float64 (S, C); NaN where there is nothing to divide by."""
    values = [getattr(row, metric) for row in score_rows(setting, refinement)]
    return np.array(values, dtype=np.float64)


def mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over the first axis, without the NaN; NaN where all are NaN."""
    there = ~np.isnan(values)
    count = there.sum(axis=0)
    total = np.where(there, values, 0.0).sum(axis=0)
    means: np.ndarray = np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)
    return means


def band(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the mean over seeds, within 0..100; NaN for a single seed."""
    interval = seed_interval(list(values))
    if interval is None:
        return float("nan"), float("nan")
    return max(interval.low, 0.0), min(interval.high, 100.0)
