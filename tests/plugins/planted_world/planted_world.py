"""A world with known cues: six classes, three per image as Voronoi cells, on 12 × 12 patches of 4 pixels.

A patch shows its class by the color of its pixels, and depth lies beside the image. `planted_net` turns the
pixels into Gaussian features per class. Classes, or e and f alone, can be told apart

- ``all``: by every cue;
- ``color``: e and f by color alone, because the network merges them;
- ``depth``: e and f by depth, because the network has them close. A trace of the difference is left in the
  features, since depth is read in training alone; every image shows both, so that depth can point at it;
- ``view``: by what two photometric views of an image share, because the network's largest direction within
  every class is the brightness of a patch, which a jitter changes;
- ``object``: nothing is hidden, but every class falls into two halves, by a stripe that its patches show with
  one sign or the other; the patches of one object have both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from uss_bench.contracts import ClassInfo
from uss_bench.plugins.specs import DatasetSpec

GRID, PATCH = 12, 4
CHROMA = np.array(
    [
        [0.8, 0.1, 0.1],
        [0.1, 0.8, 0.1],
        [0.1, 0.1, 0.8],
        [0.45, 0.45, 0.1],
        [0.45, 0.1, 0.45],
        [0.1, 0.45, 0.45],
    ]
)
"""Share of red, green and blue of each class: what stays of a color when its brightness changes."""
DEPTH = np.array([0.1, 0.3, 0.5, 0.7, 0.15, 0.95])
VARIANTS = ("all", "color", "depth", "view", "object")
SPLITS = {"train": (0, 48), "test": (1000, 16)}
_PIXEL_NOISE = 6.0
_STRIPE_NOISE, _STRIPE = 3.0, 2.9
"""In the variant ``object``: less noise, and the height of the stripes, in gray levels."""
_BLOCK = 3
"""Patches along a block whose stripes have one sign; objects are larger."""


def scene(number: int, variant: str = "all") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return image uint8 (48, 48, 3), label int16 (48, 48) and depth float32 (48, 48) of a scene."""
    rng = np.random.default_rng(number)
    classes = rng.permutation(6)[:3]
    if variant == "depth":
        classes = np.array([4, 5, classes[classes < 4][0]])
    seeds = rng.uniform(0, GRID, (3, 2))
    rows, columns = np.mgrid[:GRID, :GRID]
    distance = (rows[..., None] + 0.5 - seeds[:, 0]) ** 2 + (columns[..., None] + 0.5 - seeds[:, 1]) ** 2
    patches = classes[distance.argmin(axis=-1)]
    brightness = (
        rng.uniform(200, 400, (GRID, GRID, 1)) if variant == "view" else np.full((GRID, GRID, 1), 300.0)
    )
    color = CHROMA[patches] * brightness

    def pixels(values: np.ndarray) -> np.ndarray:
        return values.repeat(PATCH, axis=0).repeat(PATCH, axis=1)

    image = pixels(color)
    image = image + rng.normal(0, _STRIPE_NOISE if variant == "object" else _PIXEL_NOISE, image.shape)
    depth = pixels(DEPTH[patches]) + rng.normal(0, 0.01, (GRID * PATCH, GRID * PATCH))
    label = pixels(patches).astype(np.int16)
    if variant == "object":
        blocks = (GRID // _BLOCK, GRID // _BLOCK, 1)
        signs = rng.choice([-1.0, 1.0], blocks).repeat(_BLOCK, axis=0).repeat(_BLOCK, axis=1)
        side = np.tile(_STRIPE * np.array([1.0, -1.0, -1.0, 1.0]), GRID)[None, :, None]
        image = image + pixels(signs) * side
    return np.clip(image, 0, 255).astype(np.uint8), label, depth.astype(np.float32)


class _Scenes:
    def __init__(self, numbers: Sequence[int], variant: str) -> None:
        self.numbers = list(numbers)
        self.variant = variant
        self.ids = [f"scene-{number:04d}" for number in numbers]

    def __len__(self) -> int:
        return len(self.ids)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{type(self).__name__} {self.numbers} {self.variant}".encode()).hexdigest()


class PlantedImages(_Scenes):
    def image(self, index: int) -> np.ndarray:
        return scene(self.numbers[index], self.variant)[0]

    def aux(self, index: int) -> Mapping[str, np.ndarray]:
        return {"depth": scene(self.numbers[index], self.variant)[2]}


class PlantedLabels(_Scenes):
    def label(self, index: int) -> np.ndarray:
        return scene(self.numbers[index], self.variant)[1]


class PlantedWorld:
    """The dataset.

    Args:
        variant: the cues that separate classes e and f; one of `VARIANTS`.
    """

    def __init__(self, spec: DatasetSpec, *, variant: str = "all") -> None:
        if variant not in VARIANTS:
            raise ValueError(f"variant is one of {VARIANTS}, not {variant!r}")
        self.name = spec.name if variant == "all" else f"{spec.name}-{variant}"
        self.variant = variant
        self.classes = [ClassInfo(row.name, row.color) for row in spec.classes]
        self.splits = list(SPLITS)
        self.train_split, self.test_split = "train", "test"

    def _numbers(self, split: str) -> range:
        start, count = SPLITS[split]
        return range(start, start + count)

    def images(self, split: str) -> PlantedImages:
        return PlantedImages(self._numbers(split), self.variant)

    def labels(self, split: str) -> PlantedLabels:
        return PlantedLabels(self._numbers(split), self.variant)

    def prepare(self) -> None:
        """Nothing has to be put in place."""

    def verify(self) -> str:
        return "planted is generated: there is nothing to verify."
