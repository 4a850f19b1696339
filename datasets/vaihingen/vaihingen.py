"""The dataset `vaihingen`: aerial photographs of Vaihingen, as mmsegmentation cuts them, or the raw tiles."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from uss_bench.data import FileLabels, Names, PairedDataset, by_stem, check_partners, list_files, read_label
from uss_bench.errors import DataError

TRAIN_AREAS = frozenset((1, 3, 5, 7, 11, 13, 15, 17, 21, 23, 26, 28, 30, 32, 34, 37))
VAL_AREAS = frozenset((2, 4, 6, 8, 10, 12, 14, 16, 20, 22, 24, 27, 29, 31, 33, 35, 38))
SPLITS = {
    "train": ("train", 344),
    "val": ("val", 398),
    "tiles-train": (TRAIN_AREAS, len(TRAIN_AREAS)),
    "tiles-val": (VAL_AREAS, len(VAL_AREAS)),
}
"""Folder of ``img_dir``, or areas of the whole tiles, and published number of images of every split."""

VOID = 0
COLORS = ((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0))
"""Colors of classes 1 to 6 in the labels of whole tiles; black, in eroded labels, is void."""

_LABEL_FOLDERS = (
    ("gts_eroded_for_participants", "_noBoundary"),
    ("ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE", "_noBoundary"),
    ("gts_for_participants", ""),
    ("ISPRS_semantic_labeling_Vaihingen_ground_truth_COMPLETE", ""),
)
"""Folders of the labels of whole tiles and how their names end, the preferred one first."""

_TILE = re.compile(r"top_mosaic_09cm_area(\d+)", re.IGNORECASE)
_HINT = (
    "Label files are grayscale PNG of 0 (void) and 1 to 6, as tools/dataset_converters/vaihingen.py of "
    "mmsegmentation writes them; those of whole tiles are in six colors and black."
)
_STEPS = """ISPRS sends Vaihingen after a request form:
https://www.isprs.org/education/benchmarks/UrbanSemLab/default.aspx
Its archives extracted into {root} give the splits tiles-train and tiles-val:
   top/top_mosaic_09cm_areaN.tif                                     33 files
   gts_eroded_for_participants/top_mosaic_09cm_areaN_noBoundary.tif  16, or the 33 of ..._eroded_COMPLETE
For train and val run tools/dataset_converters/vaihingen.py of mmsegmentation, so that there are
   img_dir/train/*.png  344   ann_dir/train/*.png  344
   img_dir/val/*.png    398   ann_dir/val/*.png    398"""


class Vaihingen(PairedDataset):
    """The dataset.

    Args:
        root: the folder that holds ``img_dir`` and ``ann_dir``, or ``top`` and the labels of whole tiles.
        train: split to train on, default ``train``; ``tiles-train`` for whole tiles.
        test: split to test on, default ``val``; ``tiles-val`` for whole tiles.
        partial: accept splits that lack images; their names then end in ``-partial``.

    Raises:
        UsageError: for a split that does not exist. Missing files are reported when a split is asked for.
    """

    published: ClassVar = {split: images for split, (_, images) in SPLITS.items()}
    ignored: ClassVar = (VOID,)
    steps = _STEPS
    hint = _HINT

    def image_files(self, split: str) -> dict[str, Path]:
        areas = SPLITS[split][0]
        folder = self.root / ("img_dir" if isinstance(areas, str) else "top")
        folder = folder / areas if isinstance(areas, str) else folder
        files = list_files(folder, (".png", ".tif")) if folder.is_dir() else []
        if not isinstance(areas, str):
            named = ((_TILE.fullmatch(path.stem), path) for path in files)
            files = [path for match, path in named if match and int(match[1]) in areas]
        return by_stem(files)

    def label_files(self, split: str, images: Mapping[str, Path]) -> dict[str, Path]:
        areas = SPLITS[split][0]
        if isinstance(areas, str):
            folder = Names(self.root / "ann_dir" / areas)
            return {name: folder.find(path.name) for name, path in images.items()}
        places = [(Names(self.root / folder), end) for folder, end in _LABEL_FOLDERS]
        found = {name: [names.find(f"{name}{end}.tif") for names, end in places] for name in images}
        return {
            name: next((path for path in paths if path.is_file()), paths[0]) for name, paths in found.items()
        }

    def labels(self, split: str) -> FileLabels | None:
        base = self._base(split)
        if isinstance(SPLITS[base][0], str):
            return super().labels(split)
        paths = self.label_files(base, self._files(base))
        check_partners(paths, "labels")
        table, hint = self._table, self.hint
        return FileLabels.one_each(
            paths, lambda path, content: table(_values(path, content), path, hint), coding="colors"
        )


def _values(path: Path, content: bytes) -> np.ndarray:
    """Return the label of a whole tile as the values 0 to 6; -1 where its color is none of the seven.

    Raises:
        DataError: when it is not in color.
    """
    colors = read_label(path, content)
    if colors.ndim != 3:
        raise DataError(f"{path} is grayscale, and the labels of whole tiles are in color.", hint=_HINT)
    values = np.full(colors.shape[:2], -1, np.int16)
    for value, color in enumerate(((0, 0, 0), *COLORS)):
        values[(colors == color).all(axis=2)] = value
    return values
