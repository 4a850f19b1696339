"""Vehicles of the street scenes, seen from every side."""

from __future__ import annotations

from .bodywork import TRIM, Box, Pose, chassis, faces, lamps, lid, shadow, shell, wheels
from .canvas import Canvas
from .dice import Color, Dice
from .palette import BUS, CAR, CARAVAN, GLASS, LIVERIES, METAL, PAINT, TRAILER, TRAIN, TRUCK
from .view import stripes

_DISPLAY: Color = (0.85, 0.62, 0.2)
_REFLECTOR: Color = (0.62, 0.10, 0.09)


def car(canvas: Canvas, dice: Dice, pose: Pose) -> None:
    """Draw a saloon, a hatchback, an estate or a delivery van."""
    kind = dice.index(0.35, 0.3, 0.2, 0.15)
    length = (4.6, 3.9, 4.5, 5.0)[kind] * dice.uniform(0.95, 1.05)
    roof = (1.43, 1.48, 1.62, 2.05)[kind] * dice.uniform(0.97, 1.04)
    waist = (0.88, 0.90, 1.00, 1.15)[kind]
    tail, nose = ((0.16, 0.64), (0.03, 0.68), (0.03, 0.66), (0.0, 0.78))[kind]
    rear_slope, front_slope = ((0.9, 1.1), (0.45, 1.1), (0.25, 0.9), (0.05, 0.6))[kind]
    half, color = dice.uniform(0.84, 0.94), dice.pick(PAINT)
    shadow(canvas, pose, length, half)
    back = -length / 2
    body = faces(canvas, pose, Box(back, -back, half, 0.22, waist))
    tail, nose = tail * length, nose * length + 0.35
    for face in (body.end, body.side):
        if face is not None:
            canvas.paint(face, face.inside, color, CAR, 0.86 + 0.16 * face.v)
    lid(canvas, pose, Box(back, -back, half, 0.22, waist), color, CAR)
    lamps(canvas, body.end, half * 2, 0.62, CAR, body.from_behind)
    # The profile of roof and windows is cut out of the side; each end of it stands further in.
    drop = roof - waist
    side = faces(canvas, pose, Box(back, -back, half - 0.06, 0.0, roof)).side
    if side is not None:
        rise = side.v - waist
        cabin = (side.u > tail + rise * rear_slope) & (side.u < nose - rise * front_slope)
        canvas.paint(side, side.inside & cabin & (side.v > waist), color, CAR, 1.02)
        pane = side.box(tail + 0.22, nose - 0.22, waist + 0.02, roof - 0.10) & cabin
        pane &= (side.u > tail + 0.16 + rise * rear_slope) & (side.u < nose - 0.16 - rise * front_slope)
        middle = (tail + nose) / 2 - 0.1
        if kind == 3:
            pane &= side.u > length * 0.55
        canvas.paint(side, pane & ~side.box(middle, middle + 0.1, 0, 9), GLASS, CAR, 0.8 + 0.3 * rise)
    if body.side is not None:
        canvas.paint(body.side, body.side.box(0, length, 0.22, 0.32), TRIM, CAR)
        door = body.side.box(length * 0.52, length * 0.525, 0.32, waist)
        canvas.paint(body.side, door, TRIM, CAR)
    whole = faces(canvas, pose, Box(back, -back, half + 0.01, 0.0, waist)).side
    wheels(canvas, whole, (length * 0.18, length * 0.80), 0.32, CAR)
    inset = Box(
        back + tail + drop * rear_slope / 2, back + nose - drop * front_slope / 2, half - 0.06, waist, roof
    )
    end = faces(canvas, pose, inset).end
    if end is not None:
        narrow = abs(end.u - (half - 0.06)) < (half - 0.06) - 0.35 * (end.v - waist)
        canvas.paint(end, end.inside & narrow, color, CAR)
        glass = end.box(0.16, 2 * half - 0.28, waist + 0.06, roof - 0.10) & narrow
        blind = kind == 3 and body.from_behind
        canvas.paint(end, glass, TRIM if blind else GLASS, CAR, 0.75 + 0.35 * (end.v - waist))
    roof_box = Box(back + tail + drop * rear_slope, back + nose - drop * front_slope, half - 0.25, 0.0, roof)
    lid(canvas, pose, roof_box, color, CAR)


