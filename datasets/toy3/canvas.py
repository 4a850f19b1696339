"""Raster primitives of the toy scenes: a z-buffered canvas, local frames and value noise.

Everything here is + − × ÷ √, comparisons and indexing, on arrays whose every element is computed by
itself. Trigonometry, powers, matrix products and float sums are avoided because their last bits differ
between machines, and the scenes have to be the same bytes everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]
Color = tuple[float, float, float]

PIXELS = 200
"""Side of a finished scene, in pixels of 0.25 m."""
SUPERSAMPLING = 2
"""Scenes are drawn this much finer, which gives soft edges and tells which pixels are mixed."""
SIDE = PIXELS * SUPERSAMPLING
METER = 4 * SUPERSAMPLING
"""Canvas pixels per meter: a scene shows 50 m × 50 m."""
EXTENT = SIDE / METER


class Dice:
    """Random draws from nothing but PCG64's uniform doubles, whose stream NumPy does not change."""

    def __init__(self, *entropy: int) -> None:
        self._rng = np.random.Generator(np.random.PCG64(entropy))

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self._rng.random()

    def chance(self, probability: float) -> bool:
        return self._rng.random() < probability

    def index(self, weights: tuple[float, ...]) -> int:
        """Return an index drawn with probability proportional to `weights`."""
        left = self._rng.random() * sum(weights)
        for i, weight in enumerate(weights):
            left -= weight
            if left < 0:
                return i
        return len(weights) - 1

    def direction(self) -> tuple[float, float]:
        """Return a unit vector of any direction, through the rational parametrisation of the circle."""
        t = self.uniform(-1.0, 1.0)
        x, y = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
        return (x, y) if self.chance(0.5) else (-x, y)

    def grid(self, height: int, width: int) -> Field:
        """Return float32 (height, width), uniform in [-1, 1)."""
        return (self._rng.random((height, width)) * 2.0 - 1.0).astype(np.float32)


def value_noise(dice: Dice, cell: int, side: int = SIDE) -> Field:
    """Return smooth noise (side, side) in [-1, 1): random values every `cell` pixels, bilinear between."""
    n = -(-side // cell) + 1
    knots = dice.grid(n, n)
    position = np.arange(side, dtype=np.int64)
    low = position // cell
    weight = ((position - low * cell).astype(np.float32) + np.float32(0.5)) / np.float32(cell)
    rows = knots[low] + (knots[low + 1] - knots[low]) * weight[:, None]
    left = rows[:, low]
    result: Field = left + (rows[:, low + 1] - left) * weight
    return result


@dataclass(frozen=True)
class Frame:
    """A place and a direction on the ground, in meters; `u` runs along the direction, `v` across."""

    x: float
    y: float
    ex: float
    ey: float

    def at(self, u: float, v: float, *, turned: bool = False) -> Frame:
        """Return the frame at local (u, v), turned by a quarter if asked."""
        x, y = self.x + u * self.ex - v * self.ey, self.y + u * self.ey + v * self.ex
        return Frame(x, y, -self.ey, self.ex) if turned else Frame(x, y, self.ex, self.ey)


@dataclass(frozen=True)
class Window:
    """The part of the canvas around an object, with the object's local coordinates in meters."""

    area: tuple[slice, slice]
    u: Field
    v: Field

    def box(self, half_u: float, half_v: float, u: float = 0.0, v: float = 0.0) -> Mask:
        """Return the mask of the rectangle of these half sides around local (u, v)."""
        inside: Mask = (abs(self.u - u) <= half_u) & (abs(self.v - v) <= half_v)
        return inside


class Canvas:
    """Albedo, height in meters and class of every canvas pixel; whoever is higher stays on top."""

    def __init__(self, dice: Dice, label: int) -> None:
        # Planes, not interleaved: a masked copy into a plane is several times faster.
        self.albedo = np.zeros((3, SIDE, SIDE), np.float32)
        self.height = np.zeros((SIDE, SIDE), np.float32)
        self.label = np.full((SIDE, SIDE), label, np.uint8)
        self.coarse = value_noise(dice, 100)
        self.middle = value_noise(dice, 25)
        self.fine = value_noise(dice, 7)
        self.grain = value_noise(dice, 2)
        self._axis = (np.arange(SIDE, dtype=np.float32) + np.float32(0.5)) / np.float32(METER)

    def window(self, frame: Frame, half_u: float, half_v: float) -> Window | None:
        """Return the window on a rectangle around `frame`, or None when it lies outside the scene."""
        reach_x = abs(half_u * frame.ex) + abs(half_v * frame.ey) + 0.5
        reach_y = abs(half_u * frame.ey) + abs(half_v * frame.ex) + 0.5
        left, right = _span(frame.x - reach_x, frame.x + reach_x)
        top, bottom = _span(frame.y - reach_y, frame.y + reach_y)
        if left >= right or top >= bottom:
            return None
        return self._cut(frame, slice(top, bottom), slice(left, right))

    def everywhere(self, frame: Frame) -> Window:
        """Return the window on the whole scene, with the coordinates of `frame`."""
        return self._cut(frame, slice(0, SIDE), slice(0, SIDE))

    def _cut(self, frame: Frame, rows: slice, columns: slice) -> Window:
        dx = (self._axis[columns] - np.float32(frame.x))[None, :]
        dy = (self._axis[rows] - np.float32(frame.y))[:, None]
        ex, ey = np.float32(frame.ex), np.float32(frame.ey)
        return Window((rows, columns), dx * ex + dy * ey, dy * ex - dx * ey)

    def noise(
        self, window: Window, *, coarse: float = 0, middle: float = 0, fine: float = 0, grain: float = 0
    ) -> Field:
        """Return 1 plus the scene's noise fields in these amplitudes: the texture of a material."""
        result = np.ones(window.u.shape, np.float32)
        for amplitude, field in (
            (coarse, self.coarse),
            (middle, self.middle),
            (fine, self.fine),
            (grain, self.grain),
        ):
            if amplitude:
                result += field[window.area] * np.float32(amplitude)
        return result

    def paint(
        self,
        window: Window,
        mask: Mask,
        color: Color,
        texture: Field | float,
        label: int | None,
        height: Field | float = 0.0,
    ) -> None:
        """Paint where `mask` holds and nothing higher stands; `label` None keeps the class below."""
        area = window.area
        seen = mask & (self.height[area] <= height)
        tone = np.asarray(texture, np.float32)
        for plane, value in zip(self.albedo, color, strict=True):
            np.copyto(plane[area], tone * np.float32(value), where=seen)
        np.copyto(self.height[area], np.asarray(height, np.float32), where=seen)
        if label is not None:
            np.copyto(self.label[area], np.uint8(label), where=seen)


def _span(low: float, high: float) -> tuple[int, int]:
    return max(0, int(low * METER)), min(SIDE, int(high * METER) + 1)
