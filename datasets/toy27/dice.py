"""Randomness of the street scenes: draws and smooth noise that are the same bytes on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]
Color = tuple[float, float, float]


class Dice:
    """Random draws from nothing but PCG64's uniform doubles, whose stream NumPy does not change."""

    def __init__(self, *entropy: int) -> None:
        self._rng = np.random.Generator(np.random.PCG64(entropy))

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self._rng.random()

    def chance(self, probability: float) -> bool:
        return self._rng.random() < probability

    def sign(self) -> float:
        return 1.0 if self.chance(0.5) else -1.0

    def index(self, *weights: float) -> int:
        """Return an index drawn with probability proportional to `weights`."""
        left = self._rng.random() * sum(weights)
        for i, weight in enumerate(weights):
            left -= weight
            if left < 0:
                return i
        return len(weights) - 1

    def pick(self, palette: tuple[Color, ...], spread: float = 0.12) -> Color:
        """Return a color of the palette, up to `spread` lighter or darker than it stands there."""
        red, green, blue = palette[self.index(*(1.0,) * len(palette))]
        tone = self.uniform(1 - spread, 1 + spread)
        return red * tone, green * tone, blue * tone

    def grid(self, rows: int, columns: int) -> Field:
        """Return float32 (rows, columns), uniform in [-1, 1)."""
        return (self._rng.random((rows, columns)) * 2.0 - 1.0).astype(np.float32)


def value_noise(dice: Dice, shape: tuple[int, int], cell: tuple[int, int]) -> Field:
    """Return smooth noise of this shape in [-1, 1): random knots every `cell` pixels, bilinear between.

    The noise wraps around at the edges when the cells divide the sides.
    """
    counts = [-(-side // step) for side, step in zip(shape, cell, strict=True)]
    knots = dice.grid(counts[0], counts[1])
    (top, bottom, down), (left, right, along) = (
        _between(side, step, count) for side, step, count in zip(shape, cell, counts, strict=True)
    )
    rows = knots[top] + (knots[bottom] - knots[top]) * down[:, None]
    first = rows[:, left]
    result: Field = first + (rows[:, right] - first) * along
    return result


def _between(side: int, step: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Field]:
    """Return, for each pixel of an axis, the knots before and after it and how far it is between them."""
    position = np.arange(side, dtype=np.int64)
    low = position // step
    weight = ((position - low * step).astype(np.float32) + np.float32(0.5)) / np.float32(step)
    return low, (low + 1) % count, weight
