"""From counts to scores: matching clusters to classes, and what follows from it.

Everything here is a pure function of ``counts[k, c]``, the pixels that a method put in cluster k and
the ground truth in class c. No inference is run again to score under another rule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import linear_sum_assignment

from uss_bench.protocol import AbsentClasses, ExtraClusters, Matching, Protocol
from uss_bench.results.record import UNMATCHED, ScoreRow

UnmatchedClusters = Literal["errors", "dropped"]


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one count matrix. Fractions in 0..1; NaN where a class has nothing to divide by."""

    accuracy: float
    """Overall pixel accuracy: correct pixels over all counted pixels."""
    miou: float
    iou: np.ndarray
    """IoU per class, float64 (C,); NaN where the union is empty."""
    precision: np.ndarray
    """Correct over predicted pixels per class, float64 (C,)."""
    recall: np.ndarray
    """Correct over true pixels per class, float64 (C,)."""
    class_of_cluster: np.ndarray
    """int64 (K,): the class that each cluster counts as, or `UNMATCHED`."""
    pixels: int
    clusters_used: int
    """Clusters that hold at least one counted pixel."""
    classes_present: int
    """Classes with at least one true pixel."""


def match(counts: np.ndarray, matching: Matching = "hungarian") -> np.ndarray:
    """Return the class of each cluster, int64 (K,), or `UNMATCHED`.

    ``hungarian`` is one-to-one and maximizes the correct pixels (scipy's linear_sum_assignment), ``iou`` is
    one-to-one and maximizes the sum of the pairs' IoU. ``many-to-one`` gives every cluster its most frequent
    class, which is also the class of greatest ``precision``.

    Args:
        counts: integer (K, C).
    """
    classes = np.full(counts.shape[0], UNMATCHED, dtype=np.int64)
    if matching in ("many-to-one", "precision"):
        used = counts.sum(axis=1) > 0
        classes[used] = counts[used].argmax(axis=1)
        return classes
    worth = counts
    if matching == "iou":
        union = counts.sum(axis=1, keepdims=True) + counts.sum(axis=0, keepdims=True) - counts
        worth = counts / np.maximum(union, 1)
    clusters, assigned = linear_sum_assignment(worth, maximize=True)
    classes[clusters] = assigned
    return classes


def match_many(counts: np.ndarray, matching: Matching, extra_clusters: ExtraClusters) -> np.ndarray:
    """Return what `match_all` gives for every set, int64 (R, K).

    Where every cluster has one most frequent class and no two the same, with as many clusters as classes,
    that is the only best Hungarian matching, and nothing has to be solved.

    Args:
        counts: (R, K, C) of whole numbers.
    """
    sets, n_clusters, n_classes = counts.shape
    found = np.empty((sets, n_clusters), dtype=np.int64)
    left = np.arange(sets)
    if matching == "hungarian" and n_clusters == n_classes > 1:
        best = counts.argmax(axis=2)
        greatest = np.partition(counts, -2, axis=2)[:, :, -2:]
        clear = (greatest[:, :, 1] > greatest[:, :, 0]).all(axis=1)
        clear &= (np.sort(best, axis=1) == np.arange(n_classes)).all(axis=1)
        found[clear] = best[clear]
        left = np.flatnonzero(~clear)
    for place in left:
        found[place] = match_all(counts[place], matching, extra_clusters)
    return found


def match_all(counts: np.ndarray, matching: Matching, extra_clusters: ExtraClusters) -> np.ndarray:
    """Return the class of each cluster, int64 (K,), or `UNMATCHED`, by the rule for extra clusters.

    Args:
        counts: integer (K, C).
        extra_clusters: see `score`.
    """
    n_clusters, n_classes = counts.shape
    if extra_clusters == "drop":
        extra = np.full(max(0, n_clusters - n_classes), UNMATCHED, dtype=np.int64)
        return np.concatenate([match(counts[:n_classes], matching), extra])
    classes = match(counts, matching)
    if extra_clusters == "merge":
        left_over = (classes == UNMATCHED) & (counts.sum(axis=1) > 0)
        classes[left_over] = counts[left_over].argmax(axis=1)
    return classes


