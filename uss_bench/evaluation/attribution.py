"""Where the errors are: which class is taken for which, split over clusters, or never matched.

Everything here is a pure function of ``counts[n, k, c]``, the pixels that a method put in cluster k
of image n and the ground truth in class c, as in `uss_bench.evaluation.scoring`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from uss_bench.evaluation.scoring import confusion_matrix, per_image_oracle, score, score_under
from uss_bench.protocol import Matching, Protocol

Fate = Literal["own", "absorbed", "lost", "absent"]
"""What became of a class: its own cluster holds most of it, another class's cluster holds more of it,
no pixel of it was counted as itself, or the ground truth has none."""

HOLDING_FRACTION = 0.9
"""Share of a class's pixels for `ClassErrors.clusters_holding`."""


@dataclass(frozen=True, slots=True)
class ClassErrors:
    """What became of each class. Shares in 0..1; NaN in the rows of classes without true pixels."""

    share: np.ndarray
    """float64 (C,): of all counted pixels, those of the class."""
    iou: np.ndarray
    """float64 (C,): NaN where the union is empty."""
    precision: np.ndarray
    """float64 (C,): NaN where nothing is counted as the class."""
    counted_as: np.ndarray
    """float64 (C, C + 1): of the row's true pixels, those counted as each class; the last column holds
    those in clusters that no class was matched to. The diagonal is the recall."""
    clusters_holding: np.ndarray
    """int64 (C,): fewest clusters with `HOLDING_FRACTION` of the class's pixels; 0 without pixels."""
    effective_clusters: np.ndarray
    """float64 (C,): exp of the entropy of the class's pixels over clusters; 1 when one holds them all."""

    @property
    def recall(self) -> np.ndarray:
        """float64 (C,)."""
        return np.diagonal(self.counted_as)

    def fates(self) -> list[Fate]:
        """Return what became of each class."""
        return [fate_of(row, index) for index, row in enumerate(self.counted_as)]


def class_errors(counts: np.ndarray, protocol: Protocol) -> ClassErrors:
    """Attribute the errors of a whole set to classes, under the protocol's rules.

    Args:
        counts: integer (N, K, C), or (K, C).
    """
    total = counts.sum(axis=0, dtype=np.int64) if counts.ndim == 3 else counts.astype(np.int64)
    scores = score_under(total, protocol)
    if protocol.extra_clusters == "drop" and protocol.match_on == "test":
        total = total[: total.shape[1]]
    true = total.sum(axis=0)
    confusion = confusion_matrix(total, scores.class_of_cluster[: len(total)])
    with np.errstate(divide="ignore", invalid="ignore"):
        return ClassErrors(
            share=true / true.sum(),
            iou=scores.iou,
            precision=scores.precision,
            counted_as=(confusion / true).T,
            clusters_holding=clusters_holding(total, HOLDING_FRACTION),
            effective_clusters=effective_clusters(total),
        )


def fate_of(counted_as: np.ndarray, index: int) -> Fate:
    """Return what became of class `index`, whose row of `ClassErrors.counted_as` is given."""
    if np.isnan(counted_as).any():
        return "absent"
    if counted_as[index] == 0:
        return "lost"
    others = np.delete(counted_as[:-1], index)
    return "absorbed" if others.size and others.max() > counted_as[index] else "own"


def clusters_holding(counts: np.ndarray, share: float) -> np.ndarray:
    """Return the fewest clusters that together hold `share` of each class's pixels, int64 (C,).

    Args:
        counts: integer (K, C).
        share: in 0..1, above 0.
    """
    largest_first = -np.sort(-counts.astype(np.int64), axis=0)
    held = largest_first.cumsum(axis=0)
    # A share of a pixel count is compared with room for its rounding: 0.9 × 10 is 9, not a bit more.
    wanted = share * held[-1] * (1 - 1e-12)
    needed: np.ndarray = 1 + (held < wanted).sum(axis=0)
    return np.where(held[-1] > 0, needed, 0)


def effective_clusters(counts: np.ndarray) -> np.ndarray:
    """Return exp of the Shannon entropy of each class's pixels over clusters, float64 (C,).

    n clusters with equal shares give n. NaN for a class without pixels.

    Args:
        counts: integer (K, C).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = counts / counts.sum(axis=0)
        terms = np.where(shares > 0, shares * np.log(shares), shares)
    effective: np.ndarray = np.exp(-terms.sum(axis=0))
    return effective


@dataclass(frozen=True, slots=True)
class MatchingScore:
    """The scores of one set under one way of matching. Fractions in 0..1."""

    name: str
    accuracy: float
    miou: float


def scores_by_matching(counts: np.ndarray, protocol: Protocol) -> list[MatchingScore]:
    """Score the same counts under matchings of growing freedom, each by the protocol's other rules.

    The last are the `per_image_oracle`, whose accuracy no one-to-one matching exceeds; where K > C also
    without the pixels of an image's unmatched clusters.

    Args:
        counts: integer (N, K, C).
    """
    absent = protocol.absent_classes
    matchings: dict[str, Matching] = {"Hungarian": "hungarian", "many-to-one": "many-to-one"}
    found = {
        name: score(counts, matching=one, extra_clusters=protocol.extra_clusters, absent_classes=absent)
        for name, one in matchings.items()
    }
    found["per-image oracle"] = per_image_oracle(counts, absent_classes=absent)
    if counts.shape[1] > counts.shape[2]:
        dropped = per_image_oracle(counts, unmatched="dropped", absent_classes=absent)
        found["per-image oracle, unmatched dropped"] = dropped
    return [MatchingScore(name, one.accuracy, one.miou) for name, one in found.items()]


def matching_stability(
    counts: np.ndarray, protocol: Protocol, *, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """Return in which share of bootstrap resamples each class keeps its cluster, float64 (C,) in 0..1.

    Images are drawn with replacement and matched anew. A class keeps its cluster when the same clusters
    count as it as in the whole set; empty clusters, whose class is arbitrary, are left aside, and so are
    resamples in which the class does not occur. NaN for a class with no correct pixel: it has no
    cluster to keep.

    Args:
        counts: integer (N, K, C).
        seed: of the draws; the same seed draws the same images for every method.
    """
    images, n_clusters, n_classes = counts.shape
    whole = counts.sum(axis=0, dtype=np.int64)
    owner = score_under(whole, protocol).class_of_cluster
    hits = np.zeros(n_classes, dtype=np.int64)
    matched = owner >= 0
    np.add.at(hits, owner[matched], whole[matched, owner[matched]])
    used = whole.sum(axis=1) > 0

    classes = np.arange(n_classes)
    own = owner[used, None] == classes
    # Sums of integers are exact in float64 below 2**53 pixels, and BLAS multiplies nothing else fast.
    flat = counts.reshape(images, -1).astype(np.float64)
    rng = np.random.default_rng(seed)
    kept = np.zeros(n_classes, dtype=np.int64)
    occurs = np.zeros(n_classes, dtype=np.int64)
    for _ in range(resamples):
        weights = np.bincount(rng.integers(0, images, images), minlength=images)
        drawn = (weights @ flat).reshape(n_clusters, n_classes).astype(np.int64)
        same = ((score_under(drawn, protocol).class_of_cluster[used, None] == classes) == own).all(axis=0)
        present = drawn.any(axis=0)
        kept += same & present
        occurs += present
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(hits > 0, kept / occurs, np.nan)
