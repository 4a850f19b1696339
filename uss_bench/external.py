"""Label maps that were made elsewhere: read, counted and recorded without any of their code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from uss_bench import progress
from uss_bench.arrays import read_npy
from uss_bench.contracts import Images, Labels
from uss_bench.errors import DataError
from uss_bench.evaluation import panel_indices
from uss_bench.geometry import Items, scored_label
from uss_bench.images import read_label
from uss_bench.protocol import Protocol
from uss_bench.scoring import count

_MOST_CLUSTERS = 1 << 16
"""What the maps of a record can hold."""


class PredictedMaps:
    """A folder with one label map per image of a split: ``ID.png`` (grey or palette) or ``ID.npy``.

    A map has the size of its image, and then goes through the protocol's geometry as the ground truth
    does, or it already has the size of the protocol's square, where it scores squares.

    Raises:
        DataError: when a map is missing, unreadable, or of another size.
    """

    def __init__(self, folder: Path, images: Images, labels: Labels, protocol: Protocol) -> None:
        self.folder = Path(folder)
        self.images = images
        self.labels = labels
        self.protocol = protocol
        self.kept: dict[int, np.ndarray] = {}
        self.paths = [self._path(name) for name in images.ids]

    def digest(self) -> str:
        """Return the sha256 over all maps: what stands for the method's code."""
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def count(self, n_clusters: int | None, n_classes: int) -> np.ndarray:
        """Return int64 (N, K, C); K is the largest index plus one unless `n_clusters` says it."""
        kept = set(panel_indices(Items.for_evaluation(self.images, self.protocol)))
        clusters = n_clusters or 1 + max(int(one.max()) for one in self._maps("reading"))
        if clusters > _MOST_CLUSTERS:
            raise DataError(
                f"{self.folder} holds cluster {clusters - 1}, and a label map has {_MOST_CLUSTERS} at most.",
                hint="Are these colours, or class numbers that were meant to be ignored?",
            )
        counts = []
        for index, prediction in enumerate(self._maps("counting")):
            label = scored_label(self.labels.label(index), self.protocol)
            if prediction.max() >= clusters:
                raise DataError(
                    f"{self.paths[index]} holds cluster {prediction.max()}, beyond --clusters {clusters}."
                )
            counts.append(count(prediction, label, clusters, n_classes))
            if index in kept:
                self.kept[index] = prediction.astype(np.uint8 if clusters <= 256 else np.uint16)
        return np.stack(counts)

    def _maps(self, label: str) -> Iterator[np.ndarray]:
        for index in progress.track(range(len(self.paths)), total=len(self.paths), label=label):
            yield self._map(index)

    def _map(self, index: int) -> np.ndarray:
        path = self.paths[index]
        array = _read_npy(path) if path.suffix == ".npy" else read_label(path)
        if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
            raise DataError(
                f"{path} is no label map: it holds {array.dtype} {array.shape}.",
                hint="A label map has one integer per pixel: a grey or palette PNG, or an integer .npy.",
            )
        if array.size and (array.min() < 0 or array.max() > np.iinfo(np.int64).max):
            wrong = array.min() if array.min() < 0 else array.max()
            raise DataError(f"{path} holds {wrong}: every pixel needs a cluster, from 0 on.")
        side = self.protocol.eval_side
        squares = self.protocol.extent == "square"
        if squares and array.shape == (side, side):
            return array.astype(np.int64)
        native = self.labels.label(index).shape
        if array.shape != native:
            wanted = (
                f"and the protocol works at {side}×{side}. It must have one of these two sizes."
                if squares
                else "and the protocol scores every pixel of it. It must have that size."
            )
            raise DataError(
                f"{path} is {array.shape[1]}×{array.shape[0]}; its image is {native[1]}×{native[0]}, {wanted}"
            )
        return scored_label(array.astype(np.int64), self.protocol)

    def _path(self, name: str) -> Path:
        for suffix in (".png", ".npy"):
            if (self.folder / f"{name}{suffix}").is_file():
                return self.folder / f"{name}{suffix}"
        raise DataError(
            f"{self.folder} has no label map for image '{name}' (neither {name}.png nor {name}.npy).",
            hint="Every image of the test split needs one, named by the image's id.",
        )


def _read_npy(path: Path) -> np.ndarray:
    try:
        return read_npy(path)
    except ValueError as error:
        raise DataError(f"{path} cannot be read as an array: {error}.") from None
