"""What is built along and across the street: blocks, houses, halls, bridges and tunnels."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas
from .dice import Color, Dice, Field, Mask
from .palette import BRIDGE, BUILDING, CONCRETE, FACADES, GLASS, METAL, ROOFS, STONE, TUNNEL
from .view import Panel, Point, grooves, stripes

TUNNEL_TOP = 6.2


def _rendered(canvas: Canvas, dice: Dice, panel: Panel) -> Field:
    """Return the texture of a facade: plaster with stains, or courses of brick or slabs."""
    tone = canvas.texture(panel, canvas.smooth, 5, 0.14, dice.uniform(0, 20))
    tone *= canvas.texture(panel, canvas.grain, 14, 0.05)
    kind = dice.index(1.0, 0.7, 0.4)
    if kind == 1:
        tone *= grooves(stripes(panel.v, dice.uniform(0.15, 0.3), 0.25), 0.16)
    elif kind == 2:
        slab = dice.uniform(1.2, 2.4)
        tone *= grooves(stripes(panel.v, slab, 0.04) | stripes(panel.u, slab * 1.5, 0.03), 0.2)
    return tone


def _panes(canvas: Canvas, panel: Panel, period: float, storey: float, base: float, shift: int) -> Field:
    """Return a brightness per window: curtains, reflections and lamps differ from pane to pane."""
    column = (panel.u / np.float32(period) + np.float32(64)).astype(np.int32)
    row = ((panel.v - np.float32(base)) / np.float32(storey) + np.float32(64)).astype(np.int32)
    result: Field = 1.15 + 0.85 * canvas.grain[(row * 5 + shift) & 255, (column * 3 + shift) & 255]
    return result


def block(canvas: Canvas, dice: Dice, start: Point, end: Point, storeys: int) -> None:
    """Build a town house of a closed row: shops or flats below, windows in a grid, a roof above."""
    storey, base = dice.uniform(2.9, 3.6), dice.uniform(3.2, 4.4)
    eaves = base + storey * storeys
    pitched, color = dice.chance(0.55), dice.pick(FACADES)
    top = eaves + (dice.uniform(1.2, 3.0) if pitched else 0.0)
    if (panel := canvas.panel(start, end, 0.0, top)) is None:
        return
    tone = _rendered(canvas, dice, panel)
    canvas.paint(panel, panel.inside, color, BUILDING, tone)
    period = dice.uniform(1.5, 3.2)
    wide, high = (dice.uniform(0.4, 0.62), dice.uniform(0.48, 0.66)) if dice.chance(0.8) else (0.92, 0.6)
    upper: Mask = panel.inside & (panel.v > base) & (panel.v < eaves - 0.3)
    shift = dice.index(*(1.0,) * 32)
    # Windows seen from far away are smaller than a pixel: their grid would be noise.
    if (panel.z > 110).any():
        upper &= panel.z < 110
    if dice.chance(0.7):
        frame = stripes(panel.u, period, wide + 0.1, -period * 0.05) & stripes(
            panel.v, storey, high + 0.08, base + storey * 0.2 - 0.12
        )
        trim = dice.pick(FACADES + ((0.8, 0.8, 0.78),) * 4)
        canvas.paint(panel, frame & upper, trim, BUILDING)
    pane = stripes(panel.u, period, wide) & stripes(panel.v, storey, high, base + storey * 0.2)
    canvas.paint(panel, pane & upper, GLASS, BUILDING, _panes(canvas, panel, period, storey, base, shift))
    if dice.chance(0.3):  # balconies
        every = stripes(panel.u, period * 2, 0.62, -period * 0.1) & stripes(panel.v, storey, 0.28, base)
        canvas.paint(panel, every & upper, dice.pick(METAL + CONCRETE), BUILDING)
    if dice.chance(0.6):
        canvas.paint(panel, panel.inside & (abs(panel.v - base) < 0.14), color, BUILDING, 1.2)
    canvas.paint(panel, panel.inside & (abs(panel.v - eaves) < 0.2), color, BUILDING, 1.25)
    _ground_floor(canvas, dice, panel, base)
    if pitched:
        tiles = grooves(stripes(panel.v, 0.35, 0.4), 0.15)
        roof = panel.inside & (panel.v > eaves)
        canvas.paint(panel, roof, dice.pick(ROOFS), BUILDING, tiles)
        if dice.chance(0.5):
            dormers = roof & stripes(panel.u, period * 2, 0.35) & (panel.v < eaves + (top - eaves) * 0.6)
            canvas.paint(panel, dormers, GLASS, BUILDING, 1.5)


def _ground_floor(canvas: Canvas, dice: Dice, panel: Panel, base: float) -> None:
    """Put shop windows with a fascia, or doors and small windows, at street level."""
    period = dice.uniform(3.0, 5.5)
    low = panel.inside & (panel.v < base - 0.3)
    if dice.chance(0.5):
        canvas.paint(panel, low, dice.pick(STONE + METAL), BUILDING)
        show = stripes(panel.u, period, 0.82) & (panel.v > 0.45) & (panel.v < base - 1.1)
        glow = canvas.texture(panel, canvas.rough, 6, 0.6, dice.uniform(0, 9)) * dice.uniform(1.0, 2.2)
        canvas.paint(panel, low & show, GLASS, BUILDING, glow)
        fascia = stripes(panel.u, period, 0.9, -period * 0.04) & (panel.v > base - 1.0)
        canvas.paint(panel, low & fascia, dice.pick(FACADES, 0.3), BUILDING)
        return
    if dice.chance(0.5):
        canvas.paint(panel, panel.inside & (panel.v < 0.8), dice.pick(STONE), BUILDING)
    door = stripes(panel.u, period * 1.5, 0.2) & (panel.v < 2.3)
    canvas.paint(panel, low & door, dice.pick(FACADES, 0.3), BUILDING, 0.6)
    window = stripes(panel.u, period * 0.5, 0.5, period * 0.4) & (panel.v > 1.1) & (panel.v < 2.5) & ~door
    canvas.paint(panel, low & window, GLASS, BUILDING, 1.2)


def house(canvas: Canvas, dice: Dice, side: float, front: float, near: float, far: float) -> None:
    """Build a detached house whose front stands at x = `side` × `front`, from z = `near` to `far`."""
    depth, eaves = dice.uniform(7, 10), dice.uniform(2.7, 5.8)
    rise = depth / 2 * dice.uniform(0.5, 0.95)
    color, tiles = dice.pick(FACADES), dice.pick(ROOFS)
    x, back = side * front, side * (front + depth)
    gable = canvas.panel((x, near), (back, near), 0.0, eaves + rise)
    if gable is not None:
        under = np.float32(eaves) + np.float32(rise) * (1 - abs(gable.u / np.float32(depth / 2) - 1))
        canvas.paint(gable, gable.inside & (gable.v < under), color, BUILDING, _rendered(canvas, dice, gable))
        pane = stripes(gable.u, depth / 2.5, 0.32, depth * 0.14) & stripes(gable.v, 2.7, 0.42, 0.9)
        canvas.paint(gable, pane & gable.inside & (gable.v < under - 0.7), GLASS, BUILDING, 1.2)
    if (panel := canvas.panel((x, near), (x, far), 0.0, eaves)) is not None:
        canvas.paint(panel, panel.inside, color, BUILDING, _rendered(canvas, dice, panel))
        period = dice.uniform(2.2, 3.4)
        frame = stripes(panel.u, period, 0.52, 0.5) & stripes(panel.v, 2.7, 0.54, 0.8)
        pane = stripes(panel.u, period, 0.44, 0.6) & stripes(panel.v, 2.7, 0.46, 0.9)
        canvas.paint(panel, frame & panel.inside & (panel.v < eaves - 0.3), (0.8, 0.8, 0.78), BUILDING)
        canvas.paint(panel, pane & panel.inside & (panel.v < eaves - 0.3), GLASS, BUILDING, 1.1)
        door = panel.box(0.5, 1.5, 0, 2.1)
        canvas.paint(panel, door, dice.pick(FACADES, 0.3), BUILDING, 0.6)
    ridge = (x + back) / 2
    edge = side * (front - 0.4)
    slope = [(edge, eaves - 0.1, near - 0.3), (edge, eaves - 0.1, far + 0.3)]
    slope += [(ridge, eaves + rise, far + 0.3), (ridge, eaves + rise, near - 0.3)]
    canvas.polygon(slope, tiles, BUILDING, canvas.light.upright(-side * 0.8, 0.0))
    if dice.chance(0.5):
        place = (near + far) / 2
        chimney = canvas.upright(ridge, place, 0.35, eaves + rise * 0.6, eaves + rise + 0.8)
        if chimney is not None:
            canvas.paint(chimney, chimney.inside, (0.44, 0.30, 0.25), BUILDING)


def hall(canvas: Canvas, dice: Dice, side: float, front: float, near: float, far: float) -> None:
    """Build a trade hall: sheet metal or slabs, a row of windows, gates."""
    height, color = dice.uniform(4.5, 9.0), dice.pick(FACADES + METAL)
    rib = dice.uniform(0.4, 1.2)
    x = side * front
    for start, end in (((x, near), (x + side * 16, near)), ((x, near), (x, far))):
        if (panel := canvas.panel(start, end, 0.0, height)) is None:
            continue
        tone = _rendered(canvas, dice, panel) * grooves(stripes(panel.u, rib, 0.3), 0.12)
        canvas.paint(panel, panel.inside, color, BUILDING, tone)
        row = panel.inside & (abs(panel.v - height * 0.72) < 0.5) & ~stripes(panel.u, 1.6, 0.1)
        canvas.paint(panel, row, GLASS, BUILDING, 1.3)
        gates = stripes(panel.u, 7.5, 0.45, 2.0) & panel.inside & (panel.v < 3.4)
        canvas.paint(
            panel, gates, dice.pick(METAL + FACADES), BUILDING, grooves(stripes(panel.v, 0.4, 0.2), 0.15)
        )
        canvas.paint(panel, panel.inside & (panel.v > height - 0.35), color, BUILDING, 0.7)


def bridge(canvas: Canvas, dice: Dice, z: float, edge: float) -> None:
    """Build a bridge across the street at depth `z`, on pillars beyond the pavements at ±`edge`."""
    low, thick, deep = dice.uniform(4.2, 6.0), dice.uniform(1.0, 2.4), dice.uniform(4, 9)
    color, railing = dice.pick(STONE), dice.chance(0.6)
    reach = edge + 40
    below = [(-reach, low, z), (reach, low, z), (reach, low, z + deep), (-reach, low, z + deep)]
    canvas.polygon(below, color, BRIDGE, _dim(canvas.light.sky, 0.5))
    for x in (-edge, edge, -edge - 13, edge + 13):
        for along in (0.5, deep - 1.0):
            if (pillar := canvas.upright(x, z + along, 0.55, 0.0, low)) is not None:
                tone = 1.05 - 0.5 * abs(pillar.u)
                canvas.paint(pillar, pillar.inside, color, BRIDGE, tone)
    panel = canvas.panel((-reach, z), (reach, z), low, low + thick + (1.0 if railing else 0.0))
    if panel is None:
        return
    deck = panel.inside & (panel.v < low + thick)
    tone = canvas.texture(panel, canvas.smooth, 10, 0.16) * grooves(stripes(panel.u, 4.0, 0.03), 0.2)
    canvas.paint(panel, deck, color, BRIDGE, tone)
    canvas.paint(panel, deck & (panel.v > low + thick - 0.25), color, BRIDGE, 1.2)
    bars = panel.inside & ~deck
    bars &= stripes(panel.u, 1.5, 0.12) | stripes(panel.v, 0.5, 0.25, low + thick)
    canvas.paint(panel, bars, dice.pick(METAL), BRIDGE)


def tunnel(canvas: Canvas, dice: Dice, z: float, half: float) -> None:
    """Build the mouth of a tunnel at depth `z` and what is seen in it; the street runs on inside.

    No mouth is higher than `TUNNEL_TOP`.
    """
    height, color, deep = dice.uniform(4.8, TUNNEL_TOP), dice.pick(STONE), dice.uniform(25, 60)
    top, arched = height + dice.uniform(1.0, 4.0), dice.chance(0.5)
    reach, dark = half + dice.uniform(6, 30), _dim(canvas.light.sky, 0.45)
    ceiling = [(-half, height, z), (half, height, z), (half, height, z + deep), (-half, height, z + deep)]
    canvas.polygon(ceiling, color, TUNNEL, _dim(dark, 0.6))
    for x in (-half, half):
        if (lining := canvas.panel((x, z), (x, z + deep), 0.0, height)) is not None:
            lamps = (abs(lining.v - np.float32(height - 0.9)) < 0.15) & stripes(lining.u, 4.0, 0.4)
            shade = 0.55 / (1 + 0.08 * lining.u)
            canvas.paint(lining, lining.inside, color, TUNNEL, shade)
            canvas.paint(lining, lining.inside & lamps, (1.0, 0.85, 0.55), TUNNEL, 1.3)
    if (end := canvas.panel((-half, z + deep), (half, z + deep), 0.0, height)) is not None:
        canvas.paint(end, end.inside, _dim(color, 0.12), TUNNEL)
    if (panel := canvas.panel((-reach, z), (reach, z), 0.0, top)) is not None:
        u = abs(panel.u - np.float32(reach))
        opening = (u < half) & (panel.v < height)
        if arched:
            rise = (panel.v - np.float32(height * 0.55)) / np.float32(height * 0.45)
            opening &= (u / np.float32(half)) * (u / np.float32(half)) + np.maximum(rise, 0) * rise < 1
        course = stripes(panel.v, 0.6, 0.08) | stripes(panel.u, 1.3, 0.05)
        tone = canvas.texture(panel, canvas.smooth, 10, 0.2) * grooves(course, 0.2)
        canvas.paint(panel, panel.inside & ~opening, color, TUNNEL, tone)
    if (floor := canvas.floor(-half, half, z, z + deep)) is not None:
        canvas.darken(floor, floor.inside, (0.42, 0.40, 0.38))


def _dim(color: Color, factor: float) -> Color:
    return color[0] * factor, color[1] * factor, color[2] * factor
