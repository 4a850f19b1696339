"""Predictions that were made elsewhere: read, refined where they are scores, and counted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from uss_bench.contracts import Images, Labels
from uss_bench.crf import CrfPool
from uss_bench.data.geometry import TransformedImages, scored_area, scored_label
from uss_bench.data.images import read_label
from uss_bench.data.listing import Names
from uss_bench.errors import DataError
from uss_bench.evaluation.evaluator import map_dtype, panel_indices
from uss_bench.evaluation.predictor import log_probabilities
from uss_bench.evaluation.scoring import count
from uss_bench.files.arrays import read_npy
from uss_bench.protocol import Protocol
from uss_bench.results.record import Refinement
from uss_bench.runtime import progress
from uss_bench.runtime.limits import MOST_CLUSTERS

ScoreKind = Literal["logits", "probabilities"]

_SUMS_TO_ONE = 1e-3
_LEAST_PROBABILITY = 1e-30


@dataclass(frozen=True)
class Counted:
    """Counts of all images and the label maps of some, for predictions before or after the CRF."""

    counts: np.ndarray
    """int64 (N, K, C)."""
    maps: dict[int, np.ndarray]
    """uint8 or uint16 (H, W), by the index of the image."""


class ExternalPredictions:
    """A folder with one file per image of a split: label maps, or score arrays.

    A label map is ``ID.png`` (gray or palette) or an integer ``ID.npy`` (H, W) of cluster indices. A score
    array is a floating-point ``ID.npy`` (K, H, W). A file has the size of its image, and then goes through
    the protocol's geometry, or it already has the size that the protocol scores.

    Args:
        scores: what score arrays hold.
        alpha: temperature of logits, as in log-softmax(alpha × logits).

    Raises:
        DataError: when a file is missing, unreadable, of another size or another kind than the first.
    """

    def __init__(
        self,
        folder: Path,
        images: Images,
        labels: Labels,
        protocol: Protocol,
        *,
        scores: ScoreKind = "logits",
        alpha: float = 2.0,
    ) -> None:
        self.folder = Path(folder)
        self.images = images
        self.labels = labels
        self.protocol = protocol
        self.alpha = alpha
        self._score_kind = scores
        self._items = TransformedImages.for_evaluation(images, protocol)
        self._names: dict[Path, Names] = {}
        self.paths = [self._path(name) for name in images.ids]
        self.are_scores = self._read(0).dtype.kind == "f"

    def digest(self) -> str:
        """Return the sha256 over all files: what stands for the method's code."""
        digest = hashlib.sha256()
        for path in self.paths:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def evaluate(
        self, n_clusters: int | None, n_classes: int, pool: CrfPool | None = None
    ) -> dict[Refinement, Counted]:
        """Count label maps raw, or score arrays raw and, if a pool is given, after the CRF.

        Args:
            n_clusters: K; None for the largest index plus one, or the first axis of score arrays.
        """
        clusters = n_clusters or self.clusters()
        if clusters > MOST_CLUSTERS:
            raise DataError(
                f"{self.folder} holds cluster {clusters - 1}, and a label map has {MOST_CLUSTERS} at most.",
                hint="Are these colors, or class numbers that were meant to be ignored?",
            )
        kept = set(panel_indices(self._items))
        counts: dict[Refinement, list[np.ndarray]] = {"raw": [], "crf": []}
        maps: dict[Refinement, dict[int, np.ndarray]] = {"raw": {}, "crf": {}}

        def note(refinement: Refinement, index: int, prediction: np.ndarray) -> None:
            label = scored_label(self.labels.label(index), self.protocol)
            counts[refinement].append(count(prediction, label, clusters, n_classes))
            if index in kept:
                maps[refinement][index] = prediction.astype(map_dtype(clusters))

        if not self.are_scores:
            for index in self._track("counting"):
                note("raw", index, self._map(index, clusters))
        else:

            def scored() -> Iterator[tuple[np.ndarray, np.ndarray]]:
                for index in self._track("refining" if pool else "counting"):
                    scores = self._scores(index, clusters)
                    note("raw", index, scores.argmax(axis=0))
                    yield self._items.scored(index), scores

            refined = pool.labels(scored(), self.images.ids) if pool else (None for _ in scored())
            for index, prediction in enumerate(refined):
                if prediction is not None:
                    note("crf", index, prediction)
        return {
            refinement: Counted(np.stack(found), maps[refinement])
            for refinement, found in counts.items()
            if found
        }

    def _track(self, label: str) -> Iterator[int]:
        return progress.track(range(len(self.paths)), total=len(self.paths), label=label)

    def clusters(self) -> int:
        """Return the largest index plus one, also of pixels that are cropped away, or K of score arrays."""
        if self.are_scores:
            return len(self._read(0))
        return 1 + max(int(self._read(index).max()) for index in self._track("reading"))

    def _map(self, index: int, clusters: int | None = None) -> np.ndarray:
        """Return a label map, int64 (H, W), at the size that is scored."""
        path, array = self.paths[index], self._read(index)
        if array.size and (array.min() < 0 or array.max() > np.iinfo(np.int64).max):
            wrong = array.min() if array.min() < 0 else array.max()
            raise DataError(f"{path} holds {wrong}: every pixel needs a cluster, from 0 on.")
        if clusters is not None and array.max() >= clusters:
            raise DataError(f"{path} holds cluster {array.max()}, beyond --clusters {clusters}.")
        array = array.astype(np.int64)
        return array if self._is_scored_size(index, array.shape) else scored_label(array, self.protocol)

    def _scores(self, index: int, clusters: int) -> np.ndarray:
        """Return log-probabilities, float32 (K, H, W), at the size that is scored."""
        path, array = self.paths[index], self._read(index).astype(np.float32)
        if len(array) != clusters:
            raise DataError(f"{path} holds scores of {len(array)} clusters, and {clusters} are expected.")
        if not np.isfinite(array).all():
            raise DataError(f"{path} holds scores that are NaN or infinite.")
        sums = array.sum(axis=0)
        is_distribution = array.min() >= 0 and np.abs(sums - 1).max() <= _SUMS_TO_ONE
        if is_distribution != (self._score_kind == "probabilities"):
            raise DataError(
                f"{path} holds {'probabilities, which sum to 1' if is_distribution else 'no probabilities'}"
                f"{'' if is_distribution else ', since they do not sum to 1'}.",
                hint=f"Give --scores {'probabilities' if is_distribution else 'logits'}.",
            )
        if not self._is_scored_size(index, array.shape[1:]):
            array = np.stack([scored_area(plane, self.protocol, "bilinear") for plane in array])
        if self._score_kind == "probabilities":
            array = np.log(np.maximum(array, _LEAST_PROBABILITY))
        return log_probabilities(torch.from_numpy(array), 1.0 if is_distribution else self.alpha)

    def _is_scored_size(self, index: int, size: tuple[int, ...]) -> bool:
        """Whether a file has the size that the protocol scores; it must have that size or its image's."""
        scored = self.protocol.score_size
        sized = self.protocol.extent != "whole"
        if sized and size == scored:
            return True
        native = self.labels.label(index).shape
        if size != native:
            wanted = (
                f"and the protocol scores {scored[1]}×{scored[0]}. It must have one of these two sizes."
                if sized
                else "and the protocol scores every pixel of it. It must have that size."
            )
            raise DataError(
                f"{self.paths[index]} is {size[1]}×{size[0]}; its image is {native[1]}×{native[0]}, {wanted}"
            )
        return False

    def _read(self, index: int) -> np.ndarray:
        """Return what a file holds: integers (H, W), or floating-point numbers (K, H, W)."""
        path = self.paths[index]
        array = read_npy(path) if path.suffix.lower() == ".npy" else read_label(path)
        is_map = array.ndim == 2 and array.dtype.kind in "iu"
        is_scores = array.ndim == 3 and array.dtype.kind == "f"
        if not (is_map or is_scores):
            raise DataError(
                f"{path} is no prediction: it holds {array.dtype} {array.shape}.",
                hint="A label map has one integer per pixel: a gray or palette PNG, or an integer .npy. A "
                "score array is a floating-point .npy (K, H, W).",
            )
        if index and is_scores != self.are_scores:
            raise DataError(f"{self.folder} holds label maps and score arrays; {path} is unlike the first.")
        return array

    def _path(self, name: str) -> Path:
        folder = (self.folder / name).parent
        names = self._names.setdefault(folder, Names(folder))
        for suffix in (".png", ".npy"):
            path = names.find(f"{name.rpartition('/')[2]}{suffix}")
            if path.is_file():
                return path
        raise DataError(
            f"{self.folder} has no prediction for image '{name}' (neither {name}.png nor {name}.npy).",
            hint="Every image of the test split needs one, named by the image's id.",
        )
