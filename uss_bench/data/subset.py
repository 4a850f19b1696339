"""A few images of a split, for quick runs: evenly spaced, so that all of it is represented."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from uss_bench.contracts import Images, Labels
from uss_bench.data.images import channel_fingerprint


class Subset(Images):
    """Some images of a split, in order."""

    def __init__(self, images: Images, indices: Sequence[int]) -> None:
        self._images = images
        self._indices = list(indices)
        self.ids = [images.ids[index] for index in indices]

    def __len__(self) -> int:
        return len(self._indices)

    def image(self, index: int) -> np.ndarray:
        return self._images.image(self._indices[index])

    def aux(self, index: int) -> Mapping[str, np.ndarray]:
        return self._images.aux(self._indices[index])

    def fingerprint(self) -> str:
        return digest(self._images.fingerprint(), *map(str, self._indices))

    def aux_fingerprint(self, channel: str) -> str:
        return channel_fingerprint(self._images, channel)


class SubsetLabels(Labels):
    """Labels of a `Subset`."""

    def __init__(self, labels: Labels, indices: Sequence[int]) -> None:
        self._labels = labels
        self._indices = list(indices)
        self.ids = [labels.ids[index] for index in indices]

    def __len__(self) -> int:
        return len(self._indices)

    def label(self, index: int) -> np.ndarray:
        return self._labels.label(self._indices[index])

    def fingerprint(self) -> str:
        return digest(self._labels.fingerprint(), *map(str, self._indices))


def limited(images: Images, limit: int | None) -> Images:
    """Return at most `limit` images, evenly spaced over the split."""
    return images if limit is None or limit >= len(images) else Subset(images, _spaced(len(images), limit))


def limited_labels(labels: Labels, limit: int | None) -> Labels:
    """Return the labels of the same images as `limited`."""
    if limit is None or limit >= len(labels):
        return labels
    return SubsetLabels(labels, _spaced(len(labels), limit))


def _spaced(total: int, limit: int) -> list[int]:
    return [index * total // limit for index in range(limit)]


def digest(*parts: str) -> str:
    """Return the sha256 of some strings, in hex."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
