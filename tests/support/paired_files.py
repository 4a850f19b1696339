"""Datasets of paired files in their genuine layouts, in miniature: random images, and labels of blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from uss_bench.plugins.registry import Registry

SIZE = (48, 64)


@dataclass
class Tree:
    """A root in some layout, and what its label files hold."""

    root: Path
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    """Stored values by id, uint8 (H, W)."""
    files: dict[str, Path] = field(default_factory=dict)
    """The label files by id."""

    def add(
        self,
        name: str,
        image: str,
        label: str | None,
        values: Iterable[int],
        save: Callable[[Path, np.ndarray], None] | None = None,
    ) -> None:
        """Write an image, and a label of blocks of 8×8 pixels that holds all of `values`."""
        seed = np.random.default_rng(len(self.labels))
        _put(self.root / image, seed.integers(0, 256, (*SIZE, 3), np.uint8))
        if label is None:
            return
        known = np.array(list(values), np.uint8)
        count = SIZE[0] // 8 * SIZE[1] // 8
        blocks = seed.permutation(np.resize(known, count)).reshape(SIZE[0] // 8, -1)
        self.labels[name] = blocks.repeat(8, 0).repeat(8, 1)
        self.files[name] = self.root / label
        (save or _put)(self.files[name], self.labels[name])


def _put(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def voc_palette() -> list[int]:
    """The palette of the VOC development kit: bits of the index, spread over the three channels."""
    palette = np.zeros((256, 3), np.uint8)
    for index in range(256):
        for bit in range(8):
            for channel in range(3):
                palette[index, channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
    return palette.flatten().tolist()


def paletted(path: Path, values: np.ndarray) -> None:
    """Save a label as the VOC archive has it: indices with the development kit's palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values, mode="P")
    picture.putpalette(voc_palette())
    picture.save(path)


def voc(root: Path, base: str = "VOCdevkit/VOC2012/") -> Tree:
    tree = Tree(root)
    lists = {"train": ["2007_000032", "2007_000039"], "val": ["2007_000033", "2007_000042"]}
    for names in lists.values():
        for name in names:
            stored = f"{base}SegmentationClass/{name}.png"
            tree.add(name, f"{base}JPEGImages/{name}.jpg", stored, [*range(21), 255], paletted)
    extra = "2008_000015"
    tree.add(
        extra, f"{base}JPEGImages/{extra}.jpg", f"{base}SegmentationClassAug/{extra}.png", [0, 3, 15], _put
    )
    _put(root / base / "JPEGImages/2008_000099.jpg", np.zeros((8, 8, 3), np.uint8))  # of detection
    lists |= {"trainval": sorted(lists["train"] + lists["val"]), "trainaug": [*lists["train"], extra]}
    folder = root / base / "ImageSets/Segmentation"
    folder.mkdir(parents=True)
    for split, names in lists.items():
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return tree


def ade(root: Path, base: str = "ADEChallengeData2016/") -> Tree:
    tree = Tree(root)
    parts = [range(51), [0, *range(51, 98)], range(98, 143), range(130, 151)]
    for number in range(8):
        split = ("training", "validation")[number // 4]
        name = f"ADE_{('train', 'val')[number // 4]}_{number % 4 + 1:08d}"
        image, label = f"{base}images/{split}/{name}.jpg", f"{base}annotations/{split}/{name}.png"
        tree.add(name, image, label, parts[number % 4])
    return tree


def load(name: str, root: Path, **options: Any) -> Any:
    """Open a dataset in a root that lacks most of its files."""
    spec, plugin = Registry().dataset(name)
    return plugin.load()(spec, root=root, **{"partial": True, **options})


def loveda(root: Path, *, prepared: bool = False) -> Tree:
    tree = Tree(root)
    numbers = {
        "Train": [("Rural", 3), ("Rural", 0), ("Urban", 1366)],
        "Val": [("Urban", 3514), ("Rural", 2522)],
    }
    for split, images in {**numbers, "Test": [("Urban", 5000)]}.items():
        for area, number in images:
            folder = f"{split}/{area}/{{}}_png"
            image, label = (folder.format(kind) for kind in ("images", "masks"))
            if prepared:
                image, label = f"img_dir/{split.lower()}", f"ann_dir/{split.lower()}"
            stored = None if split == "Test" else f"{label}/{number}.png"
            tree.add(str(number), f"{image}/{number}.png", stored, range(8))
    return tree


def vaihingen(root: Path) -> Tree:
    tree = Tree(root)
    for split, areas in {"train": (1, 11), "val": (6, 24)}.items():
        for area in areas:
            name = f"area{area}_0_0_64_48"
            tree.add(name, f"img_dir/{split}/{name}.png", f"ann_dir/{split}/{name}.png", range(7))
    return tree


TILE_COLORS = np.array(
    [[0, 0, 0], [255, 255, 255], [0, 0, 255], [0, 255, 255], [0, 255, 0], [255, 255, 0], [255, 0, 0]],
    np.uint8,
)


def vaihingen_tiles(root: Path) -> Tree:
    tree = Tree(root)
    for area in (1, 34, 2, 38, 9):  # 9 is in no split
        name = f"top_mosaic_09cm_area{area}"
        label = f"gts_eroded_for_participants/{name}_noBoundary.tif"
        tree.add(
            name, f"top/{name}.tif", label, range(7), lambda path, values: _put(path, TILE_COLORS[values])
        )
    return tree
