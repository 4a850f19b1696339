"""The dataset `loveda`: LoveDA, land cover from above, as distributed or as mmsegmentation prepares it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from uss_bench.data import Names, PairedDataset, by_stem, list_files, same_name

SPLITS = {"train": ("Train", 2522), "val": ("Val", 1669), "test": ("Test", 1796)}
"""Folder and published number of images of every split."""

NO_DATA = 0
_UNLABELED = ("test",)
_AREAS = ("Rural", "Urban")
_HINT = (
    "Label files are grayscale PNG of 0 (no data) and 1 to 7, as in masks_png. Predictions for its server "
    "(0 to 6) are not these."
)
_STEPS = """To put LoveDA there by hand:
1. Download Train.zip and Val.zip (for the split test also Test.zip) from https://zenodo.org/record/5706578
2. Extract them into {root}, so that there are
   Train/Rural/images_png/*.png and masks_png/*.png   1,366   Train/Urban/...   1,156
   Val/Rural/images_png/*.png and masks_png/*.png       992   Val/Urban/...       677
   or, as mmsegmentation prepares it, img_dir/train/*.png, ann_dir/train/*.png, and the same for val."""


class LoveDA(PairedDataset):
    """The dataset.

    Args:
        root: the folder that holds ``Train`` and ``Val``, or ``img_dir`` and ``ann_dir``.
        train: split to train on, default ``train``; ``test`` has images without labels.
        test: split to test on, default ``val``.
        partial: accept splits that lack images; their names then end in ``-partial``.

    Raises:
        UsageError: for a split that does not exist. Missing files are reported when a split is asked for.
    """

    published: ClassVar = {split: images for split, (_, images) in SPLITS.items()}
    ignored: ClassVar = (NO_DATA,)
    steps = _STEPS
    hint = _HINT

    def image_files(self, split: str) -> dict[str, Path]:
        """Names are numbers that no two of its areas share, so that both layouts have the same ids."""
        name = SPLITS[split][0]
        folders = [self.root / name / area / "images_png" for area in _AREAS]
        folders.append(self.root / "img_dir" / split)
        found = [path for folder in folders if folder.is_dir() for path in list_files(folder, (".png",))]
        return by_stem(sorted(found, key=lambda path: same_name(path.name)))

    def label_files(self, split: str, images: Mapping[str, Path]) -> dict[str, Path] | None:
        if split in _UNLABELED:
            return None
        folders = {path.parent: Names(self._labels_beside(path.parent)) for path in images.values()}
        return {name: folders[path.parent].find(path.name) for name, path in images.items()}

    def _labels_beside(self, folder: Path) -> Path:
        if folder.name == "images_png":
            return folder.with_name("masks_png")
        return self.root / "ann_dir" / folder.name
