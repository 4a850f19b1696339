"""The toy scenes: streets and plots laid out at random, drawn, and photographed.

The generator is frozen. Any change that moves a byte is another dataset: raise `VERSION` with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from uss_bench.contracts import IGNORE

from . import objects as things
from .camera import photograph, purity
from .canvas import EXTENT, PIXELS, Canvas, Dice, Frame
from .objects import VEGETATION, pick

VERSION = 1


@dataclass(frozen=True)
class Style:
    """How likely a plot is a house, a hall, a parking area or open land, and how green all is."""

    house: float
    hall: float
    parking: float
    open: float
    trees: float
    crossing: float


STYLES = (
    Style(house=1.0, hall=0.1, parking=0.1, open=0.15, trees=1.2, crossing=0.3),  # suburb
    Style(house=0.3, hall=1.0, parking=0.5, open=0.15, trees=0.7, crossing=0.4),  # trade estate
    Style(house=0.25, hall=0.1, parking=0.1, open=1.0, trees=1.6, crossing=0.2),  # park
)


@dataclass(frozen=True)
class Street:
    """The main street: along `u`, bent as v = bend × u², with pavements on both sides."""

    frame: Frame
    half: float
    walk: float
    bend: float

    def center(self, u: float) -> float:
        return self.bend * u * u


def render(seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw scene `number` of the world `seed`.

    Returns:
        The image, uint8 (200, 200, 3), and its label, int16 (200, 200): 0 roads and cars, 1 buildings and
        clutter, 2 vegetation and trees, `IGNORE` where a pixel holds two classes or lies beyond the survey.
    """
    dice = Dice(VERSION, seed, number)
    canvas = Canvas(dice, VEGETATION)
    style = STYLES[dice.index((0.45, 0.35, 0.2))]
    ex, ey = dice.direction()
    middle = EXTENT / 2
    frame = Frame(middle + dice.uniform(-12, 12), middle + dice.uniform(-12, 12), ex, ey)
    street = Street(frame, dice.uniform(2.6, 3.6), dice.uniform(0.8, 2.0), dice.uniform(-0.004, 0.004))
    _ground(canvas, dice, frame)
    asphalt = pick(dice, things.ASPHALT)
    cross = dice.uniform(-14, 14) if dice.chance(style.crossing) else None
    _roads(canvas, dice, street, asphalt, cross)
    _plots(canvas, dice, street, style, cross)
    _traffic(canvas, dice, street, style)
    image = photograph(canvas, dice)
    label, same = purity(canvas.label)
    label = np.where(same, label.astype(np.int16), np.int16(IGNORE))
    if dice.chance(0.1):
        _wedge(dice, image, label)
    return image, label


def _ground(canvas: Canvas, dice: Dice, frame: Frame) -> None:
    """Cover everything with grass, drier in places, and let bare soil show where the noise is high."""
    window = canvas.everywhere(frame)
    things.meadow(canvas, window, np.ones(window.u.shape, np.bool_), pick(dice, things.GRASS))
    drier = canvas.coarse + canvas.fine * np.float32(0.3) > dice.uniform(-0.2, 0.6)
    things.meadow(canvas, window, drier, pick(dice, things.GRASS))
    bare = canvas.middle + canvas.fine * np.float32(0.4) + canvas.coarse > dice.uniform(0.6, 1.4)
    things.meadow(canvas, window, bare, pick(dice, things.SOIL), rough=0.7)


def _roads(
    canvas: Canvas, dice: Dice, street: Street, asphalt: tuple[float, float, float], cross: float | None
) -> None:
    paving, paint = pick(dice, things.PAVING), (0.82, 0.82, 0.80)
    window = canvas.everywhere(street.frame)
    along, across = window.u, abs(window.v - np.float32(street.bend) * window.u * window.u)
    ways = [(along, across, street.half)]
    if cross is not None:
        ways.append((window.v, abs(window.u - np.float32(cross)), dice.uniform(2.3, 3.2)))
    for _, distance, half in ways:
        things.surface(canvas, window, distance <= half + street.walk, paving)
    for _, distance, half in ways:
        things.surface(canvas, window, distance <= half, asphalt)
    worn = (across <= street.half * 0.9) & things.stripes(along + canvas.coarse * 4, 23.0, 0.2)
    things.surface(canvas, window, worn, pick(dice, things.ASPHALT))
    if cross is None or dice.chance(0.5):
        dashes = (across < 0.11) & things.stripes(along, 4.0, 0.5)
        if cross is not None:
            dashes &= ways[1][1] > ways[1][2]
        canvas.paint(window, dashes, paint, canvas.noise(window, fine=0.1), None)
    if dice.chance(0.4):
        place = dice.uniform(-10, 10)
        zebra = (abs(along - np.float32(place)) < 1.4) & (across < street.half)
        canvas.paint(window, zebra & things.stripes(across, 1.0, 0.5), paint, 1.0, None)


def _plots(canvas: Canvas, dice: Dice, street: Street, style: Style, cross: float | None) -> None:
    edge = street.half + street.walk
    for side in (-1.0, 1.0):
        for near, depth in ((edge, dice.uniform(15, 20)), (edge + 20, 18.0)):
            u = -42.0 + dice.uniform(0, 8)
            while u < 42:
                width = dice.uniform(13, 20)
                center = u + width / 2
                u += width
                if cross is not None and abs(center - cross) < width / 2 + 4.5:
                    continue
                v = street.center(center) + side * (near + depth / 2)
                spot = street.frame.at(center, v)
                _plot(canvas, dice, spot, side, width / 2, depth / 2, style)


