"""Class numbers and colors of the street scenes; colors are 0 to 1.

The palettes overlap on purpose: asphalt, pavement, concrete and plaster share their grays, autumn leaves
and rust those of brick, white vans those of clouds, and cars and clothes have every color. Color alone
must not do.
"""

from __future__ import annotations

from .dice import Color

(
    ROAD, SIDEWALK, PARKING, RAIL_TRACK, BUILDING, WALL, FENCE, GUARD_RAIL, BRIDGE, TUNNEL, POLE, POLEGROUP,
    TRAFFIC_LIGHT, TRAFFIC_SIGN, VEGETATION, TERRAIN, SKY, PERSON, RIDER, CAR, TRUCK, BUS, CARAVAN, TRAILER,
    TRAIN, MOTORCYCLE, BICYCLE,
) = range(27)  # fmt: skip

ASPHALT: tuple[Color, ...] = (
    (0.36, 0.36, 0.37), (0.43, 0.43, 0.43), (0.50, 0.49, 0.48), (0.30, 0.30, 0.32), (0.46, 0.44, 0.42),
)  # fmt: skip
PAVING: tuple[Color, ...] = (
    (0.56, 0.54, 0.51), (0.48, 0.47, 0.46), (0.52, 0.45, 0.41), (0.62, 0.60, 0.57), (0.42, 0.41, 0.41),
)  # fmt: skip
GRASS: tuple[Color, ...] = (
    (0.33, 0.42, 0.22), (0.40, 0.46, 0.27), (0.50, 0.47, 0.32), (0.46, 0.38, 0.29), (0.28, 0.36, 0.20),
)  # fmt: skip
LEAVES: tuple[Color, ...] = (
    (0.24, 0.34, 0.17), (0.31, 0.40, 0.21), (0.19, 0.27, 0.16), (0.42, 0.43, 0.24), (0.52, 0.38, 0.22),
    (0.30, 0.33, 0.24), (0.40, 0.36, 0.30),
)  # fmt: skip
BARK: tuple[Color, ...] = ((0.30, 0.25, 0.21), (0.38, 0.35, 0.31), (0.24, 0.21, 0.19))
FACADES: tuple[Color, ...] = (
    (0.70, 0.66, 0.58), (0.62, 0.60, 0.58), (0.52, 0.36, 0.29), (0.74, 0.73, 0.71), (0.60, 0.50, 0.40),
    (0.45, 0.44, 0.44), (0.66, 0.58, 0.44), (0.46, 0.30, 0.26), (0.58, 0.62, 0.62), (0.38, 0.40, 0.44),
    (0.55, 0.58, 0.50),
)  # fmt: skip
ROOFS: tuple[Color, ...] = (
    (0.42, 0.27, 0.21), (0.30, 0.30, 0.33), (0.38, 0.33, 0.30), (0.46, 0.33, 0.25), (0.26, 0.25, 0.26),
)  # fmt: skip
CONCRETE: tuple[Color, ...] = (
    (0.55, 0.54, 0.52), (0.48, 0.47, 0.45), (0.62, 0.60, 0.57), (0.42, 0.42, 0.42),
)  # fmt: skip
STONE: tuple[Color, ...] = (*CONCRETE, (0.50, 0.35, 0.28), (0.56, 0.50, 0.41), (0.44, 0.32, 0.27))
METAL: tuple[Color, ...] = ((0.55, 0.56, 0.57), (0.40, 0.41, 0.42), (0.30, 0.33, 0.32), (0.22, 0.22, 0.23))
TIMBER: tuple[Color, ...] = ((0.42, 0.33, 0.25), (0.52, 0.46, 0.38), (0.33, 0.30, 0.27), (0.60, 0.58, 0.54))
PAINT: tuple[Color, ...] = (
    (0.80, 0.80, 0.79), (0.14, 0.14, 0.16), (0.47, 0.48, 0.50), (0.27, 0.28, 0.31), (0.52, 0.13, 0.12),
    (0.15, 0.24, 0.42), (0.60, 0.57, 0.50), (0.20, 0.30, 0.25), (0.66, 0.66, 0.67), (0.34, 0.44, 0.52),
    (0.62, 0.46, 0.16),
)  # fmt: skip
LIVERIES: tuple[Color, ...] = (
    (0.74, 0.68, 0.42), (0.62, 0.16, 0.14), (0.72, 0.72, 0.71), (0.20, 0.34, 0.50), (0.24, 0.42, 0.28),
    (0.60, 0.38, 0.18), (0.42, 0.44, 0.47),
)  # fmt: skip
CLOTHES: tuple[Color, ...] = (
    (0.16, 0.16, 0.18), (0.24, 0.28, 0.38), (0.45, 0.44, 0.43), (0.60, 0.20, 0.18), (0.66, 0.64, 0.60),
    (0.30, 0.36, 0.28), (0.50, 0.42, 0.32), (0.22, 0.34, 0.46), (0.62, 0.50, 0.24),
)  # fmt: skip
TROUSERS: tuple[Color, ...] = (
    (0.15, 0.16, 0.19), (0.21, 0.26, 0.36), (0.36, 0.34, 0.32), (0.46, 0.42, 0.35), (0.28, 0.28, 0.29),
)  # fmt: skip
SKIN: tuple[Color, ...] = ((0.78, 0.60, 0.50), (0.62, 0.45, 0.35), (0.42, 0.29, 0.23), (0.84, 0.68, 0.58))
HAIR: tuple[Color, ...] = ((0.14, 0.11, 0.10), (0.34, 0.24, 0.16), (0.55, 0.45, 0.30), (0.55, 0.54, 0.53))

GLASS: Color = (0.17, 0.20, 0.24)
TYRE: Color = (0.09, 0.09, 0.10)
WHITE_PAINT: Color = (0.76, 0.76, 0.74)
