"""What the choice of test images does to a score: its bias and its variance.

A matching that is fitted to the images it is scored on flatters, and the fewer the images the more: an
estimate is therefore moved by the bias that the bootstrap sees. The variance is the mean of the
bootstrap's and the jackknife's. Where a class lies in a handful of images the first is too small and
the second too large (Efron and Stein, 1981), and their mean covers where neither does;
``benchmarks/interval_coverage.py`` measures it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from uss_bench.protocol import Protocol
from uss_bench.results.scores import Metric
from uss_bench.results.sparse_counts import SparseCounts
from uss_bench.statistics.resampling import Resampled, leave_one_out, resample, score_many

COLUMN: dict[Metric, int] = {"accuracy": 0, "miou": 1}
"""Where the overall scores stand in the columns of a `Sampling`; the classes' IoU follow."""

FIRST_CLASS = len(COLUMN)

TOO_FEW_IMAGES = "too few images"
_FEWEST_IMAGES = 30
_FEWEST_WITH_A_CLASS = 5


@dataclass(frozen=True, slots=True)
class Sampling:
    """One configuration's scores, and the mean over its seeds of every resampled one.

    Columns are accuracy, mIoU and the IoU of each class, as fractions.
    """

    scores: np.ndarray
    """float64 (S, 2 + C): per seed, of all images."""
    drawn: np.ndarray
    """float64 (R, 2 + C): of bootstrap samples that all seeds share."""
    left_out: np.ndarray
    """float64 (N, 2 + C): of all images but one."""
    few: frozenset[Metric]
    """The metrics for which there are too few images; see `too_few`."""

    @classmethod
    def of(
        cls,
        counts: Sequence[np.ndarray] | Sequence[SparseCounts],
        protocol: Protocol,
        resamples: int = 1000,
        seed: int = 0,
    ) -> Sampling:
        """Score, resample and leave out.

        Args:
            counts: per seed, integer (N, K, C) or sparse, images in the same order.

        Raises:
            ValueError: when there is no seed, or the seeds differ in shape.
        """
        if len({one.shape for one in counts}) != 1:
            raise ValueError("one or more seeds of the same images, clusters and classes are needed")
        whole = [score_many(_total(one)[None], protocol) for one in counts]
        drawn = [_table(resample(one, protocol, resamples=resamples, seed=seed)) for one in counts]
        left_out = [_table(leave_one_out(one, protocol)) for one in counts]
        scores = np.concatenate([_table(one) for one in whole])
        few = frozenset(metric for metric in COLUMN if too_few(counts[0], metric))
        return cls(scores, np.mean(drawn, axis=0), np.mean(left_out, axis=0), few)

    @property
    def mean(self) -> np.ndarray:
        """float64 (2 + C): the mean over seeds, NaN where a seed has no value."""
        return np.asarray(self.scores.mean(axis=0))

    def percent(self, metric: Metric) -> float:
        """Return an overall score in percent, mean over seeds."""
        return 100 * float(self.mean[COLUMN[metric]])

    @property
    def variance_of_seeds(self) -> np.ndarray:
        """float64 (2 + C): the variance of `mean` by the choice of seeds; zero where one seed hides it."""
        seeds = len(self.scores)
        if seeds == 1:
            return np.zeros(self.scores.shape[1])
        return np.asarray(self.scores.var(axis=0, ddof=1) / seeds)


@dataclass(frozen=True, slots=True)
class CorrectedScore:
    """A score, or a difference of scores, as the population of images would have it."""

    value: float
    """Corrected for bias; NaN where there are too few images to tell."""
    variance: float
    """By the choice of images."""


def estimate(score: float, drawn: np.ndarray, left_out: np.ndarray) -> CorrectedScore:
    """Correct a score for its bias, and say how far it would move with other images.

    Args:
        score: of all images.
        drawn: float64 (R,), of bootstrap samples; NaN where a sample lacks the class.
        left_out: float64 (N,), of all images but one.
    """
    drawn, left_out = drawn[~np.isnan(drawn)], left_out[~np.isnan(left_out)]
    if len(drawn) < 2 or len(left_out) < 2:
        return CorrectedScore(float("nan"), float("nan"))
    bootstrap = float(drawn.var(ddof=1))
    jackknife = float((len(left_out) - 1) * left_out.var())
    return CorrectedScore(2 * score - float(drawn.mean()), (bootstrap + jackknife) / 2)


def too_few(counts: np.ndarray | SparseCounts, metric: Metric) -> bool:
    """Tell whether an interval over these images is likely to miss more often than it says.

    That is so below thirty images, and for the mIoU when a class lies in fewer than five: its IoU
    weighs as much as every other.

    Args:
        counts: integer (N, K, C), or sparse.
    """
    if counts.shape[0] < _FEWEST_IMAGES:
        return True
    if isinstance(counts, SparseCounts):
        with_class = counts.images_with_class()
    else:
        with_class = counts.any(axis=1).sum(axis=0)
    return metric == "miou" and bool((with_class[with_class > 0] < _FEWEST_WITH_A_CLASS).any())


def _total(counts: np.ndarray | SparseCounts) -> np.ndarray:
    if isinstance(counts, SparseCounts):
        return counts.sum().astype(np.float64)
    return np.asarray(counts.sum(axis=0, dtype=np.float64))


def _table(scores: Resampled) -> np.ndarray:
    return np.column_stack([scores.accuracy, scores.miou, scores.iou])
