"""What stands and lies in a toy scene: roofs, cars, trees, surfaces. Lengths are meters, colors 0 to 1."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, Color, Dice, Field, Frame, Window

ROAD, BUILDING, VEGETATION = range(3)

# The palettes overlap on purpose: slate and bitumen roofs have the grays of asphalt, tiles those of soil
# and red pavers, cars those of all roofs, leafless trees those of concrete. Color alone must not do.
ASPHALT: tuple[Color, ...] = (
    (0.45, 0.45, 0.46), (0.52, 0.52, 0.52), (0.58, 0.57, 0.55), (0.40, 0.40, 0.42),
)  # fmt: skip
PAVING: tuple[Color, ...] = (
    (0.63, 0.61, 0.57), (0.56, 0.46, 0.40), (0.53, 0.52, 0.49), (0.68, 0.67, 0.65),
)  # fmt: skip
TILES: tuple[Color, ...] = (
    (0.60, 0.37, 0.29), (0.50, 0.36, 0.30), (0.42, 0.42, 0.45), (0.48, 0.47, 0.46),
    (0.37, 0.35, 0.34), (0.40, 0.46, 0.34),
)  # fmt: skip
FLAT: tuple[Color, ...] = (
    (0.47, 0.47, 0.48), (0.58, 0.57, 0.56), (0.70, 0.69, 0.67), (0.41, 0.40, 0.41),
    (0.53, 0.45, 0.40), (0.40, 0.45, 0.33),
)  # fmt: skip
CARS: tuple[Color, ...] = (
    (0.80, 0.80, 0.80), (0.20, 0.20, 0.22), (0.48, 0.49, 0.51), (0.55, 0.20, 0.18), (0.22, 0.30, 0.46),
    (0.62, 0.60, 0.55), (0.30, 0.38, 0.30), (0.50, 0.37, 0.30),
)  # fmt: skip
GRASS: tuple[Color, ...] = (
    (0.40, 0.47, 0.31), (0.45, 0.48, 0.35), (0.55, 0.52, 0.40), (0.50, 0.48, 0.39),
)  # fmt: skip
SOIL: tuple[Color, ...] = ((0.55, 0.43, 0.34), (0.48, 0.39, 0.33), (0.61, 0.54, 0.45))
LEAVES: tuple[Color, ...] = (
    (0.33, 0.41, 0.25), (0.40, 0.45, 0.30), (0.43, 0.42, 0.36), (0.52, 0.40, 0.28), (0.34, 0.37, 0.29),
)  # fmt: skip
CLUTTER: tuple[Color, ...] = (
    (0.30, 0.45, 0.60), (0.62, 0.55, 0.42), (0.72, 0.72, 0.72), (0.45, 0.32, 0.27), (0.35, 0.42, 0.36),
)  # fmt: skip


def pick(dice: Dice, palette: tuple[Color, ...], *weights: float) -> Color:
    """Return a color of the palette, a little lighter or darker than it stands there."""
    red, green, blue = palette[dice.index(weights or (1.0,) * len(palette))]
    tone = dice.uniform(0.90, 1.10)
    return red * tone, green * tone, blue * tone


def stripes(along: Field, period: float, share: float) -> np.ndarray:
    """Return the mask of stripes across `along`: `share` of every `period`."""
    phase = along / np.float32(period)
    result: np.ndarray = (phase - np.floor(phase)) < share
    return result


def surface(canvas: Canvas, window: Window, mask: np.ndarray, color: Color) -> None:
    """Pave: smooth, slightly stained, a fine speckle."""
    texture = canvas.noise(window, coarse=0.05, middle=0.05, grain=0.035)
    canvas.paint(window, mask, color, texture, ROAD)


def meadow(canvas: Canvas, window: Window, mask: np.ndarray, color: Color, *, rough: float = 1.0) -> None:
    """Cover with grass or soil: patchy at every scale."""
    texture = canvas.noise(window, coarse=0.13, middle=0.12, fine=0.13 * rough, grain=0.17 * rough)
    canvas.paint(window, mask, color, texture, VEGETATION)


def car(canvas: Canvas, dice: Dice, frame: Frame) -> None:
    half_u, half_v = dice.uniform(1.9, 2.5), dice.uniform(0.8, 0.98)
    color, nose = pick(dice, CARS), 1.0 if dice.chance(0.5) else -1.0
    if (window := canvas.window(frame, half_u, half_v)) is None:
        return
    corners = abs(window.u) / np.float32(half_u) + abs(window.v) / np.float32(half_v) < 1.75
    canvas.paint(window, window.box(half_u, half_v) & corners, color, 1.0, ROAD, 0.8)
    glass = (0.15, 0.18, 0.22)
    cabin = window.box(half_u * 0.56, half_v * 0.86, u=-nose * 0.25)
    canvas.paint(window, cabin, glass, 1.0, ROAD, 1.3)
    roof = window.box(half_u * 0.36, half_v * 0.78, u=-nose * 0.32)
    canvas.paint(window, roof, color, 1.08, ROAD, 1.5)


def gable(canvas: Canvas, dice: Dice, frame: Frame, half_u: float, half_v: float, color: Color) -> None:
    """Build a pitched roof with its ridge along `u`; hipped at both ends in a third of the cases."""
    eaves, pitch, hipped = dice.uniform(2.8, 6.0), dice.uniform(0.45, 0.85), dice.chance(0.33)
    period = dice.uniform(0.45, 0.8)
    if (window := canvas.window(frame, half_u, half_v)) is None:
        return
    inward = np.float32(half_v) - abs(window.v)
    if hipped:
        inward = np.minimum(inward, np.float32(half_u) - abs(window.u))
    height = np.float32(eaves) + np.maximum(inward, 0) * np.float32(pitch)
    texture = canvas.noise(window, coarse=0.04, middle=0.07, fine=0.05, grain=0.05)
    texture *= np.where(stripes(window.v, period, 0.35), np.float32(0.80), np.float32(1.07))
    texture *= np.where(stripes(window.u, period * 1.7, 0.25), np.float32(0.90), np.float32(1.03))
    ridge = abs(window.v) < 0.14
    texture[ridge] *= np.float32(1.22)
    body = window.box(half_u, half_v)
    canvas.paint(window, body, color, texture, BUILDING, height)
    for _ in range(dice.index((0.5, 1.0, 0.6))):
        u, v = dice.uniform(-0.7, 0.7) * half_u, dice.uniform(-0.5, 0.5) * half_v
        canvas.paint(window, window.box(0.35, 0.35, u, v), (0.5, 0.33, 0.28), 1.0, BUILDING, height + 1.0)
    side = 1.0 if dice.chance(0.5) else -1.0
    if dice.chance(0.3):  # solar panels
        panel = window.box(half_u * 0.6, half_v * 0.28, v=side * half_v * 0.5)
        seams = ~(stripes(window.u, 1.0, 0.12) | stripes(window.v, 1.6, 0.08))
        canvas.paint(window, panel & seams, (0.15, 0.19, 0.30), 1.0, BUILDING, height + 0.1)
    elif dice.chance(0.5):  # skylights
        row = window.box(half_u * 0.7, 0.4, v=side * half_v * 0.5) & stripes(window.u, 2.6, 0.3)
        canvas.paint(window, row, (0.25, 0.29, 0.34), 1.0, BUILDING, height + 0.1)


def flat_roof(canvas: Canvas, dice: Dice, frame: Frame, half_u: float, half_v: float) -> None:
    """Build a flat roof: a parapet, seams, and machines on top."""
    top, color = dice.uniform(3.0, 8.0), pick(dice, FLAT, 1, 1, 0.7, 1, 0.6, 0.15)
    seam = dice.uniform(1.0, 1.8)
    if (window := canvas.window(frame, half_u, half_v)) is None:
        return
    texture = canvas.noise(window, coarse=0.05, middle=0.07, fine=0.04, grain=0.035)
    texture *= np.where(stripes(window.u, seam, 0.16), np.float32(0.84), np.float32(1.0))
    canvas.paint(window, window.box(half_u, half_v), color, texture, BUILDING, top)
    rim = window.box(half_u, half_v) & ~window.box(half_u - 0.35, half_v - 0.35)
    canvas.paint(window, rim, color, 1.2, BUILDING, top + 0.5)
    for _ in range(1 + dice.index((1, 1, 1, 1, 1))):
        u, v = dice.uniform(-0.75, 0.75) * half_u, dice.uniform(-0.7, 0.7) * half_v
        unit = window.box(dice.uniform(0.4, 1.1), dice.uniform(0.4, 0.9), u, v)
        canvas.paint(window, unit, pick(dice, CLUTTER, 0, 0.3, 2, 0.3, 0.3), 1.0, BUILDING, top + 1.2)


def clutter(canvas: Canvas, dice: Dice, frame: Frame) -> None:
    """Put down a container, a pool, a tarpaulin or a heap: what no other class wants."""
    half_u, half_v = dice.uniform(0.9, 2.8), dice.uniform(0.8, 1.4)
    color, height = pick(dice, CLUTTER), dice.uniform(0.1, 2.4)
    if (window := canvas.window(frame, half_u, half_v)) is None:
        return
    texture = canvas.noise(window, middle=0.06, grain=0.04)
    texture *= np.where(stripes(window.u, 0.5, 0.3), np.float32(0.85), np.float32(1.05))
    canvas.paint(window, window.box(half_u, half_v), color, texture, BUILDING, height)


def tree(canvas: Canvas, dice: Dice, frame: Frame, radius: float, color: Color) -> None:
    """Grow a crown: a bumpy dome whose outline and relief follow the noise fields."""
    trunk = dice.uniform(0.4, 1.0) * radius
    if (window := canvas.window(frame, radius * 1.3, radius * 1.3)) is None:
        return
    span = np.float32(radius)
    distance = np.sqrt(window.u * window.u + window.v * window.v) / span
    ragged = distance + canvas.middle[window.area] * np.float32(0.12)
    ragged += canvas.fine[window.area] * np.float32(0.22)
    dome = np.sqrt(np.maximum(1 - ragged * ragged, 0))
    clumps = canvas.noise(window, middle=0.10, fine=0.20, grain=0.13)
    height = np.float32(trunk) + span * np.float32(0.75) * dome + (clumps - 1) * np.float32(0.9)
    texture = clumps + canvas.grain[window.area] * np.float32(0.13)
    canvas.paint(window, ragged < 1, color, texture, VEGETATION, height)


def hedge(canvas: Canvas, dice: Dice, frame: Frame, half_u: float) -> None:
    half_v, color = dice.uniform(0.4, 0.7), pick(dice, LEAVES)
    if (window := canvas.window(frame, half_u, half_v + 0.3)) is None:
        return
    ragged = abs(window.v) + canvas.fine[window.area] * np.float32(0.3) < half_v
    texture = canvas.noise(window, middle=0.1, fine=0.2, grain=0.22)
    canvas.paint(window, ragged & window.box(half_u, 9.0), color, texture, VEGETATION, 0.6 + texture * 0.6)
