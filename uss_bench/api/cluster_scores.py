"""Scores of clusters against classes, gathered batch by batch inside anybody's own validation loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

import numpy as np

from uss_bench.errors import UsageError
from uss_bench.evaluation.scoring import Scores, UnmatchedClusters, count, per_image_oracle, score
from uss_bench.protocol import AbsentClasses, ExtraClusters, Matching


class ClusterScores:
    """Accuracy and mIoU of label maps whose values are clusters, equal to what a board shows.

    It works as a metric of torchmetrics does: `update` with every batch, `compute` at the end. Clusters are
    matched to classes once, over everything that was counted; only counts are kept.

    Examples:
        >>> scores = uss_bench.ClusterScores(classes=27)
        >>> for images, targets in loader:
        ...     scores.update(model(images), targets)
        >>> print(scores.compute().miou)

    Over several processes each has its own object; join them with `merge_state`, or with `all_reduce` where
    ``torch.distributed`` is set up.

    Args:
        classes: C, the number of classes.
        clusters: K, the number of clusters; None for as many as classes.
        ignore_index: the target of pixels that are not counted. Negative targets never are.
        per_image: keep the counts of each image by itself, which `per_image_oracle` needs.
    """

    def __init__(
        self, classes: int, clusters: int | None = None, *, ignore_index: int = 255, per_image: bool = False
    ) -> None:
        self.classes = classes
        self.clusters = classes if clusters is None else clusters
        if self.classes < 1 or self.clusters < 1:
            raise UsageError("There must be at least one class and one cluster.")
        self.ignore_index = ignore_index
        self.per_image = per_image
        self.reset()

    @property
    def counts(self) -> np.ndarray:
        """Pixels by cluster and class, int64 (K, C)."""
        return self._total.copy()

    def reset(self) -> None:
        """Forget everything that was counted."""
        self._total = np.zeros((self.clusters, self.classes), dtype=np.int64)
        self._images: list[np.ndarray] = []

    def update(self, pred: Any, target: Any) -> None:
        """Count a batch, or a single image.

        Args:
            pred: cluster of every pixel, integer (B, H, W) or (H, W); or scores, floating point (B, K, H, W)
                or (K, H, W), whose greatest counts. NumPy or torch, on any device.
            target: class of every pixel, integer (B, H, W) or (H, W), of the same size.

        Raises:
            UsageError: when shapes do not fit, or a value is out of range. Then nothing is counted.
        """
        prediction, labels = _array(pred), _array(target)
        if prediction.ndim == labels.ndim + 1:
            prediction = self._greatest(prediction)
        if labels.ndim == 2:
            prediction, labels = prediction[None], labels[None]
        if labels.ndim != 3 or prediction.shape != labels.shape:
            raise UsageError(
                f"Predictions {tuple(np.shape(pred))} do not fit targets {tuple(np.shape(target))}.",
                hint="Give (B, H, W) clusters or (B, K, H, W) scores with (B, H, W) targets.",
            )
        for what, array in (("Predictions", prediction), ("Targets", labels)):
            if array.dtype.kind not in "iub":
                raise UsageError(f"{what} must be integers, not {array.dtype}.")
        labels = np.where(labels == self.ignore_index, -1, labels.astype(np.int64))
        try:
            found = [
                count(one, label, self.clusters, self.classes)
                for one, label in zip(prediction, labels, strict=True)
            ]
        except ValueError as error:
            raise UsageError(
                f"These maps cannot be counted: {error}.",
                hint=f"Pixels without a class must be {self.ignore_index} (ignore_index=…) or negative.",
            ) from None
        self._total += sum(found, np.zeros_like(self._total))
        if self.per_image:
            self._images += found

    def compute(
        self,
        matching: Matching = "hungarian",
        *,
        extra_clusters: ExtraClusters = "strict",
        absent_classes: AbsentClasses = "skip-empty-union",
    ) -> Scores:
        """Return the scores, as fractions, of everything that was counted.

        Args:
            matching: ``hungarian`` is one-to-one; ``many-to-one`` gives each cluster its most frequent class.
            extra_clusters: ``strict`` counts the pixels of extra clusters as errors, ``drop`` does not
                count them, ``merge`` gives such a cluster its most frequent class.
            absent_classes: whether a class without a pixel is left out of the mean, or counts as zero.

        Raises:
            UsageError: when nothing was counted, or for a rule that does not exist.
        """
        self._check_counted()
        for name, value, rules in (
            ("matching", matching, Matching),
            ("extra_clusters", extra_clusters, ExtraClusters),
            ("absent_classes", absent_classes, AbsentClasses),
        ):
            if value not in get_args(rules):
                raise UsageError(f"{name} = {value!r} is none of {', '.join(get_args(rules))}.")
        return score(
            self._total, matching=matching, extra_clusters=extra_clusters, absent_classes=absent_classes
        )

    def per_image_oracle(self, *, unmatched: UnmatchedClusters = "errors") -> Scores:
        """Return the scores with the clusters of every image matched by themselves: an upper bound.

        Raises:
            UsageError: when nothing was counted, or not image by image.
        """
        self._check_counted()
        if not self.per_image:
            raise UsageError(
                "The counts of single images were not kept.", hint="ClusterScores(…, per_image=True)"
            )
        return per_image_oracle(np.stack(self._images), unmatched=unmatched)

    def merge_state(self, others: ClusterScores | Iterable[ClusterScores]) -> ClusterScores:
        """Add what others have counted, and return this object.

        Raises:
            UsageError: when one counts other numbers of clusters or classes. Then nothing is added.
        """
        merged = [others] if isinstance(others, ClusterScores) else list(others)
        for other in merged:
            if other._settings() != self._settings():
                raise UsageError(f"Counts of {other} and of {self} cannot be added.")
        for other in merged:
            self._total = self._total + other._total
            self._images = [*self._images, *other._images]
        return self

    def all_reduce(self) -> ClusterScores:
        """Add the counts of all processes of ``torch.distributed``, in each of them; return this object."""
        import torch.distributed as processes

        gathered: list[Any] = [None] * processes.get_world_size()
        processes.all_gather_object(gathered, self.state_dict())
        merged = ClusterScores(self.classes, self.clusters, **self._options())
        for state in gathered:
            other = ClusterScores(self.classes, self.clusters, **self._options())
            other.load_state_dict(state)
            merged.merge_state(other)
        self._total, self._images = merged._total, merged._images
        return self

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return what was counted: ``counts``, int64 (K, C), or (N, K, C) when images are kept apart."""
        if not self.per_image:
            return {"counts": self.counts}
        shape = (0, self.clusters, self.classes)
        return {"counts": np.stack(self._images) if self._images else np.zeros(shape, np.int64)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        counts = _array(state["counts"]).astype(np.int64)
        wanted = (self.clusters, self.classes)
        if counts.shape[-2:] != wanted or counts.ndim != (3 if self.per_image else 2):
            raise UsageError(f"A state of shape {counts.shape} is not one of {self}.")
        self._images = list(counts) if self.per_image else []
        self._total = counts.sum(axis=0) if self.per_image else counts

    def __repr__(self) -> str:
        return f"ClusterScores(classes={self.classes}, clusters={self.clusters})"

    def _greatest(self, scores: np.ndarray) -> np.ndarray:
        if scores.shape[-3] != self.clusters or scores.dtype.kind != "f":
            raise UsageError(
                f"Scores must be floating point with {self.clusters} channels, not {scores.dtype} with "
                f"{scores.shape[-3]}.",
                hint="Put clusters first: (B, K, H, W). The number of clusters is ClusterScores(clusters=…).",
            )
        if not np.isfinite(scores).all():
            raise UsageError("Scores hold NaN or infinite values.")
        greatest: np.ndarray = scores.argmax(axis=-3)
        return greatest

    def _check_counted(self) -> None:
        if not self._total.any():
            raise UsageError("No pixel was counted yet: all targets are ignored, or there was no update.")

    def _options(self) -> dict[str, Any]:
        return {"ignore_index": self.ignore_index, "per_image": self.per_image}

    def _settings(self) -> tuple[Any, ...]:
        return self.classes, self.clusters, self.per_image


def _array(values: Any) -> np.ndarray:
    """Return an array of NumPy, without importing torch for it."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
