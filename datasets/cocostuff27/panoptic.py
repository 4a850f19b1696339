"""Labels from the official panoptic JSON and PNG, by supercategory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from uss_bench.contracts import IGNORE
from uss_bench.data import read_bytes, read_label
from uss_bench.errors import DataError
from uss_bench.files.json_file import parse_json

_RENAMED = {
    "food": "food (thing)",
    "food-stuff": "food (stuff)",
    "furniture": "furniture (thing)",
    "furniture-stuff": "furniture (stuff)",
    "raw-material": "rawmaterial",
}
"""Supercategories that the class table calls otherwise; all others have the class's name."""


class _Segment(msgspec.Struct):
    id: int
    category_id: int


class _Annotation(msgspec.Struct):
    image_id: int
    segments_info: list[_Segment]


class _Category(msgspec.Struct):
    id: int
    supercategory: str


class _File(msgspec.Struct):
    annotations: list[_Annotation]
    categories: list[_Category]


class PanopticFile:
    """The labels of some images of ``panoptic_*.json``.

    Args:
        path: the JSON.
        pngs: the PNG of every image that will be read, by id (12 digits).
        names: the classes' names, in label order.
        read: returns the content of a file.
    """

    def __init__(
        self,
        path: Path,
        pngs: Mapping[str, Path],
        names: Sequence[str],
        read: Callable[[Path], bytes] = read_bytes,
    ) -> None:
        self._path = path
        self._read_bytes = read
        self._pngs = pngs
        self._names = list(names)

    def read(self, number: str) -> np.ndarray:
        """Return the label of an image, int16 (H, W); pixels of no segment are `IGNORE`.

        Raises:
            DataError: when a file is broken, or the PNG has a segment that the JSON does not know.
        """
        rows, classes = self._content
        if int(number) not in rows:
            raise DataError(f"{self._path} does not know the image {number}.", hint="Extract the zip again.")
        png = self._pngs[number]
        colors = read_label(png, self._read_bytes(png))
        if colors.ndim != 3:
            raise DataError(f"{png} is grayscale; panoptic PNGs hold segment ids as colors.")
        red, green, blue = np.moveaxis(colors.astype(np.int32), -1, 0)
        found, places = np.unique(red + (green << 8) + (blue << 16), return_inverse=True)
        meaning = {0: IGNORE} | {one.id: classes.get(one.category_id, -2) for one in rows[int(number)]}
        labels = np.array([meaning.get(int(segment), -2) for segment in found], np.int16)
        if (labels == -2).any():
            segment = int(found[labels == -2][0])
            raise DataError(
                f"{png} has the segment {segment}, of which {self._path} knows nothing or a wrong category.",
                hint="The PNG and the JSON are of different releases. Extract both again.",
            )
        return labels[places].reshape(colors.shape[:2])

    @functools.cached_property
    def _content(self) -> tuple[dict[int, list[_Segment]], dict[int, int]]:
        """Segments by image, and the class of every category."""
        content = parse_json(
            self._read_bytes(self._path), _File, self._path, "COCO annotation file", "Extract the zip again."
        )
        classes = {}
        for row in content.categories:
            name = _RENAMED.get(row.supercategory, row.supercategory)
            if name not in self._names:
                raise DataError(
                    f"{self._path}: the supercategory '{row.supercategory}' is none of COCO-Stuff's 27."
                )
            classes[row.id] = self._names.index(name)
        return {row.image_id: row.segments_info for row in content.annotations}, classes
