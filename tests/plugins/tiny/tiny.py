"""A dataset in memory: smooth and striped rectangles, exact labels, one ignored row."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from uss_bench.contracts import ClassInfo
from uss_bench.plugins.specs import DatasetSpec

SPLITS = {"train": (0, 6), "test": (100, 4)}


def scene(seed: int, height: int = 48, width: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Return image uint8 (H, W, 3) and label int16 (H, W)."""
    rng = np.random.default_rng(seed)
    label = np.zeros((height, width), dtype=np.int16)
    split = int(rng.integers(width // 4, 3 * width // 4))
    label[:, split:] = 1
    stripes = np.where(np.arange(width) % 4 < 2, 60, -60)[None, :] * (label == 1)
    gray = 120 + stripes + rng.normal(0, 4, (height, width))
    image = np.clip(gray[..., None] + rng.normal(0, 3, 3), 0, 255).astype(np.uint8)
    label[0] = -1
    return image, label


class TinyImages:
    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = list(seeds)
        self.ids = [f"scene-{seed:03d}" for seed in seeds]

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> np.ndarray:
        return scene(self.seeds[index])[0]

    def aux(self, index: int) -> Mapping[str, np.ndarray]:
        return {"infrared": scene(self.seeds[index])[0][..., 0]}

    def fingerprint(self) -> str:
        return hashlib.sha256(f"tiny images {self.seeds}".encode()).hexdigest()


class TinyLabels:
    def __init__(self, seeds: Sequence[int], swapped: bool) -> None:
        self.seeds = list(seeds)
        self.swapped = swapped
        self.ids = [f"scene-{seed:03d}" for seed in seeds]

    def __len__(self) -> int:
        return len(self.ids)

    def label(self, index: int) -> np.ndarray:
        label = scene(self.seeds[index])[1]
        return np.where(label < 0, label, 1 - label).astype(np.int16) if self.swapped else label

    def fingerprint(self) -> str:
        return hashlib.sha256(f"tiny labels {self.seeds} {self.swapped}".encode()).hexdigest()


class Tiny:
    """The dataset.

    Args:
        labeled: whether there are labels at all.
        swapped: exchange the two classes, to show that training does not notice.
    """

    def __init__(self, spec: DatasetSpec, *, labeled: bool = True, swapped: bool = False) -> None:
        self.name = spec.name
        self.labeled = labeled
        self.swapped = swapped
        self.classes = [ClassInfo(row.name, row.color) for row in spec.classes] if labeled else []
        self.splits = list(SPLITS)
        self.train_split, self.test_split = "train", "test"

    def _seeds(self, split: str) -> range:
        start, count = SPLITS[split]
        return range(start, start + count)

    def images(self, split: str) -> TinyImages:
        return TinyImages(self._seeds(split))

    def labels(self, split: str) -> TinyLabels | None:
        return TinyLabels(self._seeds(split), self.swapped) if self.labeled else None

    def prepare(self) -> None:
        """Nothing has to be put in place."""

    def verify(self) -> str:
        return "tiny is generated: there is nothing to verify."
