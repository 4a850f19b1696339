"""What stands beside the carriageway: poles, lights, signs, guard rails, walls and fences."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas
from .dice import Color, Dice
from .palette import (
    FENCE,
    GUARD_RAIL,
    METAL,
    POLE,
    POLEGROUP,
    STONE,
    TIMBER,
    TRAFFIC_LIGHT,
    TRAFFIC_SIGN,
    WALL,
    WHITE_PAINT,
)  # fmt: skip
from .view import Panel, Point, grooves, stripes

_RED: Color = (0.66, 0.12, 0.11)
_BLUE: Color = (0.14, 0.28, 0.58)
_YELLOW: Color = (0.78, 0.62, 0.14)
_LIT = ((0.95, 0.16, 0.10), (0.95, 0.70, 0.12), (0.20, 0.88, 0.45))
_BACK: Color = (0.42, 0.43, 0.44)


def pole(
    canvas: Canvas, x: float, z: float, height: float, radius: float, color: Color, label: int = POLE
) -> None:
    """Draw a round pole: lighter in its middle than at its flanks."""
    if (panel := canvas.upright(x, z, radius, 0.0, height)) is not None:
        canvas.paint(panel, panel.inside, color, label, 1.1 - 0.4 * abs(panel.u) / np.float32(radius))


def lamp(canvas: Canvas, dice: Dice, x: float, z: float, towards: float) -> None:
    """Draw a street lamp; its arm reaches to the side `towards` (−1 or 1)."""
    height, color = dice.uniform(4.5, 8.5), dice.pick(METAL)
    pole(canvas, x, z, height, dice.uniform(0.07, 0.12), color)
    if (panel := canvas.upright(x, z, 2.3, height - 0.6, height + 0.3)) is None:
        return
    reach = towards * dice.uniform(0.5, 2.0)
    canvas.paint(panel, panel.limb((0, height - 0.1), (reach, height + 0.1), 0.06), color, POLE)
    head = panel.limb((reach, height + 0.1), (reach + towards * 0.25, height + 0.08), 0.12)
    canvas.paint(panel, head, (0.62, 0.62, 0.60), POLE)


def polegroup(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Draw several poles that stand together as one group."""
    color, height = dice.pick(METAL), dice.uniform(2.5, 6.0)
    step, radius = dice.uniform(0.2, 0.3), dice.uniform(0.06, 0.09)
    for i in range(3 + dice.index(1, 1, 1)):
        pole(canvas, x + i * step, z, height * dice.uniform(0.8, 1.0), radius, color, POLEGROUP)


def traffic_light(canvas: Canvas, dice: Dice, x: float, z: float, towards: float) -> None:
    """Draw traffic lights on a pole, a second set over the carriageway on a long arm."""
    color, over = dice.pick(METAL), dice.chance(0.4)
    lit, away = dice.index(1, 0.4, 1), dice.chance(0.2)
    pole(canvas, x, z, 5.6 if over else 3.2, 0.08, color)
    spots = [(x, 2.2)]
    if over:
        reach = towards * dice.uniform(2.5, 4.0)
        if (panel := canvas.panel((x, z), (x + reach, z), 5.3, 5.5)) is not None:
            canvas.paint(panel, panel.inside, color, POLE)
        spots.append((x + reach, 4.75))
    for place, low in spots:
        if (panel := canvas.upright(place, z - 0.1, 0.24, low, low + 1.1)) is None:
            continue
        canvas.paint(panel, panel.inside, (0.11, 0.12, 0.11), TRAFFIC_LIGHT)
        for lens in range(3):
            glow = _LIT[lens] if lens == lit else (0.20, 0.19, 0.18)
            if not away:
                canvas.paint(panel, panel.disc(0, low + 0.88 - 0.33 * lens, 0.13), glow, TRAFFIC_LIGHT)


