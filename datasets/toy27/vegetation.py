"""What grows in the street scenes: trees, bushes, hedges and the line of trees in the distance."""

from __future__ import annotations

import numpy as np

from .bodywork import Pose, shadow
from .canvas import Canvas
from .dice import Dice, Field, Mask
from .palette import BARK, LEAVES, VEGETATION
from .view import Panel, Point


def _leaves(canvas: Canvas, panel: Panel, shift: float, per_meter: float) -> Field:
    """Return the texture of leaves: clumps, lighter above, and a coarse grain."""
    tone = canvas.texture(panel, canvas.rough, per_meter, 0.42, shift)
    result: Field = tone * canvas.texture(panel, canvas.rough, per_meter / 5, 0.34, shift + 3)
    return result


def tree(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Grow a tree: a trunk, and a crown of overlapping blobs with a ragged outline."""
    height, slim = dice.uniform(4.5, 11.0), dice.chance(0.25)
    spread = height * (dice.uniform(0.13, 0.18) if slim else dice.uniform(0.26, 0.38))
    low = height * (0.12 if slim else dice.uniform(0.24, 0.36))
    if (panel := canvas.upright(x, z, spread * 1.7, 0.0, height * 1.1)) is None:
        return
    color, shift, bark = dice.pick(LEAVES, 0.2), dice.uniform(0, 20), dice.pick(BARK)
    shadow(canvas, Pose(x, z), 0.5, spread * 0.6)
    thick = height * dice.uniform(0.016, 0.026)
    lean = dice.uniform(-0.03, 0.03) * height
    trunk = panel.limb((0, 0), (lean, low + (height - low) * 0.5), thick)
    canvas.paint(
        panel, trunk & (panel.v >= 0), bark, VEGETATION, canvas.texture(panel, canvas.rough, 20, 0.3)
    )
    ragged = canvas.texture(panel, canvas.rough, 9, 0.30, shift) - 1
    middle, tall = (low + height) / 2, (height - low) / 2
    crown = np.zeros(ragged.shape, np.bool_)
    shine = np.full(ragged.shape, 0.75, np.float32)
    blobs = 1 if slim else 3 + dice.index(1, 1, 1)
    for blob in range(blobs):
        u = lean + (0.0 if slim or blob == 0 else dice.uniform(-0.55, 0.55) * spread)
        v = middle if slim or blob == 0 else middle + dice.uniform(-0.4, 0.5) * tall
        size = 1.0 if slim or blob == 0 else dice.uniform(0.45, 0.7)
        du = (panel.u - np.float32(u)) / np.float32(spread * size * 0.9)
        dv = (panel.v - np.float32(v)) / np.float32(tall * size)
        part: Mask = du * du + dv * dv + ragged < 0.9
        crown |= part
        np.copyto(shine, 0.95 + 0.28 * dv + 0.10 * du * np.float32(canvas.light.x), where=part)
    # Sky shows through the thinner crowns.
    gaps = canvas.texture(panel, canvas.rough, 6, 1.0, shift + 5) - 1 > dice.uniform(0.55, 1.2)
    canvas.paint(panel, crown & ~gaps, color, VEGETATION, _leaves(canvas, panel, shift, 11) * shine)


def bush(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    half, height = dice.uniform(0.5, 1.4), dice.uniform(0.6, 1.8)
    if (panel := canvas.upright(x, z, half * 1.2, 0.0, height * 1.15)) is None:
        return
    shift = dice.uniform(0, 20)
    ragged = canvas.texture(panel, canvas.rough, 12, 0.25, shift) - 1
    du, dv = panel.u / np.float32(half), panel.v / np.float32(height)
    tone = _leaves(canvas, panel, shift, 14) * (0.8 + 0.3 * dv)
    canvas.paint(panel, du * du + dv * dv + ragged < 1, dice.pick(LEAVES, 0.2), VEGETATION, tone)


def hedge(canvas: Canvas, dice: Dice, start: Point, end: Point, height: float, bottom: float = 0.0) -> None:
    """Grow a hedge, or a closed edge of a wood when it is high."""
    if (panel := canvas.panel(start, end, bottom, height * 1.35)) is None:
        return
    shift, wild = dice.uniform(0, 20), dice.uniform(0.05, 0.16) + (0.14 if height > 3 else 0.0)
    top = canvas.texture(panel, canvas.rough, 24 / (height + 1), wild, shift)
    top += canvas.texture(panel, canvas.smooth, 40 / (height + 1), wild, shift) - 1
    tone = _leaves(canvas, panel, shift, 12 if height < 3 else 6)
    tone *= 0.72 + 0.36 * panel.v / np.float32(height)
    canvas.paint(panel, panel.inside & (panel.v < top * height), dice.pick(LEAVES, 0.2), VEGETATION, tone)
