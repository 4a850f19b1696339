"""Bodywork of the vehicles: poses, boxes seen in perspective, wheels, lamps and shadows."""

from __future__ import annotations

from dataclasses import dataclass

from .canvas import Canvas
from .dice import Color
from .palette import TYRE
from .view import Panel, Point, grooves, stripes

_LAMP: Color = (0.86, 0.84, 0.74)
_TAIL: Color = (0.62, 0.10, 0.09)
_PLATE: Color = (0.80, 0.79, 0.72)
TRIM: Color = (0.13, 0.13, 0.14)


@dataclass(frozen=True)
class Pose:
    """Where the middle of a vehicle stands, and its heading, a unit vector."""

    x: float
    z: float
    ex: float = 0.0
    ez: float = 1.0

    def at(self, along: float, across: float) -> Point:
        return self.x + along * self.ex + across * self.ez, self.z + along * self.ez - across * self.ex


@dataclass(frozen=True)
class Box:
    """A box in the coordinates of a vehicle: from `back` to `front` along its heading."""

    back: float
    front: float
    half: float
    bottom: float
    top: float


@dataclass(frozen=True)
class Faces:
    """The faces of a box that the camera sees. u runs from the back on sides, from one flank on ends."""

    side: Panel | None
    end: Panel | None
    from_behind: bool


def faces(canvas: Canvas, pose: Pose, box: Box) -> Faces:
    """Return the visible vertical faces: at most one side and one end."""
    bend = canvas.camera.bend
    # Where the camera stands in the coordinates of the vehicle.
    x, z = pose.x + bend * pose.z * pose.z, pose.z
    along, across = -x * pose.ex - z * pose.ez, -x * pose.ez + z * pose.ex
    side = end = None
    if abs(across) > box.half:
        flank = box.half if across > 0 else -box.half
        side = canvas.panel(pose.at(box.back, flank), pose.at(box.front, flank), box.bottom, box.top)
    behind = along < box.back
    if behind or along > box.front:
        place = box.back if behind else box.front
        end = canvas.panel(pose.at(place, -box.half), pose.at(place, box.half), box.bottom, box.top)
    return Faces(side, end, behind)


def shell(canvas: Canvas, pose: Pose, box: Box, color: Color, label: int, ribs: float = 0.0) -> Faces:
    """Paint a box, with ribs of this period on its sides if asked, and return its visible faces."""
    seen = faces(canvas, pose, box)
    for face in (seen.side, seen.end):
        if face is None:
            continue
        tone = canvas.texture(face, canvas.smooth, 30, 0.06)
        if ribs:
            tone *= grooves(stripes(face.u, ribs, 0.3), 0.10)
        canvas.paint(face, face.inside, color, label, tone)
    lid(canvas, pose, box, color, label)
    return seen


def lid(canvas: Canvas, pose: Pose, box: Box, color: Color, label: int) -> None:
    """Paint the top of a box, where the camera is above it."""
    if canvas.camera.eye <= box.top:
        return
    corners = [(box.back, -box.half), (box.front, -box.half), (box.front, box.half), (box.back, box.half)]
    spots = [pose.at(along, across) for along, across in corners]
    canvas.polygon([(x, box.top, z) for x, z in spots], color, label, canvas.light.level())


def shadow(canvas: Canvas, pose: Pose, length: float, half: float) -> None:
    """Darken the ground under a vehicle."""
    corners = [pose.at(a, b) for a in (-length / 2, length / 2) for b in (-half, half)]
    xs, zs = [x for x, _ in corners], [z for _, z in corners]
    left, right, near, far = min(xs), max(xs), min(zs), max(zs)
    if (panel := canvas.floor(left - 0.15, right + 0.15, near - 0.2, far)) is None:
        return
    canvas.darken(panel, panel.inside, (0.6, 0.6, 0.62))
    canvas.darken(panel, panel.box(left + 0.1, right - 0.1, near, far), (0.5, 0.5, 0.52))


def wheels(canvas: Canvas, side: Panel | None, places: tuple[float, ...], radius: float, label: int) -> None:
    if side is None:
        return
    for place in places:
        canvas.paint(side, side.disc(place, radius, radius), TYRE, label)
        canvas.paint(side, side.disc(place, radius, radius * 0.6), (0.42, 0.42, 0.44), label)
        canvas.paint(side, side.disc(place, radius, radius * 0.2), (0.2, 0.2, 0.2), label)


def lamps(canvas: Canvas, end: Panel | None, width: float, height: float, label: int, behind: bool) -> None:
    """Paint the lamps and the number plate of an end face."""
    if end is None:
        return
    color = _TAIL if behind else _LAMP
    for left in (0.08, width - 0.40):
        canvas.paint(end, end.box(left, left + 0.32, height, height + 0.15), color, label)
    plate = end.box(width / 2 - 0.26, width / 2 + 0.26, height - 0.22, height - 0.10)
    canvas.paint(end, plate, _PLATE, label)
    canvas.paint(end, end.box(0, width, 0.2, height - 0.28), TRIM, label)


def chassis(canvas: Canvas, pose: Pose, box: Box, places: tuple[float, ...], label: int) -> None:
    """Put a chassis and wheels under a box."""
    under = faces(canvas, pose, Box(box.back, box.front, box.half - 0.05, 0.0, box.bottom + 0.05))
    for face in (under.side, under.end):
        if face is not None:
            canvas.paint(face, face.box(0, 99, 0.35, 9) & face.inside, TRIM, label)
    if under.end is not None:
        width = 2 * box.half
        for left in (0.05, width - 0.4):
            canvas.paint(under.end, under.end.box(left, left + 0.3, 0, 0.8), TYRE, label)
    wheels(canvas, under.side, places, 0.46, label)