def _plot(
    canvas: Canvas, dice: Dice, spot: Frame, side: float, half_u: float, half_v: float, style: Style
) -> None:
    """Fill a plot of these half sides; its street lies at local v = −`side` × `half_v`."""
    if (window := canvas.window(spot, half_u, half_v)) is None:
        return
    kind = dice.index((style.house, style.hall, style.parking, style.open))
    if kind == 0:
        _house(canvas, dice, spot, side, half_u, half_v)
    elif kind == 1:
        if dice.chance(0.45):
            things.surface(
                canvas, window, window.box(half_u, half_v), pick(dice, things.PAVING, 1, 0.4, 1, 0.5)
            )
        things.flat_roof(canvas, dice, spot, half_u - dice.uniform(0.5, 2.0), half_v - dice.uniform(0.8, 2.8))
    elif kind == 2:
        _parking(canvas, dice, spot, half_u, half_v)
    elif dice.chance(0.4):
        soil = window.box(half_u - 1, half_v - 1) & (canvas.middle[window.area] > dice.uniform(-0.6, 0.1))
        things.meadow(canvas, window, soil, pick(dice, things.SOIL), rough=0.7)
    for _ in range(dice.index((1, 1, 0.6)) if kind != 2 else 0):
        place = spot.at(dice.uniform(-1, 1) * half_u, side * dice.uniform(0.5, 1) * half_v)
        things.clutter(canvas, dice, place)
    if kind != 2:
        _green(canvas, dice, spot, half_u, half_v, style.trees * (1.0, 0.5, 0.0, 2.0)[kind])


def _house(canvas: Canvas, dice: Dice, spot: Frame, side: float, half_u: float, half_v: float) -> None:
    color = pick(dice, things.TILES, 1, 1, 1, 0.8, 0.8, 0.15)
    long, short = dice.uniform(5.4, 8.0), dice.uniform(4.0, 5.8)
    long = min(long, half_u - 0.6)
    turned = dice.chance(0.4)
    shift = dice.uniform(-2.0, 2.0)
    if dice.chance(0.75) and (window := canvas.window(spot, half_u, half_v)) is not None:
        drive = window.box(dice.uniform(1.4, 2.4), half_v, u=half_u * 0.65 * (1 if dice.chance(0.5) else -1))
        things.surface(canvas, window, drive, pick(dice, things.PAVING))
        if dice.chance(0.6):
            terrace = window.box(long, short + dice.uniform(1.0, 3.0), v=shift)
            things.surface(canvas, window, terrace, pick(dice, things.PAVING))
    things.gable(canvas, dice, spot.at(0, shift, turned=turned), long, short, color)
    if dice.chance(0.35):
        wing = spot.at(dice.uniform(-3, 3), shift + side * 2.5, turned=not turned)
        things.gable(canvas, dice, wing, long * 0.8, short * 0.7, color)
    if dice.chance(0.4):
        things.car(canvas, dice, spot.at(half_u * 0.65, -side * half_v * 0.6, turned=True))


def _parking(canvas: Canvas, dice: Dice, spot: Frame, half_u: float, half_v: float) -> None:
    if (window := canvas.window(spot, half_u, half_v)) is None:
        return
    things.surface(
        canvas, window, window.box(half_u, half_v), pick(dice, things.ASPHALT + things.PAVING[1:2])
    )
    busy = dice.uniform(0.2, 0.9)
    for row in (-half_v + 2.6, half_v - 2.6):
        stalls = window.box(half_u - 0.5, 2.4, v=row) & things.stripes(window.u, 2.6, 0.06)
        canvas.paint(window, stalls, (0.80, 0.80, 0.78), 1.0, None)
        for stall in range(int(-half_u / 2.6) + 1, int(half_u / 2.6)):
            if dice.chance(busy):
                things.car(canvas, dice, spot.at((stall + 0.53) * 2.6, row, turned=True))


def _green(canvas: Canvas, dice: Dice, spot: Frame, half_u: float, half_v: float, density: float) -> None:
    for _ in range(int(density * dice.uniform(0.5, 4.0))):
        place = spot.at(dice.uniform(-1, 1) * half_u, dice.uniform(-1, 1) * half_v)
        things.tree(canvas, dice, place, dice.uniform(1.2, 4.2), pick(dice, things.LEAVES))
    if dice.chance(0.4):
        things.hedge(canvas, dice, spot.at(half_u, 0, turned=True), half_v * 0.9)


def _traffic(canvas: Canvas, dice: Dice, street: Street, style: Style) -> None:
    """Put moving cars in both lanes, and a row of parked cars or trees along a kerb."""
    parked, avenue = dice.chance(0.6), dice.chance(0.35 * style.trees)
    leaves = pick(dice, things.LEAVES)
    for step in range(-7, 8):
        u = step * 5.6 + dice.uniform(-0.6, 0.6)
        v = street.center(u)
        if dice.chance(0.15):
            lane = street.half * (0.5 if dice.chance(0.5) else -0.5)
            things.car(canvas, dice, street.frame.at(u, v + lane * 0.8))
        if parked and dice.chance(0.6):
            things.car(canvas, dice, street.frame.at(u + 2.0, v + street.half - 1.1))
        if avenue and dice.chance(0.6):
            place = street.frame.at(u, v - street.half - street.walk * 0.6)
            things.tree(canvas, dice, place, dice.uniform(1.4, 2.8), leaves)


def _wedge(dice: Dice, image: np.ndarray, label: np.ndarray) -> None:
    """Black out what the flight line did not cover, in place."""
    nx, ny = dice.direction()
    offset = dice.uniform(0.25, 0.42) * PIXELS
    axis = np.arange(PIXELS, dtype=np.float64) - PIXELS / 2
    beyond = axis[None, :] * nx + axis[:, None] * ny > offset
    image[beyond] = 0
    label[beyond] = IGNORE
