"""The street scenes: places drawn at random, filled, drawn from far to near, and photographed.

The generator is frozen. Any change that moves a byte is another dataset: raise `VERSION` with it.
"""

from __future__ import annotations

import numpy as np

from uss_bench.contracts import IGNORE

from . import buildings, furniture, vegetation
from .camera import draw_camera, photograph, purity, shown_depth, sky
from .canvas import Canvas
from .dice import Dice
from .ground import Street, cast, pave
from .light import draw_light
from .palette import METAL
from .streets import Place, draw_place, draw_street
from .traffic import Props, populate
from .view import HEIGHT, NEAR, WIDTH

VERSION = 1

_DATASET = 27
"""Part of the entropy, so that no other generator draws the same streams."""
SIGHT = 250.0
"""Largest depth in meters; what is farther, and the sky, is said to be this far."""
UNLABELED = 1_000_000
"""Number of the first scene outside all splits; splits stay far below it."""


def unlabeled_scene(index: int, *, seed: int = 0) -> np.ndarray:
    """Return image `index` of an endless supply that shares no scene with any split.

    It is there for training self-supervised backbones on the same kind of images.

    Returns:
        uint8 (192, 256, 3), RGB.

    Raises:
        ValueError: for a negative index, which could name a scene of a split.
    """
    if index < 0:
        raise ValueError(f"Unlabeled scenes are counted from 0, not {index}.")
    return render(seed, UNLABELED + index)[0]


