"""Counts per image of many clusters, without the pairs of cluster and class that never meet in an image.

With K = 500, 150 classes and 2,000 images a dense array takes 1.2 GB, and an image holds a few hundred of its
75,000 pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

_MOST_PIXELS = np.iinfo(np.uint32).max


@dataclass(frozen=True, slots=True)
class SparseCounts:
    """Pixels by image, cluster and class: 8 bytes for each pair that an image has, and 8 for each image."""

    shape: tuple[int, int, int]
    """(N, K, C)."""
    start: np.ndarray
    """int64 (N + 1,): where the pairs of each image start."""
    pair: np.ndarray
    """uint32 (M,): cluster × C + class, ascending within an image."""
    pixels: np.ndarray
    """uint32 (M,), none of them zero."""

    @classmethod
    def of(cls, images: Iterable[np.ndarray]) -> SparseCounts:
        """Take the counts of each image, integer (K, C); see `SparseBuilder`."""
        builder = SparseBuilder()
        for counts in images:
            builder.add(counts)
        return builder.counts()

    def sum(self) -> np.ndarray:
        """Return the counts of all images, int64 (K, C)."""
        total = np.zeros(math.prod(self.shape[1:]), dtype=np.int64)
        np.add.at(total, self.pair, self.pixels)
        return total.reshape(self.shape[1:])

    def image(self, index: int) -> np.ndarray:
        """Return the counts of one image, int64 (K, C)."""
        found = np.zeros(math.prod(self.shape[1:]), dtype=np.int64)
        where = slice(self.start[index], self.start[index + 1])
        found[self.pair[where]] = self.pixels[where]
        return found.reshape(self.shape[1:])

    def matrix(self) -> csr_array:
        """Return float64 (N, K · C), in which sums below 2⁵³ pixels are exact."""
        images, clusters, classes = self.shape
        values = self.pixels.astype(np.float64)
        return csr_array((values, self.pair.astype(np.int64), self.start), shape=(images, clusters * classes))

    def images_with_class(self) -> np.ndarray:
        """Return how many images have pixels of each class, int64 (C,)."""
        images, _, classes = self.shape
        image = np.repeat(np.arange(images), np.diff(self.start))
        met = np.unique(image * classes + self.pair % classes)
        return np.bincount(met % classes, minlength=classes)

    def merged(self, rows: np.ndarray, clusters: int, columns: np.ndarray, classes: int) -> SparseCounts:
        """Return counts whose clusters and classes are added up by tables.

        Args:
            rows: int64 (K,), where each cluster goes, below `clusters`.
            columns: int64 (C,), where each class goes, below `classes`, or -1: its pixels are left out.
        """
        images, _, before = self.shape
        cluster, of_class = np.divmod(self.pair.astype(np.int64), before)
        image = np.repeat(np.arange(images), np.diff(self.start))
        kept = columns[of_class] >= 0
        pair = rows[cluster[kept]] * classes + columns[of_class[kept]]
        place, inverse = np.unique(image[kept] * (clusters * classes) + pair, return_inverse=True)
        pixels = np.bincount(inverse, weights=self.pixels[kept], minlength=len(place))  # exact: below 2⁵³
        owner, pair = np.divmod(place, clusters * classes)
        start = np.searchsorted(owner, np.arange(images + 1))
        return SparseCounts(
            (images, clusters, classes), start, pair.astype(np.uint32), pixels.astype(np.uint32)
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what `from_arrays` takes, for an npz."""
        return {"shape": np.array(self.shape), "start": self.start, "pair": self.pair, "pixels": self.pixels}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> SparseCounts:
        """Return the counts that `arrays` gave.

        Raises:
            ValueError: when they are no such counts.
        """
        found = {name: np.asarray(arrays[name]) for name in ("shape", "start", "pair", "pixels")}
        shape, start, pair = tuple(map(int, found["shape"])), found["start"], found["pair"]
        whole = all(one.ndim == 1 and np.issubdtype(one.dtype, np.integer) for one in found.values())
        if not (
            whole
            and len(shape) == 3
            and min(shape) > 0
            and len(start) == shape[0] + 1
            and (start[0], start[-1]) == (0, len(pair))
            and (np.diff(start) >= 0).all()
            and len(pair) == len(found["pixels"])
            and pair.max(initial=0) < shape[1] * shape[2]
        ):
            raise ValueError("they are no counts")
        return cls(shape, start.astype(np.int64), pair.astype(np.uint32), found["pixels"].astype(np.uint32))


class SparseBuilder:
    """Takes counts image by image, so that one dense matrix exists at a time."""

    def __init__(self) -> None:
        self._shapes = set[tuple[int, ...]]()
        self._pairs: list[np.ndarray] = []
        self._pixels: list[np.ndarray] = []

    def add(self, counts: np.ndarray) -> None:
        """Take the counts of the next image, integer (K, C).

        Raises:
            ValueError: when a pair has 2³² pixels.
        """
        flat = counts.ravel()
        met = np.flatnonzero(flat)
        if flat.max(initial=0) > _MOST_PIXELS:
            raise ValueError("an image has too many pixels to count")
        self._shapes.add(counts.shape)
        self._pairs.append(met.astype(np.uint32))
        self._pixels.append(flat[met].astype(np.uint32))

    def counts(self) -> SparseCounts:
        """Return the counts of all images so far.

        Raises:
            ValueError: when there is none, or they differ in shape.
        """
        if len(self._shapes) != 1:
            raise ValueError(f"one or more images of one shape are needed, not {sorted(self._shapes)}")
        ((clusters, classes),) = self._shapes
        start = np.cumsum([0, *map(len, self._pairs)])
        shape = (len(self._pairs), clusters, classes)
        return SparseCounts(shape, start, np.concatenate(self._pairs), np.concatenate(self._pixels))
