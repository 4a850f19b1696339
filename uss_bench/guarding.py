"""A dataset's images and labels, held against the contract as they are read.

A plugin's mistake would otherwise show far from where it was made: a float image as noise in every
feature, a label map of another type as a wrong count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from uss_bench.contracts import Images, Labels
from uss_bench.errors import ContractError, DataError, blame


class Sizes:
    """Height and width of every image that was read, or of its label map: the two must agree."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, int]] = {}

    def check(self, index: int, name: str, array: np.ndarray) -> None:
        """Raise `DataError` when the other one had another size."""
        size = (array.shape[0], array.shape[1])
        other = self._seen.setdefault(index, size)
        if other != size:
            raise DataError(
                f"Image '{name}' and its label map differ in size: one is {size[1]}×{size[0]} pixels, "
                f"the other {other[1]}×{other[0]} (width × height).",
                hint="'uss-bench verify' checks all files of a dataset.",
            )


class GuardedImages(Images):
    """Images of a split, checked.

    Args:
        who: says whose images they are, as "Dataset 'toy3'".
        sizes: shared with the labels of the same split.

    Raises:
        ContractError: when ids are missing, double or lead elsewhere; later, when an image is not
            uint8 (H, W, 3), or the plugin raises or exits.
    """

    def __init__(self, images: Images, who: str, sizes: Sizes | None = None) -> None:
        self._images = images
        self._who = who
        self._sizes = sizes or Sizes()
        with blame(who, "listing its images"):
            self.ids: Sequence[str] = images.ids
            self._count = len(images)
            check_ids(self.ids, self._count, who)

    def __len__(self) -> int:
        return self._count

    def image(self, index: int) -> np.ndarray:
        with blame(self._who, f"reading image '{self.ids[index]}'"):
            image = self._images.image(index)
        if not _is_array(image, "u", 3) or image.dtype != np.uint8 or image.shape[2] != 3:
            raise ContractError(
                f"{self._who} gave image '{self.ids[index]}' as {_shown(image)}; images are uint8 (H, W, 3)."
            )
        self._sizes.check(index, self.ids[index], image)
        return image

    def aux(self, index: int) -> Mapping[str, np.ndarray]:
        with blame(self._who, f"reading what belongs to image '{self.ids[index]}'"):
            return self._images.aux(index)

    def fingerprint(self) -> str:
        with blame(self._who, "taking the fingerprint of its images"):
            return self._images.fingerprint()


class GuardedLabels(Labels):
    """Label maps of a split, checked like `GuardedImages`: integers (H, W).

    Which integers may stand there is for whoever counts them to say.
    """

    def __init__(self, labels: Labels, who: str, sizes: Sizes) -> None:
        self._labels = labels
        self._who = who
        self._sizes = sizes
        with blame(who, "listing its labels"):
            self.ids: Sequence[str] = labels.ids
            self._count = len(labels)
            check_ids(self.ids, self._count, who)

    def __len__(self) -> int:
        return self._count

    def label(self, index: int) -> np.ndarray:
        with blame(self._who, f"reading the label map of '{self.ids[index]}'"):
            label = self._labels.label(index)
        if not _is_array(label, "iu", 2):
            raise ContractError(
                f"{self._who} gave the label map of '{self.ids[index]}' as {_shown(label)}; "
                "label maps are integers (H, W)."
            )
        self._sizes.check(index, self.ids[index], label)
        return label

    def fingerprint(self) -> str:
        with blame(self._who, "taking the fingerprint of its labels"):
            return self._labels.fingerprint()


def check_ids(ids: Sequence[str], count: int, who: str) -> None:
    """Raise `ContractError` unless there are `count` different ids that name files within a folder."""
    if len(ids) != count or len(set(ids)) != count:
        raise ContractError(f"{who} has {count} images and {len(set(ids))} different ids for them.")
    for name in ids:
        path = PurePosixPath(name)
        if not name or path.is_absolute() or ".." in path.parts or "\0" in name:
            raise ContractError(
                f"{who} calls an image '{name}', which would lead out of the folder that results lie in."
            )


def _is_array(value: Any, kinds: str, dimensions: int) -> bool:
    """Whether a value is a filled array of one of these kinds of number and of this many dimensions."""
    is_array = isinstance(value, np.ndarray) and value.size > 0
    return is_array and value.dtype.kind in kinds and value.ndim == dimensions


def _shown(value: Any) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
