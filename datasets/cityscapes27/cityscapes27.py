"""The dataset `cityscapes27`: street scenes in 27 classes, from the official folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from uss_bench.contracts import ClassInfo
from uss_bench.errors import DataError
from uss_bench.file_splits import (
    PARTIAL,
    FileImages,
    FileLabels,
    ValueTable,
    check_count,
    check_flag,
    check_partners,
    choose_split,
    class_table,
    known_split,
    read_everything,
)
from uss_bench.images import list_images
from uss_bench.specs import DatasetSpec

SPLITS = {
    "train": (("train",), 2975),
    "val": (("val",), 500),
    "picie-eval": (("train", "val"), 3475),
    "picie-train": (("test", "train_extra"), 1525 + 19_998),
}
"""Folders of ``leftImg8bit`` and published number of images of every split."""

IGNORED_VALUES = range(7)

_UNLABELLED = ("picie-train",)
_IMAGE_END = "_leftImg8bit.png"
_LABEL_END = "_gtFine_labelIds.png"
_HINT = (
    "Label files are *_gtFine_labelIds.png with ids 0 to 33 (not labelTrainIds, which hold 255, nor color). "
    "Extract gtFine_trainvaltest.zip again."
)
_STEPS = """Cityscapes asks every user to register, so that it cannot be downloaded for you:
1. Register at https://www.cityscapes-dataset.com/register/ and log in.
2. Download leftImg8bit_trainvaltest.zip (11 GB) and gtFine_trainvaltest.zip (241 MB); for the training of
   PiCIE also leftImg8bit_trainextra.zip (44 GB).
3. Extract them into {root}, so that there are
   leftImg8bit/train/CITY/*_leftImg8bit.png     2,975   gtFine/train/CITY/*_gtFine_labelIds.png   2,975
   leftImg8bit/val/CITY/*_leftImg8bit.png         500   gtFine/val/CITY/*_gtFine_labelIds.png       500
   leftImg8bit/test/CITY/*_leftImg8bit.png      1,525   (picie-train only)
   leftImg8bit/train_extra/CITY/*.png          19,998   (picie-train only)"""


class Cityscapes27:
    """The dataset.

    Args:
        root: the folder that holds ``leftImg8bit`` and ``gtFine`` (or ``annotations/gtFine``).
        train: split to train on, default ``train``; ``picie-train`` for the rows of PiCIE, MDC and IIC.
        test: split to test on, default ``val``; ``picie-eval`` for the rows of PiCIE, MDC and IIC.
        partial: accept splits that lack files; their names then end in ``-partial``.

    Raises:
        UsageError: for a split that does not exist. Missing files are told when a split is asked for.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        *,
        root: str | Path,
        train: str | None = None,
        test: str | None = None,
        partial: bool = False,
    ) -> None:
        self.name = spec.name
        self.root = Path(root).expanduser()
        self.classes: Sequence[ClassInfo] = class_table(spec.classes)
        self._partial = check_flag(self.name, "partial", partial)
        end = PARTIAL if partial else ""
        self.splits: Sequence[str] = tuple(f"{split}{end}" for split in SPLITS)
        self.train_split = choose_split(self.name, train or spec.train_split, self.splits, end)
        self.test_split = choose_split(self.name, test or spec.test_split, self.splits, end)
        self._table = ValueTable(spec.classes, IGNORED_VALUES)

    def images(self, split: str) -> FileImages:
        """Return the split's images, city by city.

        Raises:
            DataError: when files are missing.
        """
        return FileImages(self._files(self._base(split)))

    def labels(self, split: str) -> FileLabels | None:
        """Return the split's labels, or None for ``picie-train``, which has none.

        Raises:
            DataError: when files are missing.
        """
        split = self._base(split)
        if split in _UNLABELLED:
            return None
        images = self._files(split)
        files = {name: self._label_file(path) for name, path in images.items()}
        check_partners(files, "labels")
        return FileLabels(images, lambda name: self._table.read(files[name], _HINT), list(files.values()))

    def prepare(self) -> None:
        """Check that the splits in use are there; Cityscapes cannot be downloaded without an account.

        Raises:
            DataError: when they are not, with the steps to get them.
        """
        try:
            for split in (self.train_split, self.test_split):
                self.images(split)
                self.labels(split)
        except DataError as error:
            raise DataError(error.what, hint=_STEPS.format(root=self.root)) from None

    def verify(self) -> str:
        """Read every file of the splits in use; raise `DataError` for the first wrong one."""
        return read_everything(self)

    def _base(self, split: str) -> str:
        return known_split(self.name, split, self.splits).removesuffix(PARTIAL)

    def _files(self, split: str) -> dict[str, Path]:
        folders, published = SPLITS[split]
        where = self.root / "leftImg8bit"
        files = {name: path for folder in folders for name, path in _list_cities(where / folder).items()}
        check_count(split, len(files), published, partial=self._partial, where=where)
        return files

    def _label_file(self, image: Path) -> Path:
        """Return where the label of an image lies, or should lie."""
        city, split = image.parent.name, image.parent.parent.name
        plain, nested = self.root / "gtFine", self.root / "annotations" / "gtFine"
        folder = nested if nested.is_dir() and not plain.is_dir() else plain
        return folder / split / city / (image.name.removesuffix(_IMAGE_END) + _LABEL_END)


def _list_cities(folder: Path) -> dict[str, Path]:
    """Return the images of every city's folder by id (``CITY_SEQUENCE_FRAME``), sorted; none is no error."""
    cities = sorted(path for path in folder.glob("*") if path.is_dir() and not path.name.startswith("."))
    files = (path for city in cities for path in list_images(city) if path.name.endswith(_IMAGE_END))
    return {path.name.removesuffix(_IMAGE_END): path for path in files}
