"""What datasets made of image and label files share: splits with published sizes, and looking values up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from uss_bench.contracts import IGNORE, ClassInfo
from uss_bench.data.fingerprints import FileSet
from uss_bench.data.images import image_size, orientation, read_image, read_label
from uss_bench.data.subset import digest
from uss_bench.errors import DataError, UsageError, did_you_mean
from uss_bench.files.old_spellings import known_spelling
from uss_bench.plugins.specs import ClassSpec

PARTIAL = "-partial"
"""Ends the names of splits that may lack files: their figures are not those of the published split."""

Doubt = Callable[[np.ndarray, int], str]
"""Says why the labels of a split are coded otherwise than they should be, or ''.

It is given the pixels of every class, and last those that are ignored, int64 (C + 1,), and how many labels
were read. A coding can fit by luck file by file; over a whole split it shows.
"""

_UNKNOWN = -2
_VALUES = 256


class FileImages:
    """The images of one split, from one file each; it knows no other files.

    Args:
        files: the image files by id, in order.
        others: files that further channels are read from, after those of images.
        remarks: what a reader of results should know of the split's files, in sentences.
    """

    def __init__(
        self, files: Mapping[str, Path], *, others: Iterable[Path] = (), remarks: Sequence[str] = ()
    ) -> None:
        self.ids: Sequence[str] = tuple(files)
        self.remarks = [remark for remark in remarks if remark]
        self._paths = tuple(files.values())
        self._files = FileSet([*self._paths, *others])

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> np.ndarray:
        """Return image `index` as uint8 (H, W, 3), RGB, at its native size; see `read_image`."""
        return read_image(self.path(index), self.content(index))

    def aux(self, index: int) -> Mapping[str, np.ndarray]:
        return {}

    def fingerprint(self) -> str:
        return self._files.fingerprint()

    def path(self, index: int) -> Path:
        return self._paths[index]

    def content(self, index: int) -> bytes:
        """Return the bytes of image `index`, which are those that were fingerprinted, if any were."""
        return self._files.read(self._paths[index])

    def size(self, index: int) -> tuple[int, int]:
        """Return (height, width) of image `index` from its header."""
        return image_size(self._paths[index])

    def orientation(self, index: int) -> int:
        """Return how viewers are asked to turn image `index`, see `uss_bench.data.images.orientation`."""
        return orientation(self._paths[index])


class FileLabels:
    """The labels of one split, in the order of its images.

    Args:
        ids: those of the images.
        read: returns the label of an id, int16 (H, W), reading nothing but `files`.
        files: for the fingerprint; read through `FileSet.read`, they stay what was fingerprinted.
        doubt: looks at the split as a whole, see `Doubt`.
        coding: tells what the values in files mean, where that is not the dataset's own; part of the
            fingerprint.
    """

    def __init__(
        self,
        ids: Iterable[str],
        read: Callable[[str], np.ndarray],
        files: FileSet,
        doubt: Doubt | None = None,
        coding: str = "",
    ) -> None:
        self.ids: Sequence[str] = tuple(ids)
        self.doubt = doubt
        self._coding = coding
        self._read = read
        self._files = files

    @classmethod
    def one_each(
        cls,
        paths: Mapping[str, Path],
        read: Callable[[Path, bytes], np.ndarray],
        *,
        doubt: Doubt | None = None,
        coding: str = "",
    ) -> FileLabels:
        """Return labels that have a file each.

        Args:
            paths: of the files by id.
            read: returns the label, int16 (H, W), that a file of this path and content holds.
        """
        files = FileSet(paths.values())
        return cls(paths, lambda name: read(paths[name], files.read(paths[name])), files, doubt, coding)

    def __len__(self) -> int:
        return len(self.ids)

    def label(self, index: int) -> np.ndarray:
        """Return label `index` as int16 (H, W): class 0..C-1, or `IGNORE`.

        Raises:
            DataError: when it is broken or holds an unknown value.
        """
        return self._read(self.ids[index])

    def fingerprint(self) -> str:
        found = self._files.fingerprint()
        return digest(found, self._coding) if self._coding else found


class ValueTable:
    """A lookup from 8-bit label values to classes, made of the `values` of a spec's classes.

    Args:
        classes: the classes in label order.
        ignored: values that become `IGNORE`; any other value is an error.
        unused: values of classes that never occur in the published labels: they are errors as well.
    """

    def __init__(
        self, classes: Sequence[ClassSpec], ignored: Iterable[int], unused: Iterable[int] = ()
    ) -> None:
        self.table = np.full(_VALUES, _UNKNOWN, np.int16)
        self.table[list(ignored)] = IGNORE
        for position, row in enumerate(classes):
            self.table[[value for value in row.values if isinstance(value, int)]] = position
        self.table[list(unused)] = _UNKNOWN

    def __call__(self, values: np.ndarray, source: Path, hint: str) -> np.ndarray:
        """Return integers (H, W) as labels, int16 (H, W).

        Raises:
            DataError: for an unknown value, naming `source`, the value and its place, with `hint`.
        """
        inside = (values >= 0) & (values < _VALUES)
        label: np.ndarray = np.where(inside, self.table[np.where(inside, values, 0)], np.int16(_UNKNOWN))
        wrong = label == _UNKNOWN
        if wrong.any():
            row, column = first_place(wrong)
            raise DataError(
                f"{source} holds the value {values[row, column]} at x={column}, y={row}, which stands for "
                f"nothing ({int(wrong.sum())} pixels hold such values).",
                hint=hint,
            )
        return label

    def read(self, path: Path, hint: str, content: bytes | None = None) -> np.ndarray:
        """Read a grayscale or paletted label file through the table, as int16 (H, W).

        Raises:
            DataError: when it cannot be read, is colored or holds an unknown value.
        """
        stored = read_label(path, content)
        if stored.ndim != 2:
            raise DataError(f"{path} is in color, and these labels are grayscale.", hint=hint)
        return self(stored, path, hint)


def first_place(wrong: np.ndarray) -> tuple[int, int]:
    """Return row and column of the first pixel that is true in a mask (H, W)."""
    row, column = np.unravel_index(int(wrong.argmax()), wrong.shape)
    return int(row), int(column)


def class_table(classes: Sequence[ClassSpec]) -> tuple[ClassInfo, ...]:
    """Return a spec's classes as the contract has them."""
    return tuple(ClassInfo(row.name, row.color, row.kind) for row in classes)


def choose_split(dataset: str, wanted: str, splits: Sequence[str], suffix: str) -> str:
    """Return the split that is wanted, with or without the suffix that marks it, also in its old spelling.

    Raises:
        UsageError: when there is no such split.
    """
    for name in (wanted, f"{wanted}{suffix}"):
        if (today := known_spelling(name, splits)) in splits:
            return today
    return known_split(dataset, wanted, splits)


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
    """Refuse a split that does not have its published number of images.

    Raises:
        DataError: naming both numbers; with `partial` only when there is no image at all.
    """
    if found == published or (partial and found):
        return
    raise DataError(
        f"Split '{split}' has {published:,} images, and {where} has {found:,} of them.",
        hint="'uss-bench prepare' says where they come from."
        + (f" The option partial=true uses those, as split '{split}{PARTIAL}'." if found else ""),
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
