"""The three sources of labels: stuffthingmaps, the official instances and stuff JSON, and panoptic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from uss_bench.errors import DataError
from uss_bench.file_splits import ValueTable, check_partners

from .panoptic import PanopticFile
from .segments import SegmentFiles
from .splits import SUBSETS

SOURCES = {"stuffthingmaps": "", "json": "-json", "panoptic": "-panoptic"}
"""The sources, the one of published figures first, and how split names end that use them."""

IGNORED_VALUE = 255

_MAPS_HINT = (
    "Values are 0 to 181 and 255, as in stuffthingmaps_trainval2017.zip (1-based labels of the COCO-Stuff "
    "list, or maps that were converted for other tools, are not)."
)


class Source(NamedTuple):
    read: Callable[[str], np.ndarray]
    """Returns the label of an image's id, int16 (H, W)."""
    files: list[Path]


def detect(root: Path) -> str:
    """Return the first source that lies in the root, for any subset; without any, the published one."""
    for subset in SUBSETS:
        if any(folder.is_dir() for folder in _map_folders(root, subset)):
            return "stuffthingmaps"
    for kind, name in (("json", "stuff_{}.json"), ("panoptic", "panoptic_{}.json")):
        if any((root / "annotations" / name.format(subset)).is_file() for subset in SUBSETS):
            return kind
    return "stuffthingmaps"


def open_source(
    kind: str, root: Path, subset: str, images: Mapping[str, Path], table: ValueTable, names: list[str]
) -> Source:
    """Return a source for the images of one split.

    Args:
        table: from the values of the stuffthingmaps to classes.
        names: the classes' names, in label order.

    Raises:
        DataError: when files are missing.
    """
    annotations = root / "annotations"
    if kind == "stuffthingmaps":
        places = _map_folders(root, subset)
        folder = next((place for place in places if place.is_dir()), places[0])
        maps = {number: folder / f"{number}.png" for number in images}
        check_partners(maps, "label maps")
        return Source(lambda number: table.read(maps[number], _MAPS_HINT), list(maps.values()))
    if kind == "json":
        paths = {part: annotations / f"{part}_{subset}.json" for part in ("instances", "stuff")}
        check_partners(paths, "annotation files")
        segments = SegmentFiles(paths["instances"], paths["stuff"], images, table)
        return Source(segments.read, list(paths.values()))
    path, folder = annotations / f"panoptic_{subset}.json", annotations / f"panoptic_{subset}"
    pngs = {number: folder / f"{number}.png" for number in images}
    check_partners({"": path}, "annotation files")
    check_partners(pngs, "panoptic PNGs")
    panoptic = PanopticFile(path, pngs, names)
    return Source(panoptic.read, [path, *pngs.values()])


def explain_missing(kind: str, root: Path, error: DataError) -> DataError:
    """Return an error that says how the files of a source should lie."""
    layouts = {
        "stuffthingmaps": "annotations/train2017/*.png and annotations/val2017/*.png",
        "json": "annotations/instances_val2017.json, annotations/stuff_val2017.json and those of train2017",
        "panoptic": "annotations/panoptic_val2017.json, annotations/panoptic_val2017/*.png and train2017's",
    }
    return DataError(
        error.what,
        hint=f"Labels from {kind} lie in {root} as {layouts[kind]}. 'uss-bench prepare' gets them; the "
        f"option labels names another source ({', '.join(SOURCES)}).",
    )


def _map_folders(root: Path, subset: str) -> tuple[Path, ...]:
    return root / "annotations" / subset, root / "stuffthingmaps" / subset
