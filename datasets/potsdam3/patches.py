"""The archive that IIC distributes: ``imgs/NAME.mat``, ``gt/NAME.mat`` and lists of names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from uss_bench.errors import DataError
from uss_bench.file_splits import ValueTable
from uss_bench.images import fingerprint

from .matfile import read_array

SIDE = 200
INFRARED = "infrared"
VALUES_HINT = "Label values are 0 to 5 (roads, buildings, low vegetation, trees, cars, clutter) and 255."

LISTS = {
    "train": ("labelled_train", 4545),
    "test": ("labelled_test", 855),
    "unlabelled": ("unlabelled_train", 3150),
    "all": ("all", 8550),
}
"""List and published number of patches of every split."""

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
            why = "comes twice" if line in seen else "is no name of a patch"
            raise DataError(f"{path}: '{line}' ({number}) {why}.", hint="Extract the archive again.")
        seen.add(line)
    if not lines:
        raise DataError(f"{path} is empty.", hint="Extract the archive again.")
    return lines


def read_patch(path: Path) -> np.ndarray:
    """Return a patch, uint8 (200, 200, 4): red, green, blue and infrared.

    Raises:
        DataError: when the file is missing, broken or holds anything else.
    """
    array = read_array(path, "img")
    if array.dtype != np.uint8 or array.shape != (SIDE, SIDE, 4):
        raise DataError(
            f"{path}: 'img' is {array.dtype} of shape {array.shape}, not uint8 ({SIDE}, {SIDE}, 4).",
            hint="Patches are red, green, blue and infrared. Extract the archive again.",
        )
    return array


def read_patch_label(path: Path, table: ValueTable) -> np.ndarray:
    """Return a patch's label, int16 (200, 200), by way of `table`.

    Raises:
        DataError: when the file is missing, broken or holds anything else.
    """
    array = read_array(path, "gt")
    if array.dtype != np.int32 or array.shape != (SIDE, SIDE):
        raise DataError(
            f"{path}: 'gt' is {array.dtype} of shape {array.shape}, not int32 ({SIDE}, {SIDE}).",
            hint="Extract the archive again.",
        )
    return table(array, path, VALUES_HINT)


class PatchImages:
    """The patches of one split; it knows the files of images and no others."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.ids: Sequence[str] = tuple(files)
        self._files = tuple(files.values())

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> np.ndarray:
        """Return patch `index` as uint8 (200, 200, 3), RGB."""
        return np.ascontiguousarray(read_patch(self._files[index])[..., :3])

    def aux(self, index: int) -> Mapping[str, np.ndarray]:
        """Return ``infrared``, uint8 (200, 200)."""
        return {INFRARED: np.ascontiguousarray(read_patch(self._files[index])[..., 3])}

    def fingerprint(self) -> str:
        return fingerprint(self._files)


class PatchLabels:
    """The labels of one split's patches, in the order of its images."""

    def __init__(self, files: Mapping[str, Path], table: ValueTable) -> None:
        self.ids: Sequence[str] = tuple(files)
        self._files = tuple(files.values())
        self._table = table

    def __len__(self) -> int:
        return len(self.ids)

    def label(self, index: int) -> np.ndarray:
        """Return the label of patch `index` as int16 (200, 200); see `read_patch_label`."""
        return read_patch_label(self._files[index], self._table)

    def fingerprint(self) -> str:
        return fingerprint(self._files)