def sign(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Draw one or two signs on a pole, or a board with directions on two."""
    kind, color = dice.index(1, 1, 1, 0.8, 0.7, 0.5), (0.50, 0.51, 0.52)
    if kind == 4:
        _board(canvas, dice, x, z)
        return
    size, height = dice.uniform(0.32, 0.45), dice.uniform(2.1, 2.7)
    pole(canvas, x, z, height + size, 0.05, color)
    for level in range(1 + dice.index(0.7, 0.3)):
        middle = height - level * size * 2.1
        if (panel := canvas.upright(x, z - 0.08, size, middle - size, middle + size)) is None:
            return
        _face(canvas, panel, kind if level == 0 else 3, middle, size)


def _face(canvas: Canvas, panel: Panel, kind: int, middle: float, size: float) -> None:
    disc = panel.disc(0, middle, size)
    if kind == 0:  # a prohibition
        canvas.paint(panel, disc, _RED, TRAFFIC_SIGN)
        canvas.paint(panel, panel.disc(0, middle, size * 0.7), WHITE_PAINT, TRAFFIC_SIGN)
        canvas.paint(panel, panel.limb((-0.1, middle), (0.1, middle), 0.05), (0.1, 0.1, 0.1), TRAFFIC_SIGN)
    elif kind == 1:  # a warning
        for part, color in ((1.0, _RED), (0.58, WHITE_PAINT)):
            low = middle - size * 0.75 * part
            triangle = (panel.v > low) & (abs(panel.u) < (middle + size * part - panel.v) * np.float32(0.57))
            canvas.paint(panel, triangle & panel.inside, color, TRAFFIC_SIGN)
    elif kind == 2:  # an order
        canvas.paint(panel, disc, _BLUE, TRAFFIC_SIGN)
        canvas.paint(
            panel, panel.limb((0, middle - 0.18), (0, middle + 0.2), 0.06), WHITE_PAINT, TRAFFIC_SIGN
        )
    elif kind == 3:  # a square
        canvas.paint(panel, panel.inside, WHITE_PAINT, TRAFFIC_SIGN)
        inner = panel.box(-size * 0.86, size * 0.86, middle - size * 0.86, middle + size * 0.86)
        canvas.paint(panel, inner, _BLUE, TRAFFIC_SIGN)
        canvas.paint(
            panel, panel.limb((-0.08, middle - 0.2), (-0.08, middle + 0.2), 0.05), WHITE_PAINT, TRAFFIC_SIGN
        )
    else:  # the back of a sign
        canvas.paint(panel, disc, _BACK, TRAFFIC_SIGN)


def _board(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    half, low, high = dice.uniform(0.9, 1.6), dice.uniform(1.8, 2.6), dice.uniform(3.3, 4.2)
    for side in (-0.7, 0.7):
        pole(canvas, x + side * half, z, low + 0.2, 0.06, (0.50, 0.51, 0.52))
    if (panel := canvas.upright(x, z, half, low, high)) is None:
        return
    canvas.paint(panel, panel.inside, (_YELLOW, _BLUE, WHITE_PAINT)[dice.index(1, 1, 0.6)], TRAFFIC_SIGN)
    ink = (0.12, 0.12, 0.14) if dice.chance(0.6) else WHITE_PAINT
    lines = stripes(panel.v, 0.45, 0.35, low + 0.15) & panel.box(
        -half * 0.8, half * 0.5, low + 0.1, high - 0.15
    )
    canvas.paint(panel, lines & ~stripes(panel.u, 0.23, 0.2), ink, TRAFFIC_SIGN)


def guard_rail(canvas: Canvas, start: Point, end: Point) -> None:
    """Draw a crash barrier: a corrugated beam on posts; what lies between the posts shows through."""
    if (panel := canvas.panel(start, end, 0.0, 0.80)) is None:
        return
    posts = stripes(panel.u, 2.0, 0.06) & panel.inside & (panel.v < 0.6)
    canvas.paint(panel, posts, (0.34, 0.34, 0.35), GUARD_RAIL)
    beam = panel.inside & (panel.v > 0.42)
    fold = 0.78 + 0.3 * abs((panel.v - np.float32(0.61)) * np.float32(8) % 2 - 1)
    canvas.paint(panel, beam, (0.58, 0.59, 0.60), GUARD_RAIL, fold)


def wall(canvas: Canvas, dice: Dice, start: Point, end: Point) -> None:
    """Draw a free-standing wall: bricks, blocks or rendered, with a coping."""
    height, color = dice.uniform(1.2, 3.4), dice.pick(STONE)
    if (panel := canvas.panel(start, end, 0.0, height)) is None:
        return
    tone = canvas.texture(panel, canvas.smooth, 12, 0.18, dice.uniform(0, 9))
    tone *= canvas.texture(panel, canvas.grain, 14, 0.08)
    if dice.chance(0.65):
        course = dice.uniform(0.12, 0.4)
        tone *= grooves(stripes(panel.v, course, 0.14) | stripes(panel.u, course * 2.4, 0.06), 0.22)
    canvas.paint(panel, panel.inside, color, WALL, tone)
    canvas.paint(panel, panel.inside & (panel.v > height - 0.12), color, WALL, 1.25)


def fence(canvas: Canvas, dice: Dice, start: Point, end: Point) -> None:
    """Draw a fence of bars or boards; the gaps belong to the fence, as annotators draw it."""
    height, kind = dice.uniform(0.9, 1.9), dice.index(1, 1, 0.8)
    if (panel := canvas.panel(start, end, 0.0, height)) is None:
        return
    color = dice.pick((TIMBER, METAL, METAL)[kind])
    if kind == 2:  # wire mesh
        bars = stripes(panel.u, 0.16, 0.2) | stripes(panel.v, 0.16, 0.2) | stripes(panel.u, 2.4, 0.04)
    else:
        period, share = ((dice.uniform(0.14, 0.2), 0.72), (dice.uniform(0.12, 0.16), 0.3))[kind]
        rails = (abs(panel.v - 0.25) < 0.05) | (abs(panel.v - (height - 0.2)) < 0.05)
        bars = stripes(panel.u, period, share) | rails | stripes(panel.u, 2.2, 0.05)
    canvas.paint(panel, panel.inside, None, FENCE)
    canvas.paint(panel, panel.inside & bars, color, FENCE, canvas.texture(panel, canvas.smooth, 20, 0.2))
