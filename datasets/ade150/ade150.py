"""The dataset `ade150`: ADE20K in the 150 classes of SceneParsing, from the official folders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from uss_bench.data import Names, PairedDataset, by_stem, list_files
from uss_bench.files.download import Resource

SPLITS = {"train": ("training", 20_210), "val": ("validation", 2000)}
"""Folder and published number of images of every split."""

ARCHIVE = Resource(
    "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip", "ADEChallengeData2016.zip"
)
VOID = 0
_MEMBER = re.compile(r"ADEChallengeData2016/(?:images|annotations)/(?:training|validation)/\w+\.(?:jpg|png)")
_HINT = (
    "Label files are grayscale PNG of 0 (void) and 1 to 150, as in annotations/ of ADEChallengeData2016.zip. "
    "The full ADE20K (in color, thousands of classes) and labels reduced by one are not these."
)
_STEPS = f"""To put ADE20K (SceneParsing) there by hand:
1. Download {ARCHIVE.url} (923 MB).
2. Extract it into {{root}}, so that there are, in {{root}} or in {{root}}/ADEChallengeData2016,
   images/training/*.jpg   20,210   annotations/training/*.png   20,210
   images/validation/*.jpg  2,000   annotations/validation/*.png  2,000"""


class Ade150(PairedDataset):
    """The dataset.

    Args:
        root: the folder that holds ``images`` and ``annotations``, or ``ADEChallengeData2016`` with them.
        train: split to train on, default ``train``.
        test: split to test on, default ``val``.
        partial: accept splits that lack images; their names then end in ``-partial``.

    Raises:
        UsageError: for a split that does not exist. Missing files are reported when a split is asked for.
    """

    published: ClassVar = {split: images for split, (_, images) in SPLITS.items()}
    ignored: ClassVar = (VOID,)
    steps = _STEPS
    hint = _HINT
    archives: ClassVar = [(ARCHIVE, _MEMBER)]

    def image_files(self, split: str) -> dict[str, Path]:
        folder = self._folder("images", split)
        return by_stem(list_files(folder, (".jpg",))) if folder.is_dir() else {}

    def label_files(self, split: str, images: Mapping[str, Path]) -> dict[str, Path]:
        folder = Names(self._folder("annotations", split))
        return {name: folder.find(f"{name}.png") for name in images}

    def _folder(self, kind: str, split: str) -> Path:
        nested = self.root / "ADEChallengeData2016"
        base = nested if nested.is_dir() and not (self.root / "images").is_dir() else self.root
        return base / kind / SPLITS[split][0]
