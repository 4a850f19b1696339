"""Plans of streets: the kind of place a scene shows, all widths, and what is likely to be there."""

from __future__ import annotations

from dataclasses import dataclass

from .dice import Dice
from .ground import Street, Verge


@dataclass(frozen=True)
class Place:
    """One kind of place. Numbers are probabilities, unless they say something else."""

    # What stands along the street: closed blocks, houses, halls, or nothing but green.
    block: float
    house: float
    hall: float
    park: float
    storeys: int
    """The highest number of upper storeys."""

    half: tuple[float, float]
    """Range of half the carriageway, in meters."""
    walk: tuple[float, float]
    """Range of the pavement, in meters."""
    parking: float
    tracks: float
    green: float
    crossing: float
    tunnel: float
    bridge: float
    guard_rail: float
    people: float
    """How many people there are on average; the next two count in the same way."""
    trees: float
    traffic: float


CENTER = Place(
    block=1, house=0, hall=0, park=0.04, storeys=5, half=(2.4, 4.5), walk=(2.4, 5.5), parking=0.35,
    tracks=0.30, green=0.08, crossing=0.45, tunnel=0.03, bridge=0.07, guard_rail=0.0,
    people=11, trees=3.5, traffic=5,
)  # fmt: skip
SUBURB = Place(
    block=0.15, house=1, hall=0.05, park=0.15, storeys=2, half=(2.2, 3.4), walk=(1.5, 2.8), parking=0.30,
    tracks=0.03, green=0.5, crossing=0.4, tunnel=0.02, bridge=0.03, guard_rail=0.03,
    people=4, trees=9, traffic=3,
)  # fmt: skip
TRADE = Place(
    block=0.15, house=0.1, hall=1, park=0.3, storeys=3, half=(3.0, 5.5), walk=(1.6, 3.0), parking=0.30,
    tracks=0.20, green=0.5, crossing=0.4, tunnel=0.07, bridge=0.20, guard_rail=0.25,
    people=3, trees=5, traffic=5,
)  # fmt: skip
ARTERIAL = Place(
    block=0.1, house=0.1, hall=0.2, park=1, storeys=4, half=(4.5, 7.5), walk=(0.0, 2.0), parking=0.05,
    tracks=0.12, green=0.8, crossing=0.15, tunnel=0.18, bridge=0.34, guard_rail=0.60,
    people=0.8, trees=9, traffic=6,
)  # fmt: skip


def draw_place(dice: Dice) -> Place:
    return (CENTER, SUBURB, TRADE, ARTERIAL)[dice.index(0.42, 0.28, 0.15, 0.15)]


def draw_street(dice: Dice, place: Place) -> Street:
    """Draw widths; the camera drives on the right half, about 1.7 m from the middle."""
    half = dice.uniform(*place.half)
    middle = -min(1.7, half / 2) * dice.uniform(0.3, 1.1)
    crossing = None
    if dice.chance(place.crossing):
        near = dice.uniform(7, 32)
        crossing = (near, near + dice.uniform(6, 10))
    aside, within = dice.chance(place.tracks * 0.5), dice.chance(place.tracks * 0.6)
    right = dice.chance(0.5)
    verges = []
    for side in (False, True):
        verges.append(
            Verge(
                parking=dice.uniform(2.0, 5.0) if dice.chance(place.parking) else 0.0,
                walk=max(0.0, dice.uniform(*place.walk)),
                green=dice.uniform(1.0, 6.0) if dice.chance(place.green) else 0.0,
                yard=dice.chance(0.75 * (place.block + place.hall * 0.5)),
                tracks=dice.uniform(3.0, 3.6) if aside and side == right else 0.0,
            )
        )
    return Street(half - middle, half + middle, (verges[0], verges[1]), within and not aside, crossing)