def truck(canvas: Canvas, dice: Dice, pose: Pose) -> None:
    """Draw a lorry: a cab, and a box, a tarpaulin or a tank of another color behind it."""
    load, height = dice.uniform(4.0, 7.5), dice.uniform(2.7, 3.6)
    length, color, cab = load + 2.1, dice.pick(LIVERIES + PAINT), dice.pick(PAINT + LIVERIES)
    shadow(canvas, pose, length, 1.2)
    back = -length / 2
    chassis(canvas, pose, Box(back, -back, 1.2, 0.9, 1.0), (1.0, 2.0, length - 1.1), TRUCK)
    front = Box(-back - 1.9, -back, 1.15, 0.55, dice.uniform(2.3, 2.8))
    seen = shell(canvas, pose, front, cab, TRUCK)
    if seen.side is not None:
        canvas.paint(seen.side, seen.side.box(0.7, 1.7, 1.5, 2.2), GLASS, TRUCK)
    if seen.end is not None and not seen.from_behind:
        canvas.paint(seen.end, seen.end.box(0.15, 2.15, 1.5, 2.25), GLASS, TRUCK)
    if not seen.from_behind:
        lamps(canvas, seen.end, 2.3, 0.95, TRUCK, False)
    box = Box(back, -back - 2.0, 1.25, 0.9, height)
    seen = shell(canvas, pose, box, color, TRUCK, dice.uniform(0.3, 1.2))
    if seen.side is not None:
        band = seen.side.box(0.6, load - 0.6, height * 0.55, height * 0.75)
        canvas.paint(seen.side, band & (seen.side.u < dice.uniform(2, 6)), dice.pick(LIVERIES), TRUCK)
    if seen.end is not None and seen.from_behind:
        canvas.paint(seen.end, seen.end.box(1.22, 1.28, 0.9, height), TRIM, TRUCK)
        lamps(canvas, seen.end, 2.5, 1.0, TRUCK, True)


def bus(canvas: Canvas, dice: Dice, pose: Pose) -> None:
    """Draw a city bus: a row of windows, doors and a lit destination."""
    length, height, color = dice.uniform(9.5, 12.0), dice.uniform(2.9, 3.2), dice.pick(LIVERIES)
    shadow(canvas, pose, length, 1.25)
    box = Box(-length / 2, length / 2, 1.25, 0.3, height)
    seen = shell(canvas, pose, box, color, BUS)
    side, end = seen.side, seen.end
    if side is not None:
        canvas.paint(side, side.box(0, length, 0.3, 0.85), dice.pick(LIVERIES), BUS)
        pane = side.box(0.4, length - 0.3, 1.25, height - 0.5) & ~stripes(side.u, 1.5, 0.07)
        canvas.paint(side, pane, GLASS, BUS, 0.7 + 0.25 * (side.v - 1))
        for place in (0.55, 0.86):
            door = side.box(length * place - 0.6, length * place + 0.6, 0.4, height - 0.5)
            canvas.paint(side, door & ~stripes(side.u, 0.6, 0.12, length * place - 0.04), GLASS, BUS, 1.3)
    wheels(
        canvas, faces(canvas, pose, Box(box.back, box.front, 1.26, 0, 1)).side, (2.6, length - 2.6), 0.48, BUS
    )
    if end is not None:
        canvas.paint(end, end.box(0.12, 2.38, 1.3 if seen.from_behind else 0.95, height - 0.45), GLASS, BUS)
        sign = end.box(0.5, 2.0, height - 0.38, height - 0.12)
        canvas.paint(end, sign, TRIM, BUS)
        canvas.paint(end, sign & stripes(end.u, 0.22, 0.6) & (end.v > height - 0.33), _DISPLAY, BUS)
        lamps(canvas, end, 2.5, 0.65, BUS, seen.from_behind)


