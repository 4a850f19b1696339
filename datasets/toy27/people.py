"""People and two-wheelers of the street scenes: stick figures with flesh, and wheels with frames."""

from __future__ import annotations

from .bodywork import Pose, shadow
from .canvas import Canvas
from .dice import Color, Dice
from .palette import BICYCLE, CLOTHES, HAIR, METAL, MOTORCYCLE, PAINT, PERSON, RIDER, SKIN, TROUSERS, TYRE
from .view import Panel

Spot = tuple[float, float]


def person(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Draw somebody who stands or walks; one in eight is a child."""
    tall = dice.uniform(1.0, 1.35) if dice.chance(0.12) else dice.uniform(1.55, 1.9)
    if (panel := canvas.upright(x, z, tall * 0.4, 0.0, tall * 1.02)) is None:
        return
    shadow(canvas, Pose(x, z), 0.3, 0.22)
    coat, legs = dice.pick(CLOTHES, 0.2), dice.pick(TROUSERS, 0.2)
    stride = dice.uniform(0.02, 0.16) * tall if dice.chance(0.75) else 0.03 * tall
    lean, broad, turn = dice.uniform(-0.02, 0.02) * tall, dice.uniform(0.068, 0.09) * tall, dice.sign()
    skin = dice.pick(SKIN)
    hip, neck = (0.0, 0.50 * tall), (lean, 0.80 * tall)
    for side, shade in ((-1.0, 0.85), (1.0, 1.0)):
        knee = (side * stride * 0.55 + turn * 0.02, 0.27 * tall)
        foot = (side * stride, 0.03 * tall)
        start = (side * 0.035 * tall, hip[1])
        canvas.paint(panel, panel.limb(start, knee, 0.052 * tall), legs, PERSON, shade)
        canvas.paint(panel, panel.limb(knee, foot, 0.040 * tall), legs, PERSON, shade)
        shoe = panel.limb(foot, (foot[0] + turn * 0.05 * tall, foot[1]), 0.026 * tall)
        canvas.paint(panel, shoe & (panel.v >= 0), (0.14, 0.13, 0.13), PERSON)
    swing = stride * dice.uniform(0.3, 1.0)
    for side in (-1.0, 1.0):
        shoulder = (lean + side * broad * 0.95, 0.78 * tall)
        hand = (side * (broad + 0.02 * tall) - side * swing * 0.5, 0.47 * tall)
        canvas.paint(panel, panel.limb(shoulder, hand, 0.030 * tall), coat, PERSON, 0.88)
        canvas.paint(panel, panel.disc(*hand, 0.026 * tall), skin, PERSON)
    long = 0.36 if dice.chance(0.25) else 0.50
    canvas.paint(panel, panel.limb((0.0, long * tall), neck, broad), coat, PERSON)
    if dice.chance(0.3):  # a bag
        bag = (turn * broad * 1.3, dice.uniform(0.40, 0.68) * tall)
        canvas.paint(panel, panel.disc(*bag, 0.075 * tall), dice.pick(CLOTHES), PERSON)
    _head(canvas, dice, panel, (lean, 0.925 * tall), 0.068 * tall, skin, PERSON)


def _head(
    canvas: Canvas, dice: Dice, panel: Panel, center: Spot, radius: float, skin: Color, label: int
) -> None:
    u, v = center
    canvas.paint(panel, panel.limb((u, v - radius * 1.6), center, radius * 0.5), skin, label)
    canvas.paint(panel, panel.disc(u, v, radius), dice.pick(HAIR), label)
    if dice.chance(0.6):  # the face is turned this way
        canvas.paint(panel, panel.disc(u, v - radius * 0.3, radius * 0.8), skin, label)


def bicycle(canvas: Canvas, dice: Dice, pose: Pose, *, ridden: bool = False) -> None:
    """Draw a bicycle from the side or from one end; ridden, with a rider on it."""
    frame = dice.pick(PAINT + METAL)
    shadow(canvas, pose, 1.5, 0.1)
    if abs(pose.ez) > abs(pose.ex):
        _end_on(canvas, dice, pose, frame, BICYCLE, 0.045, ridden)
        return
    if (panel := canvas.panel(pose.at(-1.0, 0), pose.at(1.0, 0), 0.0, 2.0)) is None:
        return
    rear, front, crank, seat, bar = (0.5, 0.34), (1.52, 0.34), (0.95, 0.30), (0.82, 0.92), (1.36, 1.0)
    for u, v in (rear, front):
        ring = panel.disc(u, v, 0.34) & ~panel.disc(u, v, 0.27)
        canvas.paint(panel, ring, TYRE, BICYCLE)
        canvas.paint(panel, panel.disc(u, v, 0.05), (0.4, 0.4, 0.4), BICYCLE)
    for start, end in ((rear, seat), (rear, crank), (crank, seat), (crank, bar), (seat, bar), (front, bar)):
        canvas.paint(panel, panel.limb(start, end, 0.034), frame, BICYCLE)
    canvas.paint(panel, panel.limb((0.72, 0.96), (0.94, 0.96), 0.04), TYRE, BICYCLE)
    canvas.paint(panel, panel.limb(bar, (1.28, 1.06), 0.03), TYRE, BICYCLE)
    if ridden:
        _astride(canvas, dice, panel, (0.84, 1.0), (1.30, 1.08), (0.98, 0.22))


def motorcycle(canvas: Canvas, dice: Dice, pose: Pose, *, ridden: bool = False) -> None:
    """Draw a motorcycle or a scooter from the side or from one end; ridden, with a rider on it."""
    body = dice.pick(PAINT)
    shadow(canvas, pose, 2.0, 0.25)
    if abs(pose.ez) > abs(pose.ex):
        _end_on(canvas, dice, pose, body, MOTORCYCLE, 0.17, ridden)
        return
    if (panel := canvas.panel(pose.at(-1.1, 0), pose.at(1.1, 0), 0.0, 2.1)) is None:
        return
    for u in (0.42, 1.78):
        canvas.paint(panel, panel.disc(u, 0.32, 0.32), TYRE, MOTORCYCLE)
        canvas.paint(panel, panel.disc(u, 0.32, 0.15), (0.45, 0.45, 0.46), MOTORCYCLE)
    canvas.paint(panel, panel.limb((0.75, 0.45), (1.35, 0.45), 0.20), (0.28, 0.28, 0.29), MOTORCYCLE)
    canvas.paint(panel, panel.limb((0.25, 0.80), (0.95, 0.74), 0.10), TYRE, MOTORCYCLE)
    canvas.paint(panel, panel.limb((0.30, 0.62), (0.80, 0.62), 0.10), body, MOTORCYCLE)
    canvas.paint(panel, panel.limb((1.05, 0.78), (1.40, 0.82), 0.16), body, MOTORCYCLE)
    canvas.paint(panel, panel.limb((1.78, 0.34), (1.50, 1.02), 0.06), (0.4, 0.4, 0.42), MOTORCYCLE)
    canvas.paint(panel, panel.disc(1.60, 0.88, 0.10), (0.8, 0.78, 0.7), MOTORCYCLE)
    if ridden:
        _astride(canvas, dice, panel, (0.80, 0.92), (1.45, 1.05), (1.05, 0.32))


def _astride(canvas: Canvas, dice: Dice, panel: Panel, seat: Spot, hands: Spot, foot: Spot) -> None:
    """Put a rider on a two-wheeler that is seen from the side."""
    coat, legs = dice.pick(CLOTHES), dice.pick(TROUSERS)
    shoulder = (seat[0] + dice.uniform(0.12, 0.3), seat[1] + 0.52)
    knee = (seat[0] + 0.36, (seat[1] + foot[1]) / 2 + 0.12)
    canvas.paint(panel, panel.limb(seat, knee, 0.085), legs, RIDER)
    canvas.paint(panel, panel.limb(knee, foot, 0.065), legs, RIDER)
    canvas.paint(panel, panel.limb(foot, (foot[0] + 0.14, foot[1]), 0.045), (0.12, 0.12, 0.12), RIDER)
    canvas.paint(panel, panel.limb(seat, shoulder, 0.14), coat, RIDER)
    elbow = ((shoulder[0] + hands[0]) / 2, (shoulder[1] + hands[1]) / 2 - 0.08)
    canvas.paint(panel, panel.limb(shoulder, elbow, 0.055), coat, RIDER, 0.85)
    canvas.paint(panel, panel.limb(elbow, hands, 0.045), coat, RIDER, 0.85)
    _head(canvas, dice, panel, (shoulder[0] + 0.06, shoulder[1] + 0.28), 0.12, dice.pick(SKIN), RIDER)


def _end_on(
    canvas: Canvas, dice: Dice, pose: Pose, color: Color, label: int, wide: float, ridden: bool
) -> None:
    """Draw a two-wheeler, and its rider if there is one, seen from the front or from behind."""
    if (panel := canvas.upright(pose.x, pose.z, 0.5, 0.0, 1.95)) is None:
        return
    canvas.paint(panel, panel.limb((0, 0.05), (0, 0.62), max(0.05, wide * 0.5)), TYRE, label)
    canvas.paint(panel, panel.limb((0, 0.5), (0, 0.85), wide), color, label)
    canvas.paint(panel, panel.limb((-0.3, 1.02), (0.3, 1.02), 0.035), TYRE, label)
    canvas.paint(panel, panel.limb((0, 0.85), (0, 1.02), 0.04), color, label)
    lamp = (0.85, 0.82, 0.7) if pose.ez < 0 else (0.6, 0.1, 0.1)
    canvas.paint(panel, panel.disc(0, 0.76, 0.06), lamp, label)
    if not ridden:
        return
    coat, legs = dice.pick(CLOTHES), dice.pick(TROUSERS)
    for side in (-1.0, 1.0):
        lift = 0.2 + 0.12 * side * dice.uniform(-1, 1)
        canvas.paint(panel, panel.limb((side * 0.10, 0.95), (side * 0.19, lift), 0.075), legs, RIDER)
        canvas.paint(panel, panel.limb((side * 0.18, 1.42), (side * 0.29, 1.05), 0.05), coat, RIDER, 0.88)
    canvas.paint(panel, panel.limb((0, 0.98), (0, 1.40), 0.17), coat, RIDER)
    _head(canvas, dice, panel, (0.0, 1.70), 0.12, dice.pick(SKIN), RIDER)
