"""The ground of a street scene: its cross-section, the surfaces and what is painted on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .canvas import Canvas
from .dice import Color, Dice, Field, Mask
from .palette import ASPHALT, GRASS, PARKING, PAVING, RAIL_TRACK, ROAD, SIDEWALK, TERRAIN, WHITE_PAINT
from .view import Panel, grooves, stripes


@dataclass(frozen=True)
class Verge:
    """One side of the street, from the carriageway outwards, in meters; a width of 0 leaves a strip out."""

    parking: float
    walk: float
    green: float
    """A strip of grass beyond the pavement."""
    yard: bool
    """Whether the ground beyond the strips is paved, and not grass."""
    tracks: float = 0.0
    """Tram tracks of their own beside the carriageway."""

    @property
    def width(self) -> float:
        return self.parking + self.tracks + self.walk + self.green


@dataclass(frozen=True)
class Street:
    """The plan of the street: what lies at which x, and where another street crosses."""

    left: float
    """Width of the carriageway to the left of x = 0, where the camera is."""
    right: float
    """Width of the carriageway to the right of it."""
    verges: tuple[Verge, Verge]
    tracks: bool
    """Whether tram tracks run in the carriageway."""
    crossing: tuple[float, float] | None
    """From which z to which another street crosses."""

    def kerb(self, side: float) -> float:
        return self.left if side < 0 else self.right

    def verge(self, side: float) -> Verge:
        return self.verges[0] if side < 0 else self.verges[1]

    def frontage(self, side: float) -> float:
        """Return the distance from x = 0 at which fences or facades stand."""
        return self.kerb(side) + self.verge(side).width


def pave(canvas: Canvas, dice: Dice, street: Street) -> None:
    """Draw the whole ground."""
    ground = canvas.ground
    fade: Field = np.float32(1) / (np.float32(1) + ground.z * np.float32(0.04))
    fine = (canvas.texture(ground, canvas.rough, 9, 0.22) - 1) * fade
    coarse = canvas.texture(ground, canvas.smooth, 5, 0.13)
    grain = (canvas.texture(ground, canvas.grain, 22, 0.11) - 1) * fade
    smooth: Field = coarse + grain + fine * np.float32(0.3)
    rough: Field = coarse + (grain + fine) * 2
    asphalt, paving, grass = dice.pick(ASPHALT), dice.pick(PAVING), dice.pick(GRASS, 0.2)
    lot = dice.pick(PAVING + ASPHALT)
    # Slabs are narrow, so they are drawn only where the camera still resolves them.
    close = ground.z < 14
    slabs = smooth * grooves((stripes(ground.u, 0.6, 0.06) | stripes(ground.v, 0.6, 0.06)) & close, 0.16)
    canvas.paint(ground, ground.inside, grass, TERRAIN, rough)
    for side in (-1.0, 1.0):
        verge, x, out = street.verge(side), street.kerb(side), ground.u * np.float32(side)
        if verge.yard:
            canvas.paint(ground, out > x + verge.width - 0.1, paving, SIDEWALK, slabs)
        if verge.parking:
            strip = (out > x - 0.1) & (out <= x + verge.parking)
            cobbles = smooth * grooves(stripes(ground.u, 0.2, 0.2) & close, 0.14)
            canvas.paint(ground, strip, lot, PARKING, cobbles)
            bays = strip & (stripes(ground.v, 5.4, 0.03) | (out > x + verge.parking - 0.1) | (out < x + 0.08))
            canvas.paint(ground, bays, WHITE_PAINT, PARKING, smooth)
            x += verge.parking
        if verge.tracks:
            bed = (out > x - 0.1) & (out <= x + verge.tracks)
            gravel = dice.chance(0.6)
            color = (0.40, 0.37, 0.34) if gravel else grass
            canvas.paint(ground, bed, color, RAIL_TRACK, rough)
            _rails(canvas, side * (x + verge.tracks / 2), sleepers=gravel)
            x += verge.tracks
        walk = (out > x - 0.1) & (out <= x + verge.walk)
        canvas.paint(ground, walk, paving, SIDEWALK, slabs)
        canvas.paint(ground, walk & (out <= x + 0.16), (0.62, 0.61, 0.58), SIDEWALK, smooth)
    road = (ground.u > -street.left) & (ground.u <= street.right)
    if street.crossing is not None:
        near, far = street.crossing
        canvas.paint(
            ground, (ground.v > near - 2.2) & (ground.v < far + 2.2) & ~road, paving, SIDEWALK, slabs
        )
        road = road | ((ground.v > near) & (ground.v < far))
    canvas.paint(ground, road, asphalt, ROAD, smooth)
    _wear(canvas, dice, ground, road, asphalt)
    if street.tracks:
        middle = (street.right - street.left) / 2
        bed = abs(ground.u - np.float32(middle)) < 1.5
        canvas.paint(ground, bed & road, dice.pick(PAVING), RAIL_TRACK, slabs)
        _rails(canvas, middle, sleepers=False)
    _markings(canvas, dice, street)


def _rails(canvas: Canvas, x: float, *, sleepers: bool) -> None:
    ground = canvas.ground
    out = abs(ground.u - np.float32(x))
    if sleepers:
        ties = (out < 1.25) & stripes(ground.v, 0.65, 0.38) & (ground.z < 40)
        canvas.paint(ground, ties, (0.30, 0.27, 0.25), RAIL_TRACK)
    canvas.paint(ground, abs(out - np.float32(0.72)) < 0.055, (0.68, 0.68, 0.67), RAIL_TRACK)
    canvas.paint(ground, abs(out - np.float32(0.63)) < 0.035, (0.18, 0.18, 0.18), RAIL_TRACK)


def _wear(canvas: Canvas, dice: Dice, ground: Panel, road: Mask, asphalt: Color) -> None:
    """Patch and stain the carriageway."""
    if dice.chance(0.4):
        z, long = dice.uniform(4, 18), dice.uniform(2, 8)
        x = dice.uniform(-3, 2)
        patch = road & (ground.u > x) & (ground.u < x + dice.uniform(0.8, 2.5))
        tone = dice.uniform(0.78, 1.18)
        canvas.paint(ground, patch & (ground.v > z) & (ground.v < z + long), asphalt, ROAD, tone)
    if dice.chance(0.5):  # wheel tracks
        lane = abs(abs(ground.u - np.float32(1.7)) - np.float32(0.75)) < 0.3
        canvas.darken(ground, road & lane, (0.93, 0.93, 0.93))
    for _ in range(dice.index(1, 0.5, 0.2)):
        x, z = dice.uniform(-2.5, 2.5), dice.uniform(5, 14)
        du, dv = ground.u - np.float32(x), ground.v - np.float32(z)
        canvas.darken(ground, road & (du * du + dv * dv < 0.12), (0.55, 0.55, 0.56))


def _markings(canvas: Canvas, dice: Dice, street: Street) -> None:
    ground, middle = canvas.ground, (street.right - street.left) / 2
    near, far = street.crossing or (-9.0, -9.0)
    clear = (ground.v < near - 1) | (ground.v > far + 1)
    if street.tracks:
        clear &= abs(ground.u - np.float32(middle)) >= 1.5
    lines: list[Mask] = []
    if not street.tracks and dice.chance(0.8):
        width = dice.uniform(0.10, 0.17)
        dashed = stripes(ground.v, 6.0, 0.5, dice.uniform(0, 6)) if dice.chance(0.75) else ground.inside
        lines.append((abs(ground.u - np.float32(middle)) < width / 2) & dashed)
    if dice.chance(0.4):
        for x in (-street.left + 0.3, street.right - 0.3):
            lines.append(abs(ground.u - np.float32(x)) < 0.07)
    place = near - 3.5 if street.crossing and near > 6 else dice.uniform(7, 22)
    if dice.chance(0.45):
        band = (ground.v > place) & (ground.v < place + 2.8)
        zebra = band & (ground.u > -street.left + 0.3) & (ground.u < street.right - 0.3)
        lines.append(zebra & stripes(ground.u, 1.0, 0.5))
    elif dice.chance(0.4):
        bar = (ground.v > place) & (ground.v < place + 0.45)
        lines.append(bar & (ground.u > middle) & (ground.u < street.right))
    if dice.chance(0.2):  # an arrow
        du, dv = abs(ground.u - np.float32((middle + street.right) / 2)), ground.v - np.float32(place - 6)
        shaft = (du < 0.1) & (dv > 0) & (dv < 2)
        lines.append(shaft | ((du < (3.2 - dv) * np.float32(0.3)) & (dv >= 2) & (dv < 3.2)))
    for line in lines:
        canvas.paint(ground, line & clear, WHITE_PAINT, ROAD, canvas.texture(ground, canvas.rough, 9, 0.15))


def cast(canvas: Canvas, street: Street, left: float, right: float) -> None:
    """Cast the shadows of the houses on the sun's side over the ground, by the heights of both rows."""
    light, ground = canvas.light, canvas.ground
    if sum(light.sun) < 0.5:
        return
    side = -1.0 if light.x < 0 else 1.0
    height = left if side < 0 else right
    reach = height * abs(light.x) * (1 / light.height - 0.9)
    edge = np.float32(street.frontage(side) - reach)
    out = ground.u * np.float32(side)
    # Neighboring houses differ in height, so the edge of their shadow is a staircase.
    step = (ground.v * np.float32(1 / 11)).astype(np.int32) & 255
    canvas.darken(ground, out > edge + canvas.grain[step, 3] * np.float32(reach * 0.3), light.shade())