def render(seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw scene `number` of the world `seed`.

    Returns:
        The image, uint8 (192, 256, 3), and its label, int16 (192, 256): 0..26 in the order of
        `palette`, and `IGNORE` where no class fills more than half of a pixel, on the bonnet of the
        camera's own car and in the frame that rectification leaves.
    """
    image, label, _ = _draw(seed, number)
    return image, label


def depth(seed: int, number: int) -> np.ndarray:
    """Return the depth of scene `number`, float32 (192, 256): meters along the camera's axis.

    It is at most `SIGHT`, and of what is labeled where a pixel shows several things. The bonnet of the
    camera's own car is at `NEAR`, and so is the frame that rectification leaves.
    """
    return _draw(seed, number)[2]


def _draw(seed: int, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return image, label and depth of a scene."""
    dice = Dice(VERSION, _DATASET, seed, number)
    place = draw_place(dice)
    street = draw_street(dice, place)
    canvas = Canvas(draw_camera(dice), draw_light(dice), dice)
    sky(canvas, dice)
    pave(canvas, dice, street)
    props = Props()
    _across(canvas, dice, street, place, props)
    roofs = [_frontage(canvas, dice, street, place, side, props.ends) for side in (-1.0, 1.0)]
    cast(canvas, street, roofs[0], roofs[1])
    _distance(canvas, dice, place, props.ends)
    _boundaries(canvas, dice, street, place, props)
    populate(canvas, dice, street, place, props)
    props.draw()
    image = photograph(canvas, dice)
    label, pure = purity(canvas.label)
    label = np.where(pure, label.astype(np.int16), np.int16(IGNORE))
    distance = np.minimum(shown_depth(canvas.depth), np.float32(SIGHT))
    _bonnet(canvas, dice, image, label, distance)
    _margins(dice, image, label, distance)
    return image, label, distance


def _frontage(canvas: Canvas, dice: Dice, street: Street, place: Place, side: float, last: float) -> float:
    """Build along one side of the street up to the depth `last`; return a height for the shadows."""
    kind = dice.index(place.block, place.house, place.hall, place.park)
    front, z, height = street.frontage(side), -4.0, 0.0
    if kind == 3:
        if dice.chance(0.75):
            height = dice.uniform(3.5, 9.0)
            x = side * (front + dice.uniform(2, 9))
            vegetation.hedge(canvas, dice, (x, 0.0), (x * 1.2, last), height)
        return height * 0.5
    near, far = street.crossing or (999.0, 999.0)
    if kind == 0:
        shared = 1 + dice.index(*(1.0,) * place.storeys)
        while z < last:
            width = dice.uniform(8, 20)
            storeys = max(1, shared + dice.index(1, 2, 1) - 1)
            end = min(z + width, near - 2.5) if z < near else z + width
            x = side * (front + (dice.uniform(0.0, 0.7) if dice.chance(0.3) else 0.0))
            if end - z > 3:
                buildings.block(canvas, dice, (x, z), (x, end), storeys)
                if z > 0:  # the flank, where the neighbor is lower or a street opens
                    buildings.block(canvas, dice, (x, z), (x + side * 12, z), storeys)
                height = 4 + 3.2 * storeys
            z = far + 2.5 if z < near <= z + width else z + width
        return height
    setback = dice.uniform(2.5, 6.0) if kind == 1 else dice.uniform(0.5, 9.0)
    while z < last:
        width = dice.uniform(8, 13) if kind == 1 else dice.uniform(18, 40)
        gap = dice.uniform(3, 7)
        if not z - 3 < far or not z + width > near - 3:
            build = buildings.house if kind == 1 else buildings.hall
            build(canvas, dice, side, front + setback, z, z + width)
        z += width + gap
    return 4.5 if kind == 1 else 3.0


def _distance(canvas: Canvas, dice: Dice, place: Place, ends: float) -> None:
    """Close the view: a line of trees or houses at the horizon, or a block where the street ends."""
    vegetation.hedge(canvas, dice, (-240.0, 200.0), (240.0, 200.0), dice.uniform(6, 16))
    for _ in range(dice.index(1, 1, 1, 1)):
        x, z = dice.uniform(-70, 70), dice.uniform(150, 190)
        storeys = 1 + dice.index(1, 1, 1, 1, 0.4, 0.2)
        buildings.block(canvas, dice, (x, z), (x + dice.uniform(15, 40), z), storeys)
    if ends >= 100 and dice.chance(0.45 * place.block):
        z = dice.uniform(60, 120)
        x = -45.0
        while x < 45:
            width = dice.uniform(12, 22)
            buildings.block(canvas, dice, (x, z), (x + width, z), 1 + dice.index(1, 1, 1))
            x += width


def _across(canvas: Canvas, dice: Dice, street: Street, place: Place, props: Props) -> None:
    """Lead the street under a bridge or into a tunnel."""
    edge = max(street.frontage(-1.0), street.frontage(1.0))
    if dice.chance(place.tunnel):
        half = max(street.kerb(-1.0), street.kerb(1.0)) + 1.0
        z = dice.uniform(12, 42)
        buildings.tunnel(canvas, dice, z, half)
        props.ends = z - 1.0
        if dice.chance(0.7):
            hill, top = half + 5.0, dice.uniform(8, 13)
            for start, end, low in ((-60, -hill, 0.0), (-hill, hill, buildings.TUNNEL_TOP), (hill, 60, 0.0)):
                vegetation.hedge(canvas, dice, (start, z + 2), (end, z + 2), top, low)
    elif dice.chance(place.bridge):
        buildings.bridge(canvas, dice, dice.uniform(8, 40), edge * dice.uniform(0.8, 1.0))


def _boundaries(canvas: Canvas, dice: Dice, street: Street, place: Place, props: Props) -> None:
    """Run walls, fences, hedges and guard rails along both sides, piece by piece."""
    near, far = street.crossing or (999.0, 999.0)
    for side in (-1.0, 1.0):
        # Not in the plane of a facade, where neither would be in front.
        x = side * (street.frontage(side) - 0.2)
        kind = dice.index(0.9, 1.1, 0.9, 0.5 + place.block * 2.2)
        z, height = dice.uniform(0, 6), dice.uniform(0.8, 2.0)
        while z < min(75.0, props.ends) and kind != 3:
            end = z + dice.uniform(8, 22)
            if end < near - 2 or z > far + 2:
                start, stop = (x, z), (x, end)
                if kind == 0:
                    props.add(z, furniture.wall, canvas, dice, start, stop)
                elif kind == 1:
                    props.add(z, furniture.fence, canvas, dice, start, stop)
                else:
                    props.add(z, vegetation.hedge, canvas, dice, start, stop, height)
            z = end + (dice.uniform(1.5, 6) if dice.chance(0.5) else 0.0)
        if dice.chance(place.guard_rail):
            x, end = side * (street.kerb(side) + 0.35), min(near - 3, props.ends, 90.0)
            if end > 8:
                props.add(2.0, furniture.guard_rail, canvas, (x, 1.0), (x, end))


def _bonnet(canvas: Canvas, dice: Dice, image: np.ndarray, label: np.ndarray, distance: np.ndarray) -> None:
    """Let the bonnet of the camera's own car reach into the image, in place; it is ignored."""
    if not dice.chance(0.3):
        return
    rise = dice.uniform(7, 20)
    middle, wide = WIDTH * dice.uniform(0.42, 0.58), WIDTH * dice.uniform(0.55, 0.75)
    across = (np.arange(WIDTH, dtype=np.float64) + 0.5 - middle) / wide
    top = HEIGHT - rise * (1 - across * across)
    depth = np.arange(HEIGHT, dtype=np.float64)[:, None] + 0.5 - top
    hood = depth > 0
    for channel, value in enumerate(dice.pick(METAL)):
        gleam = value * canvas.light.haze[channel] * (1.25 - depth / 45)
        tone = np.clip(np.floor(gleam * 255), 0, 255).astype(np.uint8)
        np.copyto(image[..., channel], tone, where=hood)
    label[hood] = IGNORE
    distance[hood] = NEAR


def _margins(dice: Dice, image: np.ndarray, label: np.ndarray, distance: np.ndarray) -> None:
    """Black out what rectification leaves empty at the edges of the image, in place."""
    if not dice.chance(0.25):
        return
    for edge in range(4):
        wide = dice.index(1, 1, 1, 1)
        turned, marked, near = (np.rot90(array, edge) for array in (image, label, distance))
        turned[:wide], marked[:wide], near[:wide] = 0, IGNORE, NEAR
