"""The archive that IIC distributes: ``imgs/NAME.mat``, ``gt/NAME.mat`` and lists of names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from uss_bench.data import FileImages, FileLabels, ValueTable, read_bytes
from uss_bench.errors import DataError

from .matfile import read_array

SIDE = 200
INFRARED = "infrared"
VALUES_HINT = "Label values are 0 to 5 (roads, buildings, low vegetation, trees, cars, clutter) and 255."

LISTS = {
    "train": ("labelled_train", 4545),
    "test": ("labelled_test", 855),
    "unlabeled": ("unlabelled_train", 3150),
    "all": ("all", 8550),
    "iic-labeled": ("", 5400),
}
"""List and published number of patches of every split."""
PARTS = {"all": ("train", "test", "unlabeled"), "iic-labeled": ("train", "test")}
"""What a split without a list of its own is made of."""

_ENOUGH = 20
"""Labels among which there must be roads."""
_FEW = 0.02
_NAME = re.compile(r"[A-Za-z0-9_]+")


def read_names(path: Path) -> list[str]:
    """Return the names that a list file holds, one per line, in its order.

    Raises:
        DataError: when it is missing or empty, or a line is no plain name or comes twice.
    """
    try:
        lines = path.read_text(encoding="ascii").split()
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist.", hint="The lists come with the archive; 'uss-bench prepare' gets it."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        # A name becomes part of a path, so that nothing else than a plain one may pass.
        if not _NAME.fullmatch(line) or line in seen:
            why = "comes twice" if line in seen else "is not the name of a patch"
            raise DataError(f"{path}: '{line}' ({number}) {why}.", hint="Extract the archive again.")
        seen.add(line)
    if not lines:
        raise DataError(f"{path} is empty.", hint="Extract the archive again.")
    return lines


def read_patch(path: Path, content: bytes) -> np.ndarray:
    """Return a patch, uint8 (200, 200, 4): red, green, blue and infrared.

    Raises:
        DataError: when the file is broken or holds anything else.
    """
    array = read_array(path, "img", content)
    if array.dtype != np.uint8 or array.shape != (SIDE, SIDE, 4):
        raise DataError(
            f"{path}: 'img' is {array.dtype} of shape {array.shape}, not uint8 ({SIDE}, {SIDE}, 4).",
            hint="Patches are red, green, blue and infrared. Extract the archive again.",
        )
    return array


def read_patch_values(path: Path, content: bytes) -> np.ndarray:
    """Return a patch's label as stored, int32 (200, 200).

    Raises:
        DataError: when the file is broken or holds anything else.
    """
    array = read_array(path, "gt", content)
    if array.dtype != np.int32 or array.shape != (SIDE, SIDE):
        raise DataError(
            f"{path}: 'gt' is {array.dtype} of shape {array.shape}, not int32 ({SIDE}, {SIDE}).",
            hint="Extract the archive again.",
        )
    return array


class PatchImages(FileImages):
    """The patches of one split; it knows the files of images and no others."""

    def image(self, index: int) -> np.ndarray:
        """Return patch `index` as uint8 (200, 200, 3), RGB."""
        return np.ascontiguousarray(self._patch(index)[..., :3])

    def aux(self, index: int) -> Mapping[str, np.ndarray]:
        """Return ``infrared``, uint8 (200, 200)."""
        return {INFRARED: np.ascontiguousarray(self._patch(index)[..., 3])}

    def size(self, index: int) -> tuple[int, int]:
        return SIDE, SIDE

    def orientation(self, index: int) -> int:
        return 1

    def _patch(self, index: int) -> np.ndarray:
        return read_patch(self.path(index), self.content(index))


def patch_labels(paths: Mapping[str, Path], table: ValueTable) -> FileLabels:
    """Return the labels of one split's patches, from one file each."""

    def doubt(pixels: np.ndarray, labels: int) -> str:
        stored = (read_patch_values(path, read_bytes(path)) for path in paths.values())
        found = sum((np.bincount(one.reshape(-1), minlength=256) for one in stored), np.zeros(256))
        return _doubt(found, labels)

    return FileLabels.one_each(
        paths,
        lambda path, content: table(read_patch_values(path, content), path, VALUES_HINT),
        doubt=doubt,
    )


def _doubt(pixels: np.ndarray, labels: int) -> str:
    """Say so where values seem to count from 1: 0, roads, covers a quarter of Potsdam.

    Args:
        pixels: number of pixels of each value.
        labels: how many labels they are of; a few may show no road.
    """
    known = pixels[:6].sum()
    if (labels >= _ENOUGH and pixels[0] < _FEW * known) or (
        labels > 1 and not pixels[0] and pixels[1:6].all()
    ):
        return (
            f"{pixels[0] / known:.1%} of the pixels of {labels} labels are 0, which is roads and covers a "
            f"quarter of Potsdam: they seem to count from 1. {VALUES_HINT}"
        )
    return ""
