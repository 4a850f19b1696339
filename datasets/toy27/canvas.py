"""The canvas of the street scenes: drawing on planes in perspective, with a depth buffer.

Everything here is + − × ÷ √, comparisons and indexing, on arrays whose every element is computed by
itself. Trigonometry, powers, matrix products and float sums are avoided because their last bits differ
between machines, and the scenes have to be the same bytes everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .dice import Color, Dice, Field, Mask, value_noise
from .light import Light
from .palette import SKY
from .view import COLUMNS, FAR, NEAR, ROWS, Camera, Panel, Point

_GROUND_ENDS = 260.0
_TILE = 256


class Canvas:
    """Color, depth and class of every canvas pixel; whatever is nearer stays in front."""

    def __init__(self, camera: Camera, light: Light, dice: Dice) -> None:
        self.camera = camera
        self.light = light
        # Planes, not interleaved: a masked copy into a plane is several times faster.
        self.color = np.zeros((3, ROWS, COLUMNS), np.float32)
        self.depth = np.full((ROWS, COLUMNS), FAR, np.float32)
        self.label = np.full((ROWS, COLUMNS), SKY, np.uint8)

        tile = (_TILE, _TILE)
        self.smooth = value_noise(dice, tile, (64, 64)) * np.float32(0.6)
        self.smooth += value_noise(dice, tile, (16, 16)) * np.float32(0.4)
        self.rough = value_noise(dice, tile, (8, 8)) * np.float32(0.5)
        self.rough += value_noise(dice, tile, (4, 4)) * np.float32(0.4)
        self.rough += value_noise(dice, tile, (2, 2)) * np.float32(0.35)
        self.grain = dice.grid(*tile)

        columns = np.arange(COLUMNS, dtype=np.float32) + np.float32(0.5)
        rows = np.arange(ROWS, dtype=np.float32) + np.float32(0.5)
        self._sideways = ((columns - np.float32(camera.center)) / np.float32(camera.focal))[None, :]
        self._down = ((rows - np.float32(camera.horizon)) / np.float32(camera.focal))[:, None]
        self.ground = self._ground()

    def _ground(self) -> Panel:
        """Return the whole ground plane, cut off shortly before the horizon."""
        top = math.ceil(self.camera.row(0.0, _GROUND_ENDS))
        z = np.float32(self.camera.eye) / self._down[top:]
        x = self._sideways * z - np.float32(self.camera.bend) * z * z
        area = (slice(top, ROWS), slice(0, COLUMNS))
        everywhere = np.ones(x.shape, np.bool_)
        return Panel(area, x, np.broadcast_to(z, x.shape), z, everywhere, self.light.level())

    def floor(self, left: float, right: float, near: float, far: float) -> Panel | None:
        """Return the rectangle of the ground between these x and z, or None when it is out of sight."""
        near = max(near, NEAR)
        if far <= near:
            return None
        ends = [
            self.camera.column(self.camera.bent((x, z))[0], z) for x in (left, right) for z in (near, far)
        ]
        whole = self.ground
        top = whole.area[0].start
        columns = _span(min(ends), max(ends), COLUMNS)
        rows = _span(max(self.camera.row(0, far), top), self.camera.row(0, near), ROWS)
        if columns is None or rows is None:
            return None
        cut = (slice(rows.start - top, rows.stop - top), columns)
        u, v = whole.u[cut], whole.v[cut]
        inside = (u >= left) & (u <= right) & (v >= near) & (v <= far)
        return Panel((rows, columns), u, v, whole.z[cut[0]], inside, whole.tint)

    def panel(self, start: Point, end: Point, bottom: float, top: float) -> Panel | None:
        """Return the vertical rectangle above the line `start`–`end`, or None when it is out of sight.

        u is 0 at `start`; v is the height above the ground.
        """
        (xa, za), (xb, zb) = self.camera.bent(start), self.camera.bent(end)
        if max(za, zb) <= NEAR:
            return None
        dx, dz = xb - xa, zb - za
        ends = []
        for x, z in ((xa, za), (xb, zb)):
            # A plane that passes the camera is drawn from where it comes into view.
            ends.append((x, z) if z >= NEAR else (xa + (NEAR - za) / dz * dx, NEAR))
        across = [self.camera.column(x, z) for x, z in ends]
        heights = [self.camera.row(y, z) for y in (bottom, top) for _, z in ends]
        columns, rows = _span(min(across), max(across), COLUMNS), _span(min(heights), max(heights), ROWS)
        if columns is None or rows is None:
            return None

        sideways = self._sideways[:, columns]
        slant = np.float32(dx) - sideways * np.float32(dz)
        slant = np.where(abs(slant) < 1e-5, np.float32(1e-5), slant)
        share = np.clip((sideways * np.float32(za) - np.float32(xa)) / slant, -0.5, 1.5)
        z = np.maximum(np.float32(za) + share * np.float32(dz), np.float32(NEAR / 2))
        length = math.sqrt(dx * dx + dz * dz)
        v = np.float32(self.camera.eye) - self._down[rows] * z
        inside = (share >= 0) & (share <= 1) & (v >= bottom) & (v <= top)
        tint = self.light.upright(*_towards_camera(xa, za, dx / length, dz / length))
        return Panel((rows, columns), share * np.float32(length), v, z, inside, tint)

    def upright(self, x: float, z: float, half: float, bottom: float, top: float) -> Panel | None:
        """Return a vertical rectangle that faces the camera, with u = 0 in its middle."""
        panel = self.panel((x - half, z), (x + half, z), bottom, top)
        if panel is None:
            return None
        return Panel(panel.area, panel.u - np.float32(half), panel.v, panel.z, panel.inside, panel.tint)

    def texture(
        self, panel: Panel, tile: Field, per_meter: float, strength: float, shift: float = 0
    ) -> Field:
        """Return 1 plus the noise of a tile in this strength, `per_meter` of its pixels to the meter."""
        # The shift keeps the coordinates positive, because a cast to integers truncates towards 0.
        offset = np.float32(8192 + shift * 97)
        column = (panel.u * np.float32(per_meter) + offset).astype(np.int32) & (_TILE - 1)
        row = (panel.v * np.float32(per_meter) + offset).astype(np.int32) & (_TILE - 1)
        result: Field = tile[row, column] * np.float32(strength) + np.float32(1)
        return result

    def paint(
        self, panel: Panel, mask: Mask, color: Color | None, label: int, texture: Field | float = 1.0
    ) -> None:
        """Paint where `mask` holds and nothing is nearer; without a color what is behind shows through."""
        area = panel.area
        seen = mask & (panel.z <= self.depth[area])
        if color is not None:
            tone = np.asarray(texture, np.float32)
            for plane, value, tint in zip(self.color, color, panel.tint, strict=True):
                np.copyto(plane[area], tone * np.float32(value * tint), where=seen)
        np.copyto(self.depth[area], panel.z, where=seen)
        np.copyto(self.label[area], np.uint8(label), where=seen)

    def darken(self, panel: Panel, mask: Mask, factor: Color) -> None:
        """Cast a shade on a plane where it is in sight."""
        area = panel.area
        seen = mask & (panel.z <= self.depth[area])
        for plane, value in zip(self.color, factor, strict=True):
            part = plane[area]
            np.multiply(part, np.float32(value), out=part, where=seen)

    def polygon(
        self, corners: Sequence[tuple[float, float, float]], color: Color, label: int, light: Color
    ) -> None:
        """Fill a flat convex polygon with corners (x, y, z), wherever it is nearer than what is there."""
        if min(z for _, _, z in corners) < NEAR:
            return
        spots = []
        for x, y, z in corners:
            x = self.camera.bent((x, z))[0]
            spots.append((self.camera.column(x, z), self.camera.row(y, z), 1 / z))
        xs, ys = [spot[0] for spot in spots], [spot[1] for spot in spots]
        columns, rows = _span(min(xs), max(xs), COLUMNS), _span(min(ys), max(ys), ROWS)
        if columns is None or rows is None:
            return
        px = (np.arange(columns.start, columns.stop, dtype=np.float32) + np.float32(0.5))[None, :]
        py = (np.arange(rows.start, rows.stop, dtype=np.float32) + np.float32(0.5))[:, None]
        (ax, ay, az), (bx, by, bz), (cx, cy, cz) = spots[:3]
        twice = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        if abs(twice) < 1e-3:
            return
        inside = np.ones((py.shape[0], px.shape[1]), np.bool_)
        turn = 1.0 if twice > 0 else -1.0
        for (x0, y0, _), (x1, y1, _) in zip(spots, [*spots[1:], spots[0]], strict=True):
            edge = (px - np.float32(x0)) * np.float32((y1 - y0) * turn)
            inside &= (py - np.float32(y0)) * np.float32((x1 - x0) * turn) >= edge
        # On a plane 1 / z is linear in the pixel coordinates.
        slope_x = ((bz - az) * (cy - ay) - (cz - az) * (by - ay)) / twice
        slope_y = ((cz - az) * (bx - ax) - (bz - az) * (cx - ax)) / twice
        inverse = np.float32(az) + (px - np.float32(ax)) * np.float32(slope_x)
        inverse = inverse + (py - np.float32(ay)) * np.float32(slope_y)
        z = 1 / np.maximum(inverse, np.float32(1 / FAR))
        self.paint(Panel((rows, columns), px, py, z, inside, light), inside, color, label)


def _span(low: float, high: float, side: int) -> slice | None:
    """Return the pixels of an axis from `low` to `high`, or None when there are none."""
    start, stop = max(0, math.floor(low)), min(side, math.floor(high) + 1)
    return slice(start, stop) if start < stop else None


def _towards_camera(x: float, z: float, ex: float, ez: float) -> Point:
    """Return the normal of the line through (x, z) along (ex, ez) on the side of the camera."""
    nx, nz = ez, -ex
    return (nx, nz) if nx * x + nz * z < 0 else (-nx, -nz)
