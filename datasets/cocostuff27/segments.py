"""Labels from the official instances and stuff JSON, drawn as the stuffthingmaps are."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from pycocotools import mask as coco_mask

from uss_bench.data import ValueTable, read_bytes
from uss_bench.errors import DataError
from uss_bench.files.json_file import JSON_ERRORS, parse_json

_STUFF = range(92, 183)
_THINGS = range(1, 91)
_OTHER = 183
"""What the stuff JSON calls the pixels of things."""
_NOTHING = 255
_MOST_PIXELS = 1 << 26
"""COCO's images have 640×640 at most."""
_LONGEST_RUN_BITS = 60


class _Rle(msgspec.Struct):
    size: tuple[int, int]
    counts: str | list[int]


class _Annotation(msgspec.Struct):
    image_id: int
    category_id: int
    segmentation: msgspec.Raw  # decoded when its image is read: all at once they fill gigabytes
    iscrowd: int = 0


class _ImageRow(msgspec.Struct):
    id: int
    height: int
    width: int


class _File(msgspec.Struct):
    images: list[_ImageRow]
    annotations: list[_Annotation]


class SegmentFiles:
    """The labels of some images of ``instances_*.json`` and ``stuff_*.json``.

    Stuff lies below, then crowds, then instances from large to small, so that a cup stays visible on its
    table. The value of a category is its id less one, as in the stuffthingmaps.

    Args:
        images: the ids (12 digits) that will be read.
        table: from values to classes.
        read: returns the content of a file.
    """

    def __init__(
        self,
        instances: Path,
        stuff: Path,
        images: Iterable[str],
        table: ValueTable,
        read: Callable[[Path], bytes] = read_bytes,
    ) -> None:
        self._paths = instances, stuff
        self._read = read
        self._wanted = frozenset(int(number) for number in images)
        self._table = table

    def read(self, number: str) -> np.ndarray:
        """Return the label of an image, int16 (H, W).

        Raises:
            DataError: when the files are broken, do not know the image, or a segment does not fit.
        """
        (instances, stuff), key = self._files, int(number)
        sizes = {path: content.sizes.get(key) for path, content in zip(self._paths, self._files, strict=True)}
        for path, size in sizes.items():
            if size is None:
                raise DataError(f"{path} does not know the image {number}.", hint="Extract the zip again.")
            if size != sizes[self._paths[0]]:
                raise DataError(f"{path} gives the image {number} another size than {self._paths[0]}.")
        size = instances.sizes[key]
        canvas = np.full(size, _NOTHING, np.uint8)
        for row in stuff.rows.get(key, ()):
            if row.category_id in _STUFF:
                canvas[self._mask(row, size, self._paths[1])] = row.category_id - 1
            elif row.category_id != _OTHER:
                raise DataError(f"{self._paths[1]}: image {number} has the category {row.category_id}.")
        drawn = []
        for row in instances.rows.get(key, ()):
            if row.category_id not in _THINGS:
                raise DataError(f"{self._paths[0]}: image {number} has the category {row.category_id}.")
            mask = self._mask(row, size, self._paths[0])
            drawn.append((not row.iscrowd, -int(mask.sum()), row.category_id, mask))
        for _, _, category, mask in sorted(drawn, key=lambda one: one[:2]):  # stable: else the file's order
            canvas[mask] = category - 1
        return self._table(canvas, self._paths[0], "It has a category that COCO-Stuff does not know.")

    @functools.cached_property
    def _files(self) -> tuple[_Content, _Content]:
        instances, stuff = (_Content(path, self._wanted, self._read) for path in self._paths)
        return instances, stuff

    def _mask(self, row: _Annotation, size: tuple[int, int], path: Path) -> np.ndarray:
        try:
            return _decode(msgspec.json.decode(row.segmentation, type=list[list[float]] | _Rle), size)
        except (*JSON_ERRORS, ValueError, TypeError, OverflowError) as error:
            raise DataError(
                f"{path}: a segment of image {row.image_id} is broken: {error}.",
                hint="Extract the zip again.",
            ) from None


def _decode(segment: list[list[float]] | _Rle, size: tuple[int, int]) -> np.ndarray:
    """Return a segment, bool (H, W), from polygons, or run lengths that are packed or not."""
    if isinstance(segment, list):
        if not segment or any(len(ring) < 6 or len(ring) % 2 for ring in segment):
            raise ValueError("a polygon has too few points")  # pycocotools takes four numbers for a box
        for ring in segment:
            _check_ring(ring, size)
        rings: Any = segment
        drawn: Any = coco_mask.merge(coco_mask.frPyObjects(rings, *size))
        segment = _Rle(size, drawn["counts"].decode("ascii"))
    if segment.size != size:
        raise ValueError(f"its size is {segment.size}, and the image's {size}")
    return _unroll(segment.counts if isinstance(segment.counts, list) else _unpack(segment.counts), size)


# pycocotools takes memory for every step along a polygon, unchecked.
def _check_ring(ring: Sequence[float], size: tuple[int, int]) -> None:
    points = np.array(ring).reshape(-1, 2)
    height, width = size
    if (points < -1).any() or (points > (width + 1, height + 1)).any():
        raise ValueError("a polygon leaves the image")
    if np.abs(np.diff(points, axis=0, append=points[:1])).sum() > 8 * (height + 1) * (width + 1):
        raise ValueError("a polygon is longer than all outlines of pixels together")


# pycocotools draws polygons, but does not unroll run lengths: for those that end too early it returns
# memory that was never written.
def _unroll(runs: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """Return the mask of runs that go down the columns, the first of them outside the segment."""
    if min(runs, default=0) < 0 or sum(runs) != size[0] * size[1]:
        raise ValueError("its run lengths do not cover the image")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(size[::-1]).T


def _unpack(counts: str) -> list[int]:
    """Return the run lengths of COCO's text form.

    Every character holds five bits from the lowest on, and whether more follow; from the fourth run on it
    is the difference to the run before the last one.
    """
    runs: list[int] = []
    value = shift = 0
    for code in counts.encode("ascii"):
        bits = code - 48
        if not 0 <= bits < 64:
            raise ValueError(f"its run lengths hold '{chr(code)}'")
        value |= (bits & 31) << shift
        shift += 5
        if shift > _LONGEST_RUN_BITS:
            raise ValueError("a run length has too many digits")
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


class _Content:
    """Sizes and segments of the wanted images of one file."""

    def __init__(self, path: Path, wanted: frozenset[int], read: Callable[[Path], bytes]) -> None:
        content = parse_json(read(path), _File, path, "COCO annotation file", "Extract the zip again.")
        self.sizes = {row.id: (row.height, row.width) for row in content.images if row.id in wanted}
        for number, (height, width) in self.sizes.items():
            if not (height > 0 and width > 0 and height * width <= _MOST_PIXELS):
                raise DataError(f"{path} gives the image {number} the size {width}×{height}.")
        self.rows: dict[int, list[_Annotation]] = {}
        for row in content.annotations:
            if row.image_id in wanted:
                self.rows.setdefault(row.image_id, []).append(row)