def score(
    counts: np.ndarray,
    *,
    matching: Matching = "hungarian",
    extra_clusters: ExtraClusters = "strict",
    absent_classes: AbsentClasses = "skip-empty-union",
    class_of_cluster: Sequence[int] | np.ndarray | None = None,
) -> Scores:
    """Match clusters to classes and score the result.

    Args:
        counts: integer (K, C), or (N, K, C) per image, which is summed: matching and scores are
            those of the whole set.
        matching: see `match`.
        extra_clusters: what happens to clusters beyond the classes when K > C. ``strict``: their
            pixels are errors. ``drop``: predictions k >= C are masked out before anything is
            counted, as the STEGO lineage's metric does (it flatters: the pixels vanish).
            ``merge``: each cluster that the matching left over counts as its most frequent class.
        absent_classes: a class with an empty union is left out of the mean (``skip-empty-union``)
            or counts as zero.
        class_of_cluster: the class of each cluster, or `UNMATCHED`, where these counts do not decide it:
            predictions that are classes already, or a matching that was made on other images.

    Raises:
        ValueError: when counts have another number of dimensions or are negative.
    """
    if counts.ndim == 3:
        counts = counts.sum(axis=0, dtype=np.int64)
    if counts.ndim != 2 or (counts < 0).any():
        raise ValueError(f"counts must be a non-negative (K, C) or (N, K, C) array, not {counts.shape}")
    n_clusters, n_classes = counts.shape
    if extra_clusters == "drop":
        counts = np.where(np.arange(n_clusters)[:, None] < n_classes, counts, 0)

    if class_of_cluster is None:
        classes = match_all(counts, matching, extra_clusters)
    else:
        classes = np.asarray(class_of_cluster, dtype=np.int64)
    used = int((counts.sum(axis=1) > 0).sum())
    return _scores(confusion_matrix(counts, classes), classes, used, absent_classes)


def per_image_oracle(
    counts: np.ndarray,
    *,
    unmatched: UnmatchedClusters = "errors",
    absent_classes: AbsentClasses = "skip-empty-union",
) -> Scores:
    """Match the clusters of every image by itself, and score what that gives over the whole set.

    An oracle: the labels of an image name its clusters, so the score says nothing of whether a cluster means
    the same in two images. DiffSeg and DiffCut report no other score. Their released code takes the columns
    of clusters that no class was matched to out of the false positives; such a cluster is no class and has
    none, so that is ``errors`` here, to the last pixel.

    Args:
        counts: integer (N, K, C), per image.
        unmatched: the pixels of an image's clusters that no class was matched to, which exist where K > C.
            ``errors``: they are wrong, as under ``strict`` in `score`; ``dropped``: they are not counted.
        absent_classes: see `score`.

    Returns:
        The scores; `class_of_cluster` is `UNMATCHED` throughout, since no cluster has one class.

    Raises:
        ValueError: when counts have another number of dimensions or are negative.
    """
    if counts.ndim != 3 or (counts < 0).any():
        raise ValueError(f"counts must be a non-negative (N, K, C) array, not {counts.shape}")
    _, n_clusters, n_classes = counts.shape
    confusion = np.zeros((n_classes + 1, n_classes), dtype=np.int64)
    for image in counts:
        confusion += confusion_matrix(image, match(image))
    if unmatched == "dropped":
        confusion[n_classes] = 0
    used = int((counts.sum(axis=(0, 2)) > 0).sum())
    return _scores(confusion, np.full(n_clusters, UNMATCHED, dtype=np.int64), used, absent_classes)


def _scores(
    confusion: np.ndarray, class_of_cluster: np.ndarray, clusters_used: int, absent_classes: AbsentClasses
) -> Scores:
    """Score what `confusion_matrix` returns."""
    n_classes = confusion.shape[1]
    true_positive = np.diag(confusion[:n_classes]).astype(np.float64)
    predicted = confusion[:n_classes].sum(axis=1).astype(np.float64)
    true = confusion.sum(axis=0).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        iou = true_positive / (predicted + true - true_positive)
        precision = true_positive / predicted
        recall = true_positive / true
    counted = int(confusion.sum())
    per_class = np.nan_to_num(iou) if absent_classes == "zero" else iou[~np.isnan(iou)]
    return Scores(
        accuracy=float(true_positive.sum() / counted) if counted else float("nan"),
        miou=float(per_class.mean()) if per_class.size else float("nan"),
        iou=iou,
        precision=precision,
        recall=recall,
        class_of_cluster=class_of_cluster,
        pixels=counted,
        clusters_used=clusters_used,
        classes_present=int((true > 0).sum()),
    )


