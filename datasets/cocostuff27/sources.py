"""The three sources of labels: stuffthingmaps, the official instances and stuff JSON, and panoptic."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from uss_bench.data import FileLabels, FileSet, Names, ValueTable, check_partners
from uss_bench.errors import DataError

from .panoptic import PanopticFile
from .segments import SegmentFiles
from .splits import SUBSETS

SOURCES = {"stuffthingmaps": "", "json": "-json", "panoptic": "-panoptic"}
"""The sources, the one of published figures first, and how split names end that use them."""

IGNORED_VALUE = 255
VALUES = 182
"""Of the stuffthingmaps: 0 to 181."""
UNUSED_VALUES = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
"""COCO has no categories 12, 26, 29, 30, 45, 66, 68, 69, 71, 83 and 91, so that these values never occur; in
1-based maps, and in those that number the other 171 without gaps, they do (bottles, umbrellas, tables)."""

_ENOUGH = 20
"""Label maps among which some must have unlabeled pixels."""

_MAPS_HINT = (
    "Values are 0 to 181 and 255, as in stuffthingmaps_trainval2017.zip. Maps that count from 1 (0 is "
    "unlabeled), or that were converted for other tools (0 to 170), mean other classes by the same numbers."
)


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
) -> FileLabels:
    """Return the labels of one split from a source.

    Args:
        table: from the values of the stuffthingmaps to classes.
        names: the classes' names, in label order.

    Raises:
        DataError: when files are missing.
    """
    annotations = root / "annotations"
    if kind == "stuffthingmaps":
        places = _map_folders(root, subset)
        folder = Names(next((place for place in places if place.is_dir()), places[0]))
        maps = {number: folder.find(f"{number}.png") for number in images}
        check_partners(maps, "label maps")
        return FileLabels.one_each(
            maps, lambda path, content: table.read(path, _MAPS_HINT, content), doubt=_doubt
        )
    if kind == "json":
        paths = {part: annotations / f"{part}_{subset}.json" for part in ("instances", "stuff")}
        check_partners(paths, "annotation files")
        files = FileSet(paths.values())
        segments = SegmentFiles(paths["instances"], paths["stuff"], images, table, files.read)
        return FileLabels(images, segments.read, files)
    path, folder = annotations / f"panoptic_{subset}.json", Names(annotations / f"panoptic_{subset}")
    pngs = {number: folder.find(f"{number}.png") for number in images}
    check_partners({"": path}, "annotation files")
    check_partners(pngs, "panoptic PNGs")
    files = FileSet([path, *pngs.values()])
    return FileLabels(images, PanopticFile(path, pngs, names, files.read).read, files)


def _doubt(pixels: np.ndarray, maps: int) -> str:
    """Say so where no pixel of many maps is unlabeled; see `Doubt`."""
    if maps >= _ENOUGH and not pixels[-1]:
        return f"none of {maps} maps has an unlabeled pixel (255), and genuine ones do. {_MAPS_HINT}"
    return ""


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
