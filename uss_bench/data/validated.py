"""A dataset's images and labels, held against the contract as they are read.

A plugin's mistake would otherwise show far from where it was made: a float image as noise in every
feature, a label map of another type as a wrong count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from uss_bench.contracts import IGNORE, Images, Labels
from uss_bench.data.images import channel_fingerprint
from uss_bench.errors import ContractError, DataError, blame
from uss_bench.runtime.opened_files import harness_reads


def validated(
    images: Images, labels: Labels | None, who: str, n_classes: int
) -> tuple[ValidatedImages, ValidatedLabels | None]:
    """Return images and labels of one split, checked as they are read, and against each other.

    Args:
        who: says whose they are, as "Dataset 'toy3'".

    Raises:
        ContractError: when ids are missing, double or lead elsewhere, or labels have other ids than images.
    """
    sizes = _Sizes(images)
    checked = ValidatedImages(images, who, sizes)
    if labels is None:
        return checked, None
    checked_labels = ValidatedLabels(labels, who, sizes, n_classes)
    if list(checked.ids) != list(checked_labels.ids):
        raise ContractError(f"{who} has labels with other ids, or in another order, than its images.")
    return checked, checked_labels


class _Validated:
    """One side of a split, images or labels, whose ids are checked.

    Args:
        what: the side, as a plural.
        sizes: shared by the two sides.

    Raises:
        ContractError: when ids are missing, double or lead elsewhere, or the plugin raises or exits.
    """

    def __init__(self, side: Images | Labels, who: str, what: str, sizes: _Sizes) -> None:
        self._side = side
        self._who = who
        self._what = what
        self._sizes = sizes
        with blame(who, f"listing its {what}"):
            self.ids: Sequence[str] = side.ids
            self._count = len(side)
            check_ids(self.ids, self._count, who)

    def __len__(self) -> int:
        return self._count

    def fingerprint(self) -> str:
        with blame(self._who, f"taking the fingerprint of its {self._what}"):
            return self._side.fingerprint()


class ValidatedImages(_Validated, Images):
    """Images of a split, checked.

    Raises:
        ContractError: when an image is not uint8 (H, W, 3), or the plugin raises or exits.
    """

    def __init__(self, images: Images, who: str, sizes: _Sizes) -> None:
        super().__init__(images, who, "images", sizes)
        self._images = images
        self.remarks: Sequence[str] = getattr(images, "remarks", ())
        """What a reader of results should know of the split's files, in sentences."""

    def image(self, index: int) -> np.ndarray:
        with harness_reads(), blame(self._who, f"reading image '{self.ids[index]}'"):
            image = self._images.image(index)
        if not _is_array(image, "u", 3) or image.dtype != np.uint8 or image.shape[2] != 3:
            raise ContractError(
                f"{self._who} gave image '{self.ids[index]}' as {_shown(image)}; images are uint8 (H, W, 3)."
            )
        self._sizes.check(index, self.ids[index], image=image)
        return image

    def aux(self, index: int) -> Mapping[str, np.ndarray]:
        with harness_reads(), blame(self._who, f"reading the further channels of image '{self.ids[index]}'"):
            return self._images.aux(index)

    def aux_fingerprint(self, channel: str) -> str:
        with blame(self._who, "taking the fingerprint of its extra channels"):
            return channel_fingerprint(self._images, channel)


class ValidatedLabels(_Validated, Labels):
    """Label maps of a split, checked: integers (H, W), of their images' sizes, -1 to `n_classes` - 1."""

    def __init__(self, labels: Labels, who: str, sizes: _Sizes, n_classes: int) -> None:
        super().__init__(labels, who, "labels", sizes)
        self._labels = labels
        self._classes = n_classes

    def label(self, index: int) -> np.ndarray:
        name = self.ids[index]
        with blame(self._who, f"reading the label map of '{name}'"):
            label = self._labels.label(index)
        if not _is_array(label, "iu", 2):
            raise ContractError(
                f"{self._who} gave the label map of '{name}' as {_shown(label)}; it must be integers (H, W)."
            )
        self._sizes.check(index, name, label=label)
        lowest, highest = int(label.min()), int(label.max())
        if highest >= self._classes or lowest < IGNORE:
            raise DataError(
                f"The label map of '{name}' holds {lowest if lowest < IGNORE else highest}; classes are 0 to "
                f"{self._classes - 1}, and {IGNORE} is ignored."
            )
        return label


class _Sizes:
    """Height and width of every image of a split that was read, or of its label map: the two must agree.

    Args:
        images: of the split. Where they offer ``size(index)``, which reads a header, a label is checked
            before its image was read; with ``path`` and ``orientation`` messages name the file and its tag.
    """

    def __init__(self, images: Images) -> None:
        self._seen: dict[int, tuple[int, ...]] = {}
        self._header: Callable[[int], tuple[int, int]] | None = getattr(images, "size", None)
        self._path: Callable[[int], Path] | None = getattr(images, "path", None)
        self._orientation: Callable[[int], int] = getattr(images, "orientation", lambda index: 1)

    def check(
        self, index: int, name: str, *, image: np.ndarray | None = None, label: np.ndarray | None = None
    ) -> None:
        """Raise `DataError` when the image or the label map has another size than the other of the two."""
        given = image if image is not None else label
        assert given is not None
        size = given.shape[:2]
        if label is not None and index not in self._seen and self._header is not None:
            self._seen[index] = self._header(index)
        other = self._seen.setdefault(index, size)
        if other == size:
            return
        of_image, of_label = (other, size) if image is None else (size, other)
        hint = "One of them was resized or belongs to another image; nothing is resized here."
        if of_image == of_label[::-1] and (tag := self._orientation(index)) != 1:
            hint = (
                f"The image's orientation tag is {tag}: viewers turn it, and it is read as stored. If the "
                "labels were drawn over the turned image, turn its pixels and remove the tag (ImageMagick: "
                "-auto-orient)."
            )
        shown = self._path(index) if self._path else f"'{name}'"
        raise DataError(
            f"Image {shown} is {of_image[1]}×{of_image[0]} pixels, and its label map "
            f"{of_label[1]}×{of_label[0]} (width × height).",
            hint=hint,
        )


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
