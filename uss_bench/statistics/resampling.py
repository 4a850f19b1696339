"""Images drawn again with replacement, and the scores of every draw.

A resample is a new test set. Its clusters are therefore matched to its classes again: a bootstrap that
keeps the matching of the whole set leaves out one of the ways in which the score could have come
out differently.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from uss_bench.evaluation.scoring import match_many, matched_rows
from uss_bench.protocol import Protocol
from uss_bench.results.record import UNMATCHED
from uss_bench.results.sparse_counts import SparseCounts

_BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Resampled:
    """Scores of R count matrices. Fractions in 0..1; NaN where there is nothing to divide by."""

    accuracy: np.ndarray
    """float64 (R,)."""
    miou: np.ndarray
    """float64 (R,)."""
    iou: np.ndarray
    """float64 (R, C)."""


def resample(
    counts: np.ndarray | SparseCounts, protocol: Protocol, *, resamples: int = 1000, seed: int = 0
) -> Resampled:
    """Score `resamples` bootstrap samples of the images, each matched anew.

    The draws depend on the number of images, `resamples` and `seed` only: two methods on the same
    images meet the same draws, and their differences are paired.

    Args:
        counts: integer (N, K, C), pixels per image, cluster and class, or sparse.
        protocol: states matching, extra clusters and absent classes, as in `score_under`.

    Raises:
        ValueError: when counts are not (N, K, C) with N >= 1, or negative.
    """
    if not isinstance(counts, SparseCounts):
        _check(counts)
    images, clusters, classes = counts.shape
    columns = _by_class(counts)
    rows = max(1, _BLOCK_BYTES // (8 * (images + clusters * classes)))
    parts = []
    for weights in _draws(images, resamples, seed, rows):
        totals = np.zeros((weights.shape[1], clusters, classes))
        for c, (shown, met, present) in enumerate(columns):
            totals[:, met, c] = (present @ weights[shown].astype(np.float64)).T
        parts.append(score_many(totals, protocol))
    return _join(parts)


def leave_one_out(counts: np.ndarray | SparseCounts, protocol: Protocol) -> Resampled:
    """Score the N sets that lack one image each, matched anew: the jackknife.

    Args:
        counts: integer (N, K, C), or sparse.

    Raises:
        ValueError: see `resample`.
    """
    if isinstance(counts, SparseCounts):
        total = counts.sum()
        rows = max(1, _BLOCK_BYTES // (8 * total.size))
        starts = range(0, counts.shape[0], rows)
        sets = (
            np.stack(
                [total - counts.image(index) for index in range(start, min(start + rows, counts.shape[0]))]
            )
            for start in starts
        )
        return _join([score_many(one.astype(np.float64), protocol) for one in sets])
    _check(counts)
    whole = counts.sum(axis=0, dtype=np.int64)
    rows = max(1, _BLOCK_BYTES // (8 * whole.size))
    blocks = (counts[start : start + rows] for start in range(0, len(counts), rows))
    return _join([score_many((whole - block).astype(np.float64), protocol) for block in blocks])


def score_many(totals: np.ndarray, protocol: Protocol) -> Resampled:
    """Score R count matrices by the rules of `uss_bench.evaluation.scoring.score_under`.

    Args:
        totals: float64 (R, K, C) of whole numbers.
    """
    sets, n_clusters, n_classes = totals.shape
    if protocol.match_on == "train":
        class_of = np.tile(matched_rows(totals, protocol), (sets, 1))
    else:
        if protocol.extra_clusters == "drop" and n_clusters > n_classes:
            totals = totals[:, :n_classes]
        class_of = match_many(totals, protocol.matching, protocol.extra_clusters)

    matched = class_of != UNMATCHED
    known = np.where(matched, class_of, 0)
    # Where each cluster's pixels go in an (R, C) table laid flat.
    target = (np.arange(sets)[:, None] * n_classes + known)[matched]
    hits = np.take_along_axis(totals, known[:, :, None], axis=2)[:, :, 0]

    def per_class(values: np.ndarray) -> np.ndarray:
        sums = np.bincount(target, weights=values[matched], minlength=sets * n_classes)
        return sums.reshape(sets, n_classes)

    true_positive = per_class(hits)
    predicted = per_class(totals.sum(axis=2))
    true = totals.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        iou = true_positive / (predicted + true - true_positive)
        accuracy = true_positive.sum(axis=1) / true.sum(axis=1)
        defined = ~np.isnan(iou)
        divisor = n_classes if protocol.absent_classes == "zero" else defined.sum(axis=1)
        miou = np.where(defined, iou, 0).sum(axis=1) / divisor
    return Resampled(accuracy, miou, iou)


def _by_class(counts: np.ndarray | SparseCounts) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return what of each class's counts (N, K) is not zero.

    An image shows a few of the classes, and a class strays into a few of the clusters.

    Returns:
        The images that show it, the clusters that meet it, and counts of both, float64 (clusters, images):
        sums of integers are exact in float64 below 2**53 pixels, and BLAS multiplies nothing else fast.
    """
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    if isinstance(counts, SparseCounts):
        by_column = counts.matrix().tocsc()
        for c in range(counts.shape[2]):
            own = by_column[:, c :: counts.shape[2]]
            images, clusters = map(np.unique, own.nonzero())
            found.append((images, clusters, own[:, clusters].toarray()[images].T.astype(np.float64)))
        return found
    in_image, in_cluster = np.asarray(counts.any(axis=1)), np.asarray(counts.any(axis=0))
    for c in range(counts.shape[2]):
        shown, met = np.flatnonzero(in_image[:, c]), np.flatnonzero(in_cluster[:, c])
        found.append((shown, met, counts[shown[:, None], met, c].T.astype(np.float64)))
    return found


def _draws(images: int, resamples: int, seed: int, rows: int) -> Iterator[np.ndarray]:
    """Yield how often each image is drawn, uint16 (N, at most `rows`), in all `resamples` rows."""
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, rows):
        drawn = rng.integers(0, images, size=(min(rows, resamples - start), images))
        # No image is drawn 2**16 times: fewer images cannot be, and of more the chance is below 1 / 65536!.
        weights = [np.bincount(one, minlength=images).astype(np.uint16) for one in drawn]
        yield np.ascontiguousarray(np.stack(weights).T)


def _join(parts: list[Resampled]) -> Resampled:
    return Resampled(
        accuracy=np.concatenate([part.accuracy for part in parts]),
        miou=np.concatenate([part.miou for part in parts]),
        iou=np.concatenate([part.iou for part in parts]),
    )


def _check(counts: np.ndarray) -> None:
    if counts.ndim != 3 or not len(counts) or (counts < 0).any():
        raise ValueError(f"counts must be a non-negative (N, K, C) array, not {counts.shape}")
