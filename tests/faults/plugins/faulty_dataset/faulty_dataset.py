"""A dataset that is sound, and goes wrong where and as ``FAULT=<place>:<kind>`` says."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from uss_bench.contracts import ClassInfo
from uss_bench.plugins.specs import DatasetSpec


def go_wrong(place: str, value: Any = None) -> Any:
    """Return `value`, or what the fault makes of it."""
    where, _, kind = os.environ.get("FAULT", "").partition(":")
    if where != place:
        return value
    match kind:
        case "raises":
            raise RuntimeError("the dog ate the images")
        case "exits":
            sys.exit(0)
        case "is of floats":
            return value / 255
        case "is gray":
            return value[..., 0]
        case "has four channels":
            return np.dstack([value, value[..., :1]])
        case "is empty":
            return value[:0]
        case "is nothing":
            return None
        case "has a class beyond K":
            return value + 5
        case "has a class below -1":
            return value - 9
        case "is of another size":
            return value[1:]
        case "has three dimensions":
            return value[None]
        case "has fewer":
            return value[:-1]
        case "has one twice":
            return [value[0], *value[:-1]]
        case "leads out of the folder":
            return ["../../out", *value[1:]]
        case _:
            raise AssertionError(f"there is no fault '{kind}'")


class FaultyImages:
    def __init__(self, numbers: range) -> None:
        self.numbers = numbers
        self.ids = go_wrong("ids", [f"image-{number}" for number in numbers])

    def __len__(self) -> int:
        return len(self.numbers)

    def image(self, index: int) -> np.ndarray:
        rng = np.random.default_rng(self.numbers[index])
        image: np.ndarray = go_wrong("image", rng.integers(0, 256, (48, 56, 3), dtype=np.uint8))
        return image

    def aux(self, index: int) -> Mapping[str, np.ndarray]:
        return {}

    def fingerprint(self) -> str:
        fingerprint: str = go_wrong("fingerprint", f"images {self.numbers}")
        return fingerprint


class FaultyLabels:
    def __init__(self, images: FaultyImages) -> None:
        self.images = images
        self.ids = [f"image-{number}" for number in images.numbers]

    def __len__(self) -> int:
        return len(self.images)

    def label(self, index: int) -> np.ndarray:
        rng = np.random.default_rng(self.images.numbers[index])
        bright = rng.integers(0, 256, (48, 56, 3), dtype=np.uint8).mean(axis=2) > 127
        label: np.ndarray = go_wrong("label", bright.astype(np.int16))
        return label

    def fingerprint(self) -> str:
        return f"labels {self.images.numbers}"


class FaultyDataset:
    def __init__(self, spec: DatasetSpec) -> None:
        go_wrong("constructor")
        self.name = spec.name
        self.classes = [ClassInfo(row.name, row.color) for row in spec.classes]
        self.splits = ["train", "test"]
        self.train_split, self.test_split = "train", "test"

    def _images(self, split: str) -> FaultyImages:
        return FaultyImages({"train": range(6), "test": range(100, 104)}[split])

    def images(self, split: str) -> FaultyImages:
        return self._images(split)

    def labels(self, split: str) -> FaultyLabels:
        return FaultyLabels(self._images(split))

    def prepare(self) -> None:
        """Nothing has to be put in place."""

    def verify(self) -> str:
        return "faulty-dataset is generated."
