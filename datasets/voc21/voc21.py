"""The dataset `voc21`: Pascal VOC 2012 in 20 classes and background, from the official folders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from uss_bench.data import Names, PairedDataset
from uss_bench.errors import DataError
from uss_bench.files.download import Resource

SPLITS = {
    "train": ("train", 1464),
    "val": ("val", 1449),
    "trainval": ("trainval", 2913),
    "trainaug": ("trainaug", 10_582),
}
"""List in ``ImageSets/Segmentation`` and published number of images of every split."""

ARCHIVE = Resource(
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    "VOCtrainval_11-May-2012.tar",
)
VOID = 255
_ID = re.compile(r"\d{4}_\d{6}")
_MEMBER = re.compile(r"VOCdevkit/VOC2012/(?:JPEGImages|SegmentationClass|ImageSets/Segmentation)/[\w.]+")
_HINT = (
    "Label files are paletted PNG of indices 0 to 20 and 255, as in SegmentationClass of the archive; "
    "SegmentationClassAug has the same values in gray. Extract the archive again."
)
_STEPS = f"""To put Pascal VOC 2012 there by hand:
1. Download {ARCHIVE.url} (2 GB).
2. Extract it into {{root}}, so that there are, in {{root}} or in {{root}}/VOCdevkit/VOC2012,
   JPEGImages/*.jpg                  17,125 files, of which the lists name some
   SegmentationClass/*.png            2,913
   ImageSets/Segmentation/train.txt   1,464 lines; val.txt 1,449; trainval.txt 2,913
3. For the split trainaug also ImageSets/Segmentation/trainaug.txt (10,582 lines) and
   SegmentationClassAug/*.png: the labels of SBD, converted to PNG
   (http://home.bharathh.info/pubs/codes/SBD)."""


class Voc21(PairedDataset):
    """The dataset.

    Args:
        root: the folder that holds ``JPEGImages``, or ``VOCdevkit/VOC2012`` with it.
        train: split to train on, default ``train``; ``trainaug`` adds the images of SBD.
        test: split to test on, default ``val``.
        partial: accept splits that lack images; their names then end in ``-partial``.
        taxonomy: ``voc20`` for the classes without background, whose pixels are then ignored.

    Raises:
        UsageError: for a split that does not exist. Missing files are reported when a split is asked for.
    """

    published: ClassVar = {split: images for split, (_, images) in SPLITS.items()}
    ignored: ClassVar = (VOID,)
    steps = _STEPS
    hint = _HINT
    archives: ClassVar = [(ARCHIVE, _MEMBER)]

    def image_files(self, split: str) -> dict[str, Path]:
        folder = Names(self._base_folder / "JPEGImages")
        path = self._base_folder / "ImageSets" / "Segmentation" / f"{SPLITS[split][0]}.txt"
        files = {name: folder.find(f"{name}.jpg") for name in _read_list(path)}
        return {name: path for name, path in files.items() if path.is_file()}

    def label_files(self, split: str, images: Mapping[str, Path]) -> dict[str, Path]:
        """A label of SegmentationClass is preferred to one of SegmentationClassAug: it marks borders."""
        own, more = (Names(self._base_folder / f"SegmentationClass{end}") for end in ("", "Aug"))
        found = {name: own.find(f"{name}.png") for name in images}
        if split == "trainaug":
            found = {n: path if path.is_file() else more.find(path.name) for n, path in found.items()}
        return found

    def remarks(self, files: Mapping[str, Path]) -> list[str]:
        return []  # most of JPEGImages is for detection, in no list of segmentation

    @property
    def _base_folder(self) -> Path:
        nested = self.root / "VOCdevkit" / "VOC2012"
        return nested if nested.is_dir() and not (self.root / "JPEGImages").is_dir() else self.root


def _read_list(path: Path) -> list[str]:
    """Return the ids of a list, in its order.

    Raises:
        DataError: when it is missing, or a line is no id or comes twice.
    """
    try:
        lines = path.read_text(encoding="ascii").split()
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist.", hint="'uss-bench prepare' says where it comes from."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    seen = set[str]()
    for line in lines:
        if not _ID.fullmatch(line) or line in seen:
            why = "comes twice" if line in seen else "is not an id such as 2007_000032"
            raise DataError(f"{path}: '{line}' {why}.", hint="Each line holds one id and nothing else.")
        seen.add(line)
    return lines
