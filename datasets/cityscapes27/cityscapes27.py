"""The dataset `cityscapes27`: street scenes in 27 classes, from the official folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from uss_bench.data import Names, PairedDataset, list_images

SPLITS = {
    "train": (("train",), 2975),
    "val": (("val",), 500),
    "picie-eval": (("train", "val"), 3475),
    "picie-train": (("test", "train_extra"), 1525 + 19_998),
}
"""Folders of ``leftImg8bit`` and published number of images of every split."""

_FIRST_ID = 7
IGNORED_VALUES = range(_FIRST_ID)
_ENOUGH = 20
"""Labels among which some must hold ids 27 to 33 (trucks to bicycles)."""

_UNLABELED = ("picie-train",)
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


class Cityscapes27(PairedDataset):
    """The dataset.

    Args:
        root: the folder that holds ``leftImg8bit`` and ``gtFine`` (or ``annotations/gtFine``).
        train: split to train on, default ``train``; ``picie-train`` for the rows of PiCIE, MDC and IIC.
        test: split to test on, default ``val``; ``picie-eval`` for the rows of PiCIE, MDC and IIC.
        partial: accept splits that lack files; their names then end in ``-partial``.
        taxonomy: ``cityscapes19`` or ``cityscapes7``.

    Raises:
        UsageError: for a split that does not exist. Missing files are reported when a split is asked for.
    """

    published: ClassVar = {split: images for split, (_, images) in SPLITS.items()}
    ignored: ClassVar = IGNORED_VALUES
    steps = _STEPS
    hint = _HINT

    def image_files(self, split: str) -> dict[str, Path]:
        where = self.root / "leftImg8bit"
        cities = (_list_cities(where / folder) for folder in SPLITS[split][0])
        return {name: path for city in cities for name, path in city.items()}

    def label_files(self, split: str, images: Mapping[str, Path]) -> dict[str, Path] | None:
        if split in _UNLABELED:
            return None
        plain, nested = self.root / "gtFine", self.root / "annotations" / "gtFine"
        base = nested if nested.is_dir() and not plain.is_dir() else plain
        # a city's folder, below that of its split
        cities = {path.parent for path in images.values()}
        names = {city: Names(base / city.parent.name / city.name) for city in cities}
        return {
            name: names[path.parent].find(path.name[: -len(_IMAGE_END)] + _LABEL_END)
            for name, path in images.items()
        }

    def doubt(self, pixels: np.ndarray, labels: int) -> str:
        """Say so where no label of a split holds the ids that only true label ids have.

        Train ids are 0 to 18, and 27 classes in a row 0 to 26. Both lie within 0 to 33, so that each file by
        itself may pass. Vegetation, sky and cars, ids 21 to 26, are in nearly every image of Cityscapes.
        """
        if not pixels[19 - _FIRST_ID : -1].any():
            return (
                f"none of {labels} holds an id above 18. They seem to be train ids (labelTrainIds), where 0 "
                f"is road and 10 is sky. {_HINT}"
            )
        if labels >= _ENOUGH and not pixels[27 - _FIRST_ID : -1].any():
            return f"none of {labels} holds an id above 26. They seem to be 27 classes in a row. {_HINT}"
        return ""


def _list_cities(folder: Path) -> dict[str, Path]:
    """Return the images of every city's folder by id (``CITY_SEQUENCE_FRAME``), sorted; none is no error."""
    cities = sorted(path for path in folder.glob("*") if path.is_dir() and not path.name.startswith("."))
    files = (path for city in cities for path in list_images(city))
    named = (path for path in files if path.name.lower().endswith(_IMAGE_END.lower()))
    return {path.name[: -len(_IMAGE_END)]: path for path in named}
