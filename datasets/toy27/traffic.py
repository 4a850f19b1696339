"""Who and what is on the street: it is put on a list first, and drawn from far to near."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from . import furniture, people, vegetation, vehicles
from .bodywork import Pose
from .canvas import Canvas
from .dice import Dice
from .ground import Street
from .streets import Place

_VEHICLES = (vehicles.car, vehicles.truck, vehicles.bus, vehicles.caravan, vehicles.trailer)


class Props:
    """Things to draw, each with its depth. Fences let through what was drawn before, so far comes first."""

    def __init__(self) -> None:
        self.ends = 130.0
        """The depth at which the street ends, for instance in a tunnel."""
        self._things: list[tuple[float, Callable[[], None]]] = []
        self._taken: list[tuple[float, float]] = []

    def add(self, z: float, draw: Callable[..., None], *args: Any, **options: Any) -> None:
        """Put a call of `draw` at the depth `z` onto the list."""
        self._things.append((z, functools.partial(draw, *args, **options)))

    def take(self, x: float, z: float, width: float, length: float) -> bool:
        """Take the place (x, z), unless a taken place lies within `width` and `length` of it."""
        if any(abs(x - at) < width and abs(z - there) < length for at, there in self._taken):
            return False
        self._taken.append((x, z))
        return True

    def draw(self) -> None:
        for _, draw in sorted(self._things, key=lambda thing: -thing[0]):
            draw()


def populate(canvas: Canvas, dice: Dice, street: Street, place: Place, props: Props) -> None:
    """Put everything that moves or stands on the street onto the list."""
    _moving(canvas, dice, street, place, props)
    _parked(canvas, dice, street, props)
    _rails(canvas, dice, street, props)
    for side in (-1.0, 1.0):
        _kerbside(canvas, dice, street, place, props, side)
        _walkers(canvas, dice, street, place, props, side)
    _signals(canvas, dice, street, props)


def _several(dice: Dice, mean: float) -> int:
    """Return a number from 0 up to twice the mean."""
    return int(dice.uniform(0, 2 * mean + 1))


def _lane(dice: Dice, street: Street) -> tuple[float, float]:
    """Return the x of a lane and the direction of travel in it."""
    middle = (street.right - street.left) / 2
    ahead = dice.chance(0.55)
    half = street.right - middle
    x = middle + (1 if ahead else -1) * half * (
        dice.uniform(0.4, 0.6) if half < 5 else dice.uniform(0.25, 0.8)
    )
    return x, 1.0 if ahead else -1.0


def _moving(canvas: Canvas, dice: Dice, street: Street, place: Place, props: Props) -> None:
    """Send vehicles along both lanes, others across where streets cross, and riders near the kerbs."""
    for _ in range(_several(dice, place.traffic * 0.7)):
        z = 5.0 + dice.uniform(0.1, 1.0) * dice.uniform(4, 75)
        kind = dice.index(1.0, 0.10, 0.07, 0.012, 0.012)
        x, heading = _lane(dice, street)
        z += (0.0, 3.0, 5.0, 1.0, 1.0)[kind]
        if z > props.ends or not props.take(x, z, 2.6, 5.0 if kind in (0, 3, 4) else 9.5):
            continue
        _drive(canvas, dice, props, kind, Pose(x, z, 0.0, heading))
    if street.crossing is not None and street.crossing[1] < props.ends:
        near, far = street.crossing
        for lane in (0.28, 0.72):
            if dice.chance(0.4):
                direction = 1.0 if lane < 0.5 else -1.0
                z = near + (far - near) * lane
                pose = Pose(dice.uniform(-0.5, 0.5) * z, z, direction, 0.0)
                if props.take(pose.x, z, 5.0, 5.0):
                    _drive(canvas, dice, props, dice.index(1.0, 0.12, 0.12, 0.02, 0.02), pose)
    for draw, often in ((people.bicycle, 0.22), (people.motorcycle, 0.12)):
        if dice.chance(often):
            z = dice.uniform(4, 16)
            side = dice.sign()
            x = side * (street.kerb(side) - dice.uniform(0.5, 1.0))
            crossing = dice.chance(0.4)
            pose = Pose(x * 0.5, z, dice.sign(), 0.0) if crossing else Pose(x, z, 0.0, side)
            if props.take(pose.x, z, 2.0, 4.0):
                props.add(z, draw, canvas, dice, pose, ridden=True)


def _drive(canvas: Canvas, dice: Dice, props: Props, kind: int, pose: Pose) -> None:
    draw = _VEHICLES[kind]
    props.add(pose.z, draw, canvas, dice, pose)
    if kind in (3, 4) and pose.z > 12:  # something has to pull it
        car = Pose(pose.x + 5.6 * pose.ex, pose.z + 5.6 * pose.ez, pose.ex, pose.ez)
        props.add(car.z, vehicles.car, canvas, dice, car)


def _parked(canvas: Canvas, dice: Dice, street: Street, props: Props) -> None:
    """Park vehicles in the bays, or half on the kerb where there are none."""
    for side in (-1.0, 1.0):
        bay = street.verge(side).parking
        if not bay and not dice.chance(0.25):
            continue
        busy = dice.uniform(0.2, 0.85)
        across = bay > 4.2
        x = side * (street.kerb(side) + (bay / 2 if across else min(bay, 2.4) / 2 if bay else -1.0))
        z = dice.uniform(4.5, 9)
        while z < min(60.0, props.ends):
            near, far = street.crossing or (999.0, 999.0)
            clear = z + 4 < near or z - 4 > far
            if clear and dice.chance(busy):
                kind = 0 if across else dice.index(1.0, 0.03, 0.0, 0.055, 0.055)
                longer = (0.0, 4.5, 0.0, 1.2, 1.2)[kind] / 2
                z += longer
                ahead = side if dice.chance(0.85) else -side
                pose = Pose(x, z, side, 0.0) if across else Pose(x, z, 0.0, ahead)
                if props.take(x, z, 1.8, 2.4):
                    props.add(z, _VEHICLES[kind], canvas, dice, pose)
                z += longer
            z += 2.7 if across else dice.uniform(5.3, 6.4)


def _rails(canvas: Canvas, dice: Dice, street: Street, props: Props) -> None:
    """Run a tram where there are tracks."""
    for side in (-1.0, 1.0):
        verge = street.verge(side)
        if verge.tracks and dice.chance(0.65):
            x = side * (street.kerb(side) + verge.parking + verge.tracks / 2)
            _tram(canvas, dice, props, Pose(x, dice.uniform(13, 38), 0.0, side))
    if street.tracks and dice.chance(0.45):
        x = (street.right - street.left) / 2
        _tram(canvas, dice, props, Pose(x, dice.uniform(22, 45), 0.0, dice.sign()))


def _tram(canvas: Canvas, dice: Dice, props: Props, pose: Pose) -> None:
    props.add(pose.z, vehicles.train, canvas, dice, pose)


def _kerbside(canvas: Canvas, dice: Dice, street: Street, place: Place, props: Props, side: float) -> None:
    """Plant trees and bushes; put up lamps, signs and groups of poles."""
    kerb, verge = street.kerb(side), street.verge(side)
    strip = kerb + verge.parking + verge.tracks + 0.45
    lamps, z = dice.uniform(16, 30), dice.uniform(4, 18)
    beyond = dice.chance(0.6)
    if dice.chance(0.75):
        while z < min(90.0, props.ends):
            props.add(z, furniture.lamp, canvas, dice, side * strip, z, -side)
            z += lamps
    for _ in range(_several(dice, place.trees / 2)):
        z = dice.uniform(6, 60)
        out = street.frontage(side) + dice.uniform(1.0, 4.0) if beyond else strip + dice.uniform(0.3, 1.0)
        if z < props.ends:
            props.add(z, vegetation.tree, canvas, dice, side * out, z)
    for _ in range(_several(dice, 1.0)):
        z = dice.uniform(4, 30)
        out = street.frontage(side) + dice.uniform(-0.6, 2.0)
        if z < props.ends and verge.green:
            props.add(z, vegetation.bush, canvas, dice, side * out, z)
    for _ in range(dice.index(0.5, 0.35, 0.15)):
        z = dice.uniform(5, 26)
        x = side * (strip + dice.uniform(0.0, 0.5))
        props.add(z, furniture.sign, canvas, dice, x, z)
    if dice.chance(0.07):
        z = dice.uniform(5, 16)
        props.add(z, furniture.polegroup, canvas, dice, side * strip, z)


def _walkers(canvas: Canvas, dice: Dice, street: Street, place: Place, props: Props, side: float) -> None:
    """Let people walk on the pavement, cross the street, and lean bicycles against walls."""
    verge = street.verge(side)
    start = street.kerb(side) + verge.parking + verge.tracks
    for _ in range(_several(dice, place.people / 2)):
        z = 3.5 + dice.uniform(0.02, 1.0) * dice.uniform(1, 36)
        x = side * (start + dice.uniform(0.3, max(0.5, verge.walk - 0.3)))
        crossing = dice.chance(0.08)
        if crossing:
            x = dice.uniform(-street.left, street.right)
        if z > props.ends or (crossing and not props.take(x, z, 1.6, 3.2)):
            continue
        for company in range(1 + dice.index(0.7, 0.3)):
            place_x = x + company * dice.uniform(0.5, 0.7)
            props.add(z, people.person, canvas, dice, place_x, z)
    for draw, often in ((people.bicycle, 0.16), (people.motorcycle, 0.08)):
        if dice.chance(often * (1.0 if verge.walk > 1 else 0.3)):
            z = dice.uniform(4, 18)
            turned = dice.chance(0.3)
            for number in range(1 + dice.index(1, 0.6, 0.4)):
                heading = (0.0, 1.0) if turned else (dice.sign(), 0.0)
                pose = Pose(side * (start + 0.6), z + number * 0.8, *heading)
                props.add(pose.z, draw, canvas, dice, pose)


def _signals(canvas: Canvas, dice: Dice, street: Street, props: Props) -> None:
    """Put traffic lights at crossings, now and then elsewhere."""
    if street.crossing is None and not dice.chance(0.06):
        return
    if not dice.chance(0.65):
        return
    near = street.crossing[0] if street.crossing else dice.uniform(8, 20)
    for side in (-1.0, 1.0):
        for z in (near - 1.0, (street.crossing or (0, near + 8))[1] + 1.0):
            if dice.chance(0.7) and z < props.ends:
                x = side * (street.kerb(side) + 0.4)
                props.add(z, furniture.traffic_light, canvas, dice, x, z, -side)
