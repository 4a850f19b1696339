"""Miniature files of COCO in their genuine formats: three sources of labels for the same three images."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from uss_bench.plugins.registry import Registry

SPEC, PLUGIN = Registry().dataset("cocostuff27")
ENTRY = PLUGIN.load()
PACKAGE = ENTRY.__module__.rpartition(".")[0]
COARSE = {value: position for position, row in enumerate(SPEC.classes) for value in row.values}

# Stuff of the panoptic release: supercategories, and kinds whose pixels went to another kind's or to none.
KINDS = {
    "ceiling": [102], "floor": [114, 117], "food-stuff": [120, 121], "furniture-stuff": [106, 164],
    "plant": [168], "raw-material": [138], "textile": [108, 151], "wall": [170], "window": [180],
    "building": [127], "ground": [139, 148], "sky": [156], "solid": [134], "structural": [112],
    "water": [154],
    "person": [0], "vehicle": [2], "furniture": [66], "kitchen": [46], "food": [58], "indoor": [83],
}  # fmt: skip
MERGED = {100: 151, 115: 139, 136: 138, 119: 156}  # carpet, stone floor, napkin, fog
REMOVED = (131, 103)  # metal, cloth
IDS = ("000000000139", "000000000285", "000000581929")
SIZE = 24, 32


def load(root: Path, **options: Any) -> Any:
    return ENTRY(SPEC, root=root, **options)


def module(name: str) -> Any:
    return sys.modules[f"{PACKAGE}.{name}"]


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def dump(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def scenes() -> dict[str, np.ndarray]:
    """Label maps in values of the stuffthingmaps: bands of stuff, boxes of things, and unlabeled pixels."""
    rng = np.random.default_rng(0)
    listed = [value for values in KINDS.values() for value in values]
    stuff = [value for value in listed if value > 90] + [*MERGED, *REMOVED]
    maps = {}
    for number in IDS:
        fine = (
            np.repeat(rng.permutation(stuff)[: SIZE[0] // 2], 2)[:, None].repeat(SIZE[1], 1).astype(np.uint8)
        )
        fine[:, :3] = 255
        for value in rng.permutation([value for value in listed if value <= 90])[:3]:
            top, left = rng.integers(0, 16), rng.integers(0, 22)
            fine[top : top + 6, left : left + 8] = value
        maps[number] = fine
    maps[IDS[2]][:10] = [156]
    return maps


MAPS = scenes()


def put_images(root: Path, subset: str = "val2017") -> Path:
    for position, number in enumerate(IDS):
        shape = SIZE if position == 1 else (*SIZE, 3)  # some of COCO's images are grayscale
        pixels = np.random.default_rng(position).integers(0, 256, shape, dtype=np.uint8)
        save(root / "images" / subset / f"{number}.jpg", pixels)
    return root


def put_maps(root: Path, subset: str = "val2017") -> Path:
    for number, fine in MAPS.items():
        save(root / "annotations" / subset / f"{number}.png", fine)
    return root


def packed(mask: np.ndarray) -> dict[str, Any]:
    """A segment as the stuff JSON has it."""
    coded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(coded["size"]), "counts": coded["counts"].decode()}


def runs(mask: np.ndarray) -> dict[str, Any]:
    """A segment as the instances JSON has crowds."""
    flat = np.concatenate([[0], mask.T.reshape(-1), [-1]])
    ends = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate([[0], ends])).tolist()
    return {"size": list(mask.shape), "counts": counts}


def polygons(mask: np.ndarray) -> list[list[float]]:
    """A segment as the instances JSON has objects: one ring for every run of pixels of a row."""
    rings = []
    for row in np.flatnonzero(mask.any(1)):
        line = np.flatnonzero(np.diff(np.concatenate([[0], mask[row].astype(int), [0]])))
        rings += [[a, row, b, row, b, row + 1, a, row + 1] for a, b in line.reshape(-1, 2).tolist()]
    return [[float(value) for value in ring] for ring in rings]


def put_json(root: Path, subset: str = "val2017") -> Path:
    images = [{"id": int(number), "height": SIZE[0], "width": SIZE[1]} for number in IDS]
    stuff, instances = [], []
    for number, fine in MAPS.items():
        for value in np.unique(fine[fine != 255]).tolist():
            mask = fine == value
            row = {"image_id": int(number), "category_id": value + 1, "iscrowd": 0, "id": len(stuff) + 1}
            if value > 90:
                stuff.append(row | {"segmentation": packed(mask), "bbox": [0, 0, 1, 1], "area": 1})
            elif value == 0:
                instances.append(row | {"segmentation": runs(mask), "iscrowd": 1, "area": 1})
            else:
                instances.append(row | {"segmentation": polygons(mask), "area": float(mask.sum())})
        other = {"image_id": int(number), "category_id": 183, "segmentation": packed(fine < 91)}
        stuff.append(other)
    dump(root / "annotations" / f"stuff_{subset}.json", {"images": images, "annotations": stuff})
    dump(root / "annotations" / f"instances_{subset}.json", {"images": images, "annotations": instances})
    return root


def put_panoptic(root: Path, subset: str = "val2017") -> Path:
    categories = [
        {"id": value + 1, "name": "x", "supercategory": kind, "isthing": int(value < 91)}
        for kind, values in KINDS.items()
        for value in values
    ]
    annotations = []
    for number, fine in MAPS.items():
        ids, info = np.zeros(SIZE, np.int64), []
        for value in np.unique(fine[fine != 255]).tolist():
            if value in REMOVED:
                continue
            segment = 1 + 70_000 * (value + 1)
            ids[fine == value] = segment
            info.append({"id": segment, "category_id": MERGED.get(value, value) + 1, "iscrowd": 0, "area": 1})
        colors = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)
        save(root / "annotations" / f"panoptic_{subset}" / f"{number}.png", colors)
        annotations.append({"image_id": int(number), "file_name": f"{number}.png", "segments_info": info})
    content = {"annotations": annotations, "categories": categories}
    dump(root / "annotations" / f"panoptic_{subset}.json", content)
    return root


def put_lists(root: Path, names: tuple[str, ...] = IDS) -> Path:
    for subset, stem in (("train2017", ""), ("train2017", "_7"), ("val2017", "_7")):
        path = root / "curated" / subset / f"Coco164kFull_Stuff_Coarse{stem}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}\n" for name in names))
    return root


def all_labels(data: Any) -> list[np.ndarray]:
    labels = data.labels(data.test_split)
    return [labels.label(index) for index in range(len(labels))]
