"""Light and camera of the toy scenes: relief shading, cast shadows, haze, white balance, sensor noise."""

from __future__ import annotations

import numpy as np

from .canvas import METER, PIXELS, SUPERSAMPLING, Canvas, Dice, Field, Mask

# Sky light is blue and sunlight warm, so that shadows are not merely darker.
_SKY = (0.86, 0.98, 1.20)
_SUN = (1.03, 1.00, 0.94)
_HAZE = (0.66, 0.68, 0.72)

_STEP = SUPERSAMPLING / METER
"""Meters per finished pixel, the resolution of the shadows."""


def photograph(canvas: Canvas, dice: Dice) -> np.ndarray:
    """Return what an aerial camera sees of the canvas: uint8 (PIXELS, PIXELS, 3)."""
    lx, ly = dice.direction()
    slope = dice.uniform(0.75, 1.7)  # tangent of the sun's elevation
    ambient = dice.uniform(0.30, 0.50)

    sun = (1 - _shadow(canvas.height, lx, ly, slope)) * _facing(canvas.height, lx, ly, slope)
    gain, haze = dice.uniform(0.86, 1.14), dice.uniform(0.0, 0.14)
    balance = (dice.uniform(0.91, 1.09), 1.0, dice.uniform(0.91, 1.09))
    strength = dice.uniform(0.006, 0.016)
    image = np.empty((PIXELS, PIXELS, 3), np.float32)
    for channel in range(3):
        light = sun * np.float32((1 - ambient) * _SUN[channel]) + np.float32(ambient * _SKY[channel])
        plane = _shrink(canvas.albedo[channel]) * light * np.float32(gain * balance[channel])
        plane += np.float32(haze) * (np.float32(_HAZE[channel]) - plane)
        # The sum of three uniform draws stands for a Gaussian, whose tails would need exp and log.
        noise = dice.grid(PIXELS, PIXELS) + dice.grid(PIXELS, PIXELS) + dice.grid(PIXELS, PIXELS)
        image[..., channel] = plane + noise * np.float32(strength)
    # Black is left to pixels beyond the survey.
    levels = np.floor(image * np.float32(255) + np.float32(0.5))
    pixels: np.ndarray = np.clip(levels, 1, 255).astype(np.uint8)
    return pixels


def purity(label: np.ndarray) -> tuple[np.ndarray, Mask]:
    """Return the class of every finished pixel, and where all canvas pixels below it agree on it."""
    first = label[::2, ::2]
    same = (first == label[1::2, ::2]) & (first == label[::2, 1::2]) & (first == label[1::2, 1::2])
    return first, same


def _shrink(field: Field) -> Field:
    """Return the mean over blocks of 2 × 2, added in a fixed order."""
    total = field[::2, ::2] + field[1::2, ::2] + field[::2, 1::2] + field[1::2, 1::2]
    result: Field = total * np.float32(0.25)
    return result


def _facing(height: Field, lx: float, ly: float, slope: float) -> Field:
    """Return Lambert's cosine of every finished pixel, 1 on level ground, from the relief."""
    padded = np.pad(height, 1, mode="edge")
    reach = np.float32(METER / 2)
    gx = (padded[1:-1, 2:] - padded[1:-1, :-2]) * reach
    gy = (padded[2:, 1:-1] - padded[:-2, 1:-1]) * reach
    # Walls are vertical: their gradient is a step, not a slope, and would draw black outlines.
    gx, gy = np.clip(gx, -1.6, 1.6), np.clip(gy, -1.6, 1.6)
    tilt = 1 - (gx * np.float32(lx) + gy * np.float32(ly)) / np.float32(slope)
    return _shrink(np.maximum(tilt, 0) / np.sqrt(1 + gx * gx + gy * gy))


def _shadow(height: Field, lx: float, ly: float, slope: float) -> Field:
    """Return 0 in the sun to 1 in the shade for every finished pixel, by marching towards the sun."""
    low = _shrink(height)
    reach = int(float(low.max()) / slope / _STEP) + 2
    padded = np.pad(low, reach)
    blocked = low.copy()
    for step in range(1, reach):
        dx, dy = round(step * lx), round(step * ly)
        there = padded[reach + dy : reach + dy + PIXELS, reach + dx : reach + dx + PIXELS]
        np.maximum(blocked, there - np.float32(step * _STEP * slope), out=blocked)
    depth = np.clip((blocked - low) * np.float32(1.6) - np.float32(0.15), 0, 1)
    edge = np.pad(depth, 1, mode="edge")
    across = edge[:, :-2] + edge[:, 1:-1] * 2 + edge[:, 2:]
    result: Field = (across[:-2] + across[1:-1] * 2 + across[2:]) * np.float32(1 / 16)
    return result
