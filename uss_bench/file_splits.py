"""What datasets made of image and label files share: splits with published sizes, and looking values up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from uss_bench.contracts import IGNORE, ClassInfo, Dataset
from uss_bench.errors import DataError, UsageError, did_you_mean
from uss_bench.images import fingerprint, image_size, read_image, read_label
from uss_bench.specs import ClassSpec

PARTIAL = "-partial"
"""Ends the names of splits that may lack files: their figures are not those of the published split."""

_UNKNOWN = -2
_VALUES = 256


class FileImages:
    """The images of one split, from one file each; it knows no other files.

    Args:
        files: the image files by id, in order.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.ids: Sequence[str] = tuple(files)
        self._files = tuple(files.values())

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> np.ndarray:
        """Return image `index` as uint8 (H, W, 3), RGB, at its native size; see `read_image`."""
        return read_image(self._files[index])

    def aux(self, index: int) -> Mapping[str, np.ndarray]:
        return {}

    def fingerprint(self) -> str:
        return fingerprint(self._files)


class FileLabels:
    """The labels of one split, in the order of its images.

    Args:
        images: the image files by id, in order, which tell the size that a label must have.
        read: returns the label of an id, int16 (H, W).
        files: everything that `read` reads, for the fingerprint.
    """

    def __init__(
        self, images: Mapping[str, Path], read: Callable[[str], np.ndarray], files: Sequence[Path]
    ) -> None:
        self.ids: Sequence[str] = tuple(images)
        self._images = tuple(images.values())
        self._read = read
        self._files = tuple(files)

    def __len__(self) -> int:
        return len(self.ids)

    def label(self, index: int) -> np.ndarray:
        """Return label `index` as int16 (H, W): class 0..C-1, or `IGNORE`.

        Raises:
            DataError: when it is broken, holds an unknown value or has another size than the image.
        """
        label = self._read(self.ids[index])
        height, width = image_size(self._images[index])
        if label.shape != (height, width):
            raise DataError(
                f"The label of {self.ids[index]} is {label.shape[1]}×{label.shape[0]} pixels, and its image "
                f"{self._images[index]} is {width}×{height} (width × height).",
                hint="One of them was resized or belongs to another image. Extract both from the originals.",
            )
        return label

    def fingerprint(self) -> str:
        return fingerprint(self._files)


class ValueTable:
    """A lookup from 8-bit label values to classes, made of the `values` of a spec's classes.

    Args:
        classes: the classes in label order.
        ignored: values that become `IGNORE`; any other value is an error.
    """

    def __init__(self, classes: Sequence[ClassSpec], ignored: Iterable[int]) -> None:
        self.table = np.full(_VALUES, _UNKNOWN, np.int16)
        self.table[list(ignored)] = IGNORE
        for position, row in enumerate(classes):
            self.table[[value for value in row.values if isinstance(value, int)]] = position

    def __call__(self, values: np.ndarray, source: Path, hint: str) -> np.ndarray:
        """Return integers (H, W) as labels, int16 (H, W).

        Raises:
            DataError: for an unknown value, naming `source`, the value and its place, with `hint`.
        """
        inside = (values >= 0) & (values < _VALUES)
        label: np.ndarray = np.where(inside, self.table[np.where(inside, values, 0)], np.int16(_UNKNOWN))
        wrong = label == _UNKNOWN
        if wrong.any():
            row, column = (int(part) for part in np.unravel_index(int(wrong.argmax()), wrong.shape))
            raise DataError(
                f"{source} holds the value {values[row, column]} at x={column}, y={row}, which stands for "
                f"nothing ({int(wrong.sum())} pixels hold such values).",
                hint=hint,
            )
        return label

    def read(self, path: Path, hint: str) -> np.ndarray:
        """Read a greyscale or paletted label file through the table, as int16 (H, W).

        Raises:
            DataError: when it cannot be read, is coloured or holds an unknown value.
        """
        stored = read_label(path)
        if stored.ndim != 2:
            raise DataError(f"{path} is in colour, and these labels are greyscale.", hint=hint)
        return self(stored, path, hint)


def class_table(classes: Sequence[ClassSpec]) -> tuple[ClassInfo, ...]:
    """Return a spec's classes as the contract has them."""
    return tuple(ClassInfo(row.name, row.colour, row.kind) for row in classes)


def choose_split(dataset: str, wanted: str, splits: Sequence[str], suffix: str) -> str:
    """Return the split that is wanted, with or without the suffix that marks it.

    Raises:
        UsageError: when there is no such split.
    """
    return known_split(dataset, wanted if wanted in splits else f"{wanted}{suffix}", splits)


def known_split(dataset: str, split: str, splits: Sequence[str]) -> str:
    """Return `split`; raise `UsageError` when it is not among `splits`."""
    if split not in splits:
        raise UsageError(f"{dataset} has no split '{split}'.", hint=did_you_mean(str(split), splits))
    return split


def check_flag(dataset: str, option: str, value: object) -> bool:
    """Return an option that is true or false.

    Raises:
        UsageError: for anything else, such as the string "no", which Python takes for true.
    """
    if not isinstance(value, bool):
        raise UsageError(f"The option {option} of {dataset} is true or false, not {value!r}.")
    return value


def check_count(split: str, found: int, published: int, *, partial: bool, where: Path) -> None:
    """Refuse a split that has not its published number of images.

    Raises:
        DataError: naming both numbers; with `partial` only when there is no image at all.
    """
    if found == published or (partial and found):
        return
    raise DataError(
        f"Split '{split}' has {published:,} images, and {where} has {found:,} of them.",
        hint="'uss-bench prepare' says where they come from."
        + (f" The option partial=true takes what is there, as split '{split}{PARTIAL}'." if found else ""),
    )


def check_partners(files: Mapping[str, Path], what: str) -> None:
    """Refuse a split of which some files do not exist.

    Raises:
        DataError: naming the first and how many.
    """
    missing = [path for path in files.values() if not path.is_file()]
    if missing:
        raise DataError(
            f"{len(missing):,} of {len(files):,} {what} are missing; the first is {missing[0]}.",
            hint="Extract the archive again: a missing file is never replaced by anything.",
        )


def read_everything(dataset: Dataset) -> str:
    """Read every image and label of the two splits in use; return a sentence that says what was read.

    Raises:
        DataError: for the first wrong file.
    """
    parts = []
    for split in dict.fromkeys((dataset.train_split, dataset.test_split)):
        images, labels = dataset.images(split), dataset.labels(split)
        for index in tqdm(range(len(images)), desc=split, unit=" images", disable=None):
            images.image(index)
            images.aux(index)
            if labels is not None:
                labels.label(index)
        parts.append(f"{split} {len(images):,} {'labelled' if labels is not None else 'unlabelled'}")
    return (
        f"Read every file of {dataset.name}: images {', '.join(parts)}; {len(dataset.classes)} classes. "
        f"Trained on '{dataset.train_split}', tested on '{dataset.test_split}'."
    )