def train(canvas: Canvas, dice: Dice, pose: Pose) -> None:
    """Draw a tram of several cars."""
    length, color, band = dice.uniform(16, 30), dice.pick(LIVERIES), dice.pick(LIVERIES)
    shadow(canvas, pose, length, 1.25)
    seen = shell(canvas, pose, Box(-length / 2, length / 2, 1.25, 0.25, 3.3), color, TRAIN)
    side, end = seen.side, seen.end
    if side is not None:
        canvas.paint(side, side.box(0, length, 0.75, 1.15), band, TRAIN)
        pane = side.box(0.5, length - 0.5, 1.5, 2.6) & ~stripes(side.u, 1.9, 0.1)
        canvas.paint(side, pane, GLASS, TRAIN, 0.8 + 0.2 * (side.v - 1.5))
        doors = stripes(side.u, 5.2, 0.25) & side.box(2.0, length - 1.0, 0.4, 2.7)
        canvas.paint(side, doors & ~stripes(side.u, 0.65, 0.12), GLASS, TRAIN, 1.35)
        canvas.paint(side, stripes(side.u, 8.0, 0.05) & side.inside, TRIM, TRAIN)
        canvas.paint(side, side.box(0, length, 0.25, 0.45), TRIM, TRAIN)
        canvas.paint(side, side.box(0, length, 3.1, 3.3), dice.pick(METAL), TRAIN)
    if end is not None:
        canvas.paint(end, end.box(0.25, 2.25, 1.35, 2.6), GLASS, TRAIN)
        canvas.paint(end, end.box(0, 2.5, 0.75, 1.15), band, TRAIN)
        canvas.paint(end, end.box(0.7, 1.8, 2.75, 3.05), _DISPLAY, TRAIN)
        lamps(canvas, end, 2.5, 0.8, TRAIN, seen.from_behind)


def caravan(canvas: Canvas, dice: Dice, pose: Pose) -> None:
    """Draw a caravan: white or cream, one axle, small windows and a stripe."""
    length, height = dice.uniform(4.2, 6.0), dice.uniform(2.4, 2.7)
    tone = dice.uniform(0.9, 1.05)
    shadow(canvas, pose, length, 1.1)
    box = Box(-length / 2, length / 2, 1.1, 0.4, height)
    chassis(canvas, pose, Box(box.back, box.front, 1.1, 0.4, 0.5), (length * 0.5,), CARAVAN)
    seen = shell(canvas, pose, box, (0.80 * tone, 0.78 * tone, 0.72 * tone), CARAVAN)
    band = dice.pick(LIVERIES)
    for face, width in ((seen.side, length), (seen.end, 2.2)):
        if face is None:
            continue
        canvas.paint(face, face.box(0, width, 0.95, 1.12), band, CARAVAN)
        canvas.paint(face, face.box(0, width, height - 0.12, height), (0.5, 0.5, 0.5), CARAVAN)
        for left, right in ((0.14, 0.42), (0.58, 0.86)):
            pane = face.box(width * left, width * right, 1.3, 1.95)
            canvas.paint(face, pane, GLASS, CARAVAN, 1.2)
    if seen.side is not None:
        canvas.paint(
            seen.side, seen.side.box(length * 0.46, length * 0.54, 0.5, 2.1), (0.6, 0.6, 0.58), CARAVAN
        )
    if seen.from_behind:
        lamps(canvas, seen.end, 2.2, 0.65, CARAVAN, True)


def trailer(canvas: Canvas, dice: Dice, pose: Pose) -> None:
    """Draw a parked trailer: a low open box, or a high one under a tarpaulin, on one axle."""
    length, high = dice.uniform(3.0, 5.5), dice.chance(0.45)
    half, top = (1.0, dice.uniform(1.7, 2.1)) if high else (0.95, dice.uniform(0.95, 1.2))
    shadow(canvas, pose, length, half)
    box = Box(-length / 2, length / 2, half, 0.5, top)
    bar = faces(canvas, pose, Box(length / 2, length / 2 + 1.2, 0.06, 0.45, 0.55))
    for face in (bar.side, bar.end):
        if face is not None:
            canvas.paint(face, face.inside, TRIM, TRAILER)
    chassis(canvas, pose, box, (length * 0.45, length * 0.62), TRAILER)
    seen = shell(canvas, pose, box, dice.pick(METAL + LIVERIES[1:]), TRAILER, 0.45)
    for face, width in ((seen.side, length), (seen.end, half * 2)):
        if face is not None:
            canvas.paint(
                face, face.box(0, width, 0.72, 0.80) & stripes(face.u, 0.5, 0.5), _REFLECTOR, TRAILER
            )
            if high:
                canvas.paint(face, face.box(0, width, 1.0, 1.06), TRIM, TRAILER)
    if seen.from_behind:
        lamps(canvas, seen.end, half * 2, 0.75, TRAILER, True)
