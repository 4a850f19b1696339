"""Perspective: a camera, and planes with coordinates in meters.

The world is in meters: x to the right, y up from the ground, z away from the camera, which stands at
x = 0, z = 0. Whatever stands is drawn on vertical planes, whatever lies on the ground plane; both give
every pixel local coordinates, so that a wheel is a disc and a wall a rectangle wherever they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .dice import Color, Field, Mask

WIDTH, HEIGHT = 256, 192
"""Size of a finished scene in pixels."""
SUPERSAMPLING = 2
"""Scenes are drawn this much finer, which gives soft edges and tells which pixels are mixed."""
COLUMNS, ROWS = WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING

FAR = 10_000.0
"""The depth of the sky."""
NEAR = 1.0
"""Nothing closer than this is drawn."""

Point = tuple[float, float]
"""A place on the ground: (x, z)."""


@dataclass(frozen=True)
class Camera:
    """A camera with a vertical image plane; lengths on the image are canvas pixels."""

    focal: float
    center: float
    """Column of the direction straight ahead."""
    horizon: float
    """Row of the horizon."""
    eye: float
    """Height above the ground."""
    bend: float
    """The street's bend: at depth z everything is moved sideways by bend × z²."""

    def bent(self, point: Point) -> Point:
        x, z = point
        return x + self.bend * z * z, z

    def column(self, x: float, z: float) -> float:
        return self.center + self.focal * x / z

    def row(self, y: float, z: float) -> float:
        return self.horizon + self.focal * (self.eye - y) / z


@dataclass(frozen=True)
class Panel:
    """The h × w part of the canvas on which one plane is seen, with local coordinates in meters.

    On a vertical plane u (1, w) runs along the ground and v (h, w) up; on the ground u is x and v is z,
    both (h, w). The depth z is (1, w) or (h, 1), whichever way it changes.
    """

    area: tuple[slice, slice]
    u: Field
    v: Field
    z: Field
    inside: Mask
    tint: Color
    """The light that falls on the plane."""

    def box(self, left: float, right: float, bottom: float, top: float) -> Mask:
        across = (self.u >= left) & (self.u <= right)
        mask: Mask = across & (self.v >= bottom) & (self.v <= top)
        return mask

    def disc(self, u: float, v: float, radius: float) -> Mask:
        du, dv = self.u - np.float32(u), self.v - np.float32(v)
        mask: Mask = du * du + dv * dv <= radius * radius
        return mask

    def limb(self, start: tuple[float, float], end: tuple[float, float], radius: float) -> Mask:
        """Return the mask of a thick line with round ends."""
        eu, ev = end[0] - start[0], end[1] - start[1]
        du, dv = self.u - np.float32(start[0]), self.v - np.float32(start[1])
        along = (du * np.float32(eu) + dv * np.float32(ev)) / np.float32(eu * eu + ev * ev + 1e-9)
        along = np.clip(along, 0, 1)
        du, dv = du - along * np.float32(eu), dv - along * np.float32(ev)
        mask: Mask = du * du + dv * dv <= radius * radius
        return mask


def stripes(along: Field, period: float, share: float, start: float = 0.0) -> Mask:
    """Return the mask of stripes across `along`: `share` of every `period`, counted from `start`."""
    phase = (along - np.float32(start)) / np.float32(period)
    mask: Mask = (phase - np.floor(phase)) < share
    return mask


def grooves(mask: Mask, depth: float) -> Field:
    """Return a texture that is darker by `depth` where `mask` holds."""
    return np.where(mask, np.float32(1 - depth), np.float32(1))
