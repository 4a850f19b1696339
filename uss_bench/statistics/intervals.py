"""Intervals around one score: over test images, and over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from uss_bench.protocol import Protocol
from uss_bench.results.scores import Metric
from uss_bench.statistics.sampling import COLUMN, TOO_FEW_IMAGES, Sampling, estimate


@dataclass(frozen=True, slots=True)
class Interval:
    """Bounds in percent, or in percent points for a difference; NaN where none can be given."""

    low: float
    high: float
    note: str = ""
    """Why the bounds deserve less trust than their level says; empty where nothing speaks against it."""


def image_interval(
    counts: Sequence[np.ndarray],
    protocol: Protocol,
    metric: Metric,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Return an interval of the mean score over seeds, over the choice of test images.

    It is Student's t around the score corrected for bias, with the variance of `estimate`, so it need
    not be centered on the score itself: on few images the score flatters, and the interval lies lower.
    It speaks of these trained models on other images of the same kind, not of other seeds.

    Args:
        counts: per seed, integer (N, K, C), images in the same order; they are drawn for all seeds alike.

    Raises:
        ValueError: when the seeds differ in shape.
    """
    return interval_of(Sampling.of(counts, protocol, resamples, seed), metric, level=level)


def interval_of(sampling: Sampling, metric: Metric, *, level: float = 0.95) -> Interval:
    """Return the `image_interval` of scores that are resampled already: several metrics can share them."""
    column = COLUMN[metric]
    found = estimate(float(sampling.mean[column]), sampling.drawn[:, column], sampling.left_out[:, column])
    note = TOO_FEW_IMAGES if metric in sampling.few else ""
    if math.isnan(found.variance):
        return Interval(math.nan, math.nan, TOO_FEW_IMAGES)
    reach = student_reach(found.variance, len(sampling.left_out) - 1, level)
    low, high = np.clip([100 * (found.value - reach), 100 * (found.value + reach)], 0, 100)
    return Interval(float(low), float(high), note)


def seed_interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """Return Student's t interval of the mean over seeds; None for a single seed.

    Three seeds are far too few for a percentile bootstrap, which covers about 75 % where 95 % is said.

    Args:
        values: one score per seed, in percent.
    """
    if len(values) < 2:
        return None
    center = float(np.mean(values))
    reach = student_reach(float(np.var(values, ddof=1)) / len(values), len(values) - 1, level)
    return Interval(center - reach, center + reach)


def student_reach(variance: float, freedom: float, level: float) -> float:
    """Return half the width of Student's t interval of an estimate with this variance."""
    return float(stats.t.ppf((1 + level) / 2, freedom)) * math.sqrt(variance)
