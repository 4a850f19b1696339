"""The light of a street scene: where the sun stands, how strong it is, and what sky it shines from."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .dice import Color, Dice


@dataclass(frozen=True)
class Light:
    """Sun and sky of one scene; the light on level ground in the sun is about 1."""

    x: float
    z: float
    """The horizontal direction towards the sun, a unit vector."""
    height: float
    """Sine of the sun's elevation."""
    sun: Color
    """Color and strength of the sunlight; weak when the sky is overcast."""
    sky: Color
    """Color and strength of the light from everywhere."""
    zenith: Color
    haze: Color
    """What the sky fades to at the horizon, and everything in the distance."""
    clouds: float
    """How much of the sky is covered, 0 to 1."""

    def level(self) -> Color:
        """Return the light on horizontal faces."""
        return self._mixed(self.height)

    def upright(self, nx: float, nz: float) -> Color:
        """Return the light on a vertical face with this outward normal."""
        flat = math.sqrt(max(0.0, 1 - self.height * self.height))
        return self._mixed(max(0.0, flat * (nx * self.x + nz * self.z)), 0.9)

    def shade(self) -> Color:
        """Return what a cast shadow leaves of the light on level ground."""
        lit, (red, green, blue) = self.level(), self.sky
        return red / lit[0], green / lit[1], blue / lit[2]

    def _mixed(self, cosine: float, open_sky: float = 1.0) -> Color:
        (r, g, b), (sr, sg, sb) = self.sky, self.sun
        return r * open_sky + sr * cosine, g * open_sky + sg * cosine, b * open_sky + sb * cosine


# Strength of sun and sky, then the colors of sun, sky light, zenith and horizon.
_NOON = ((0.62, 0.46), (1.0, 0.98, 0.93), (0.94, 1.0, 1.08), (0.36, 0.55, 0.84), (0.76, 0.84, 0.91))
_OVERCAST = ((0.12, 0.84), (1.0, 1.0, 1.0), (0.98, 1.0, 1.02), (0.68, 0.71, 0.75), (0.82, 0.83, 0.84))
_EVENING = ((0.75, 0.42), (1.18, 0.92, 0.66), (0.98, 0.96, 1.06), (0.46, 0.55, 0.75), (0.93, 0.79, 0.62))
_DUSK = ((0.06, 0.50), (1.1, 0.9, 0.8), (0.88, 0.94, 1.16), (0.24, 0.30, 0.46), (0.60, 0.52, 0.54))
_GRAY_MORNING = ((0.25, 0.66), (1.06, 1.0, 0.9), (0.96, 1.0, 1.05), (0.62, 0.70, 0.78), (0.85, 0.85, 0.83))
_MOMENTS = (_NOON, _OVERCAST, _EVENING, _DUSK, _GRAY_MORNING)


def draw_light(dice: Dice) -> Light:
    """Draw a time of day, a weather and a direction of the sun."""
    moment = dice.index(0.36, 0.26, 0.16, 0.08, 0.14)
    (sun, sky), warm, cool, zenith, haze = _MOMENTS[moment]
    height = dice.uniform(0.5, 0.85) if moment in (0, 1) else dice.uniform(0.25, 0.5)
    # The rational parametrisation of the circle, for a unit vector without trigonometry.
    t = dice.uniform(-1.0, 1.0)
    x, z = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    clouds = (dice.uniform(0.0, 0.75), 1.0, dice.uniform(0.1, 0.7), 0.5, dice.uniform(0.4, 0.9))[moment]
    tone = dice.uniform(0.92, 1.06)
    return Light(
        x * dice.sign(),
        z,
        height,
        _scaled(warm, sun),
        _scaled(cool, sky),
        _scaled(zenith, tone),
        haze,
        clouds,
    )


def _scaled(color: Color, factor: float) -> Color:
    return color[0] * factor, color[1] * factor, color[2] * factor
