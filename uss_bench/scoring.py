"""From counts to scores: matching clusters to classes, and what follows from it.

Everything here is a pure function of ``counts[k, c]``, the pixels that a method put in cluster k and
the ground truth in class c. No inference is run again to score under another rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import linear_sum_assignment

from uss_bench.protocol import Protocol
from uss_bench.records import UNMATCHED

ExtraClusters = Literal["strict", "drop", "merge"]
Matching = Literal["hungarian", "many-to-one", "identity"]
AbsentClasses = Literal["skip-empty-union", "zero"]


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

    ``hungarian`` is one-to-one and maximises the correct pixels (scipy's linear_sum_assignment);
    ``many-to-one`` gives every cluster its most frequent class; ``identity`` is for predictions that
    are classes already.

    Args:
        counts: integer (K, C).
    """
    classes = np.full(counts.shape[0], UNMATCHED, dtype=np.int64)
    if matching == "identity":
        shared = min(counts.shape)
        classes[:shared] = np.arange(shared)
        return classes
    if matching == "many-to-one":
        used = counts.sum(axis=1) > 0
        classes[used] = counts[used].argmax(axis=1)
        return classes
    clusters, assigned = linear_sum_assignment(counts, maximize=True)
    classes[clusters] = assigned
    return classes


def score(
    counts: np.ndarray,
    *,
    matching: Matching = "hungarian",
    extra_clusters: ExtraClusters = "strict",
    absent_classes: AbsentClasses = "skip-empty-union",
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

    class_of_cluster = match(counts[:n_classes] if extra_clusters == "drop" else counts, matching)
    if extra_clusters == "drop":
        padding = np.full(n_clusters - len(class_of_cluster), UNMATCHED, dtype=np.int64)
        class_of_cluster = np.concatenate([class_of_cluster, padding])
    elif extra_clusters == "merge":
        left_over = (class_of_cluster == UNMATCHED) & (counts.sum(axis=1) > 0)
        class_of_cluster[left_over] = counts[left_over].argmax(axis=1)

    confusion = confusion_matrix(counts, class_of_cluster)
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
        clusters_used=int((counts.sum(axis=1) > 0).sum()),
        classes_present=int((true > 0).sum()),
    )


def score_under(counts: np.ndarray, protocol: Protocol) -> Scores:
    """Score counts by the rules that a protocol states."""
    return score(
        counts,
        matching=protocol.matching,
        extra_clusters=protocol.extra_clusters,
        absent_classes=protocol.absent_classes,
    )


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
