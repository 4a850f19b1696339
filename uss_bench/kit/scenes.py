"""Drawn scenes of three textures: the tiny problem of the conformance ladder, and sample data.

They mean nothing; they have what a real dataset has: sizes that differ and are no multiple of
anything, sharp borders, ignored pixels, and as many labels as images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from uss_bench.contracts import IGNORE, ClassInfo
from uss_bench.specs import ClassSpec, DatasetSpec

CLASSES = ("plain", "striped", "dotted")
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115))

TRAIN = 6
TEST = 3
_FIRST_TEST = 100
_TEXTURE = 45.0
"""Grey levels between the dark and the light of a texture."""


def scene(number: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw scene `number`: image uint8 (H, W, 3) and label int16 (H, W), classes 0 to 2 and `IGNORE`.

    A slanted border cuts the plain class off, a second one parts stripes from dots.
    """
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:height, :width]
    slope, middle = rng.uniform(-0.4, 0.4), rng.uniform(0.35, 0.65)
    above = y - slope * (x - width / 2) < middle * height
    left = x < rng.uniform(0.3, 0.7) * width
    label = np.where(above, 0, np.where(left, 1, 2)).astype(np.int16)

    stripes = np.where((x + y) % 8 < 4, 1.0, -1.0)
    dots = np.where((x % 8 < 4) & (y % 8 < 4), 1.0, -0.4)
    texture = np.choose(label, (np.zeros_like(stripes), stripes, dots))
    colour = rng.uniform(90, 160, (3, 3))[label]
    image = colour + _TEXTURE * texture[..., None] + rng.normal(0, 5, (height, width, 3))

    label[: max(1, height // 24)] = IGNORE
    return np.clip(image, 0, 255).astype(np.uint8), label


class SceneImages:
    """Scenes as `uss_bench.contracts.Images`, every channel that is asked for being the grey image."""

    def __init__(self, numbers: Sequence[int], channels: Sequence[str]) -> None:
        self.ids: Sequence[str] = [f"scene-{number:03d}" for number in numbers]
        self._numbers = list(numbers)
        self._channels = list(channels)

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> np.ndarray:
        return scene(self._numbers[index], *_size(self._numbers[index]))[0]

    def aux(self, index: int) -> Mapping[str, np.ndarray]:
        grey = self.image(index).mean(axis=2).astype(np.float32)
        return {channel: grey.copy() for channel in self._channels}

    def fingerprint(self) -> str:
        return hashlib.sha256(f"scenes {self._numbers} {self._channels}".encode()).hexdigest()


class SceneLabels:
    """The labels of scenes. `on_read` is called whenever one is read."""

    def __init__(self, numbers: Sequence[int], on_read: Callable[[], None]) -> None:
        self.ids: Sequence[str] = [f"scene-{number:03d}" for number in numbers]
        self._numbers = list(numbers)
        self._on_read = on_read

    def __len__(self) -> int:
        return len(self.ids)

    def label(self, index: int) -> np.ndarray:
        self._on_read()
        return scene(self._numbers[index], *_size(self._numbers[index]))[1]

    def fingerprint(self) -> str:
        return hashlib.sha256(f"scene labels {self._numbers}".encode()).hexdigest()


class Scenes:
    """The tiny dataset.

    Args:
        labelled: whether it has labels, and classes.
        train: number of training images.
        channels: the extra channels that its images have.

    Attributes:
        label_reads: how many labels were read so far.
    """

    def __init__(self, *, labelled: bool = True, train: int = TRAIN, channels: Sequence[str] = ()) -> None:
        self.name = "scenes"
        self.classes: Sequence[ClassInfo] = tuple(map(ClassInfo, CLASSES, COLOURS)) if labelled else ()
        self.splits: Sequence[str] = ("train", "test")
        self.train_split, self.test_split = self.splits
        self.label_reads = 0
        self._labelled = labelled
        self._numbers = {"train": range(train), "test": range(_FIRST_TEST, _FIRST_TEST + TEST)}
        self._channels = list(channels)

    def images(self, split: str) -> SceneImages:
        return SceneImages(self._numbers[split], self._channels)

    def labels(self, split: str) -> SceneLabels | None:
        return SceneLabels(self._numbers[split], self._count) if self._labelled else None

    def prepare(self) -> None:
        """Do nothing: scenes are drawn when they are read."""

    def verify(self) -> str:
        return "The scenes are drawn: there is no file to check."

    def _count(self) -> None:
        self.label_reads += 1


SPEC = DatasetSpec(
    name="scenes",
    title="Scenes",
    summary="drawn scenes of three textures",
    entry="scenes:Scenes",
    classes=[ClassSpec(name=name, colour=colour) for name, colour in zip(CLASSES, COLOURS, strict=True)],
)


def _size(number: int) -> tuple[int, int]:
    """Return height and width of a scene: neither square, nor the same for all."""
    return 70 + number % 7, 101 - number % 5
