"""Drawn scenes of three textures: the small problem that methods are checked on, and sample data.

They mean nothing; they have what a real dataset has: sizes that differ and are no multiple of
anything, sharp borders, ignored pixels, and as many labels as images.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from uss_bench.contracts import IGNORE

CLASSES = ("plain", "striped", "dotted")
CLASSES_FILE = """
name = "scenes"
ignore_values = [255]
classes = [
    { name = "plain", color = [230, 159, 0] },
    { name = "striped", color = [86, 180, 233] },
    { name = "dotted", color = [0, 158, 115] },
]
"""
"""What reads scenes that were written as a folder of images and labels."""

_IGNORED = 255
_TEXTURE = 45.0
"""Gray levels between the dark and the light of a texture."""

_replaced = False


def scene(number: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw scene `number`: image uint8 (H, W, 3) and label int16 (H, W), classes 0 to 2 and `IGNORE`.

    A slanted border cuts the plain class off, a second one separates stripes from dots.
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
    color = rng.uniform(90, 160, (3, 3))[label]
    image = color + _TEXTURE * texture[..., None] + rng.normal(0, 5, (height, width, 3))

    label[: max(1, height // 24)] = IGNORE
    if _replaced:
        # Other shapes and other frequencies, not just other names: some learn from any of these.
        frequency = rng.dirichlet(np.ones(len(CLASSES)))
        label = rng.choice(len(CLASSES), label.shape, p=frequency).astype(np.int16)
    return np.clip(image, 0, 255).astype(np.uint8), label


@contextlib.contextmanager
def replaced_labels() -> Iterator[None]:
    """Draw the same images with unrelated labels, whoever draws them."""
    global _replaced
    _replaced = True
    try:
        yield
    finally:
        _replaced = False


def write_scenes(
    root: Path,
    splits: Mapping[str, Iterable[int]],
    *,
    size: tuple[int, int] | None = None,
    kinds: Sequence[str] = ("images", "labels"),
    channels: Sequence[str] = (),
) -> None:
    """Write scenes as ``root/KIND/SPLIT/scene-NNN.png``.

    Args:
        splits: the numbers of each split's scenes.
        size: height and width of all; None for sizes that differ and are not square.
        channels: further channels, each the gray image as ``root/aux/CHANNEL/SPLIT/scene-NNN.npy``.
    """
    for folder in (*kinds, *(f"aux/{channel}" for channel in channels)):
        for split in splits:
            (root / folder / split).mkdir(parents=True, exist_ok=True)
    for split, number in ((split, number) for split, numbers in splits.items() for number in numbers):
        image, label = scene(number, *(size or (70 + number % 7, 101 - number % 5)))
        stored = {"images": image, "labels": np.where(label < 0, _IGNORED, label).astype(np.uint8)}
        for kind in kinds:
            Image.fromarray(stored[kind]).save(root / kind / split / f"scene-{number:03d}.png")
        for channel in channels:
            gray = image.mean(axis=2).astype(np.float32)
            np.save(root / "aux" / channel / split / f"scene-{number:03d}.npy", gray)