def score_under(
    counts: np.ndarray, protocol: Protocol, class_of_cluster: Sequence[int] | np.ndarray | None = None
) -> Scores:
    """Score counts by the rules that a protocol states.

    Args:
        counts: integer (K, C) or (N, K, C). Where the protocol matches on the training split and no
            `class_of_cluster` is given, (…, C + 1, C) as `uss_bench.results.arrays.as_classes` returns them.
        class_of_cluster: what matching on the training split gave.

    Raises:
        ValueError: where the protocol matches on the training split, for counts of clusters alone.
    """
    extra = protocol.extra_clusters
    if protocol.match_on == "test":
        class_of_cluster = None
    elif class_of_cluster is None:
        class_of_cluster, extra = matched_rows(counts, protocol), "strict"
    return score(
        counts,
        matching=protocol.matching,
        extra_clusters=extra,
        absent_classes=protocol.absent_classes,
        class_of_cluster=class_of_cluster,
    )


def matched_rows(counts: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Return the class of each row of counts that `as_classes` returned: int64 (C + 1,).

    Raises:
        ValueError: for other counts: under this protocol they do not say which class a cluster is.
    """
    n_rows, n_classes = counts.shape[-2:]
    if n_rows != n_classes + 1:
        raise ValueError(f"under {protocol.id} counts of clusters do not say which class a cluster is")
    return np.append(np.arange(n_classes), UNMATCHED)


def confusion_matrix(counts: np.ndarray, class_of_cluster: np.ndarray) -> np.ndarray:
    """Return int64 (C + 1, C): pixels by matched class and true class; row C holds unmatched ones."""
    n_classes = counts.shape[1]
    confusion = np.zeros((n_classes + 1, n_classes), dtype=np.int64)
    rows = np.where(class_of_cluster == UNMATCHED, n_classes, class_of_cluster)
    np.add.at(confusion, rows, counts)
    return confusion


def count(prediction: np.ndarray, label: np.ndarray, n_clusters: int, n_classes: int) -> np.ndarray:
    """Count one image: int64 (K, C) from cluster indices and labels of the same shape.

    Pixels whose label is negative (`IGNORE`) are left out.

    Raises:
        ValueError: when shapes differ, or a prediction or label is out of range.
    """
    if prediction.shape != label.shape:
        raise ValueError(f"prediction {prediction.shape} and label {label.shape} differ in shape")
    valid = label >= 0
    clusters = prediction[valid].astype(np.int64)
    classes = label[valid].astype(np.int64)
    if classes.size and classes.max() >= n_classes:
        raise ValueError(f"label {classes.max()} is out of range for {n_classes} classes")
    if clusters.size and (clusters.max() >= n_clusters or clusters.min() < 0):
        wrong = clusters.min() if clusters.min() < 0 else clusters.max()
        raise ValueError(f"prediction {wrong} is out of range for {n_clusters} clusters")
    flat = np.bincount(clusters * n_classes + classes, minlength=n_clusters * n_classes)
    return flat.reshape(n_clusters, n_classes).astype(np.int64, copy=False)


def score_row(scores: Scores) -> ScoreRow:
    """Write scores in percent, rounded to what a pixel count can mean, NaN as None."""

    def percent(value: float) -> float | None:
        return None if math.isnan(value) else round(100 * float(value), 4)

    return ScoreRow(
        accuracy=percent(scores.accuracy),
        miou=percent(scores.miou),
        iou=[percent(value) for value in scores.iou],
        precision=[percent(value) for value in scores.precision],
        recall=[percent(value) for value in scores.recall],
        class_of_cluster=scores.class_of_cluster.tolist(),
        clusters_used=scores.clusters_used,
        pixels=scores.pixels,
    )
