"""The beginning and the end of a street scene: its sky, and what the camera makes of the canvas."""

from __future__ import annotations

import math

import numpy as np

from .canvas import Canvas
from .dice import Dice, Field, Mask, value_noise
from .light import Light
from .view import COLUMNS, FAR, HEIGHT, ROWS, WIDTH, Camera


def draw_camera(dice: Dice) -> Camera:
    """Draw a camera on a car's roof rack or behind its windscreen, looking about along the street."""
    focal = COLUMNS * dice.uniform(0.85, 1.15)
    center = COLUMNS * dice.uniform(0.40, 0.60)
    horizon = ROWS * dice.uniform(0.40, 0.54)
    bend = dice.uniform(-0.0018, 0.0018) if dice.chance(0.45) else 0.0
    return Camera(focal, center, horizon, dice.uniform(1.2, 2.1), bend)


def sky(canvas: Canvas, dice: Dice) -> None:
    """Paint the sky: from the zenith's color to the haze's, under clouds."""
    light = canvas.light
    rows = min(ROWS, math.ceil(canvas.camera.horizon) + 4)
    t = (np.arange(rows, dtype=np.float32) / np.float32(rows))[:, None]
    t = t * t * np.float32(0.65) + t * np.float32(0.35)
    cover = value_noise(dice, (rows, COLUMNS), (48, 128)) * np.float32(0.55)
    cover += value_noise(dice, (rows, COLUMNS), (18, 50)) * np.float32(0.30)
    cover += value_noise(dice, (rows, COLUMNS), (7, 18)) * np.float32(0.15)
    soft = dice.uniform(1.2, 3.5)
    share = np.clip((cover + np.float32(light.clouds * 1.3 - 0.75)) * np.float32(soft), 0, 0.92)
    bright = np.float32(0.93) + cover * np.float32(0.12)
    veil = 1 if light.clouds < 1 else 0.6
    for plane, top, low in zip(canvas.color, light.zenith, light.haze, strict=True):
        clear = np.float32(top) + t * np.float32(low - top)
        cloud = bright * np.float32(0.45 + 0.55 * low) - (1 - t) * np.float32(0.06)
        plane[:rows] = clear + (cloud - clear) * share * np.float32(veil)


def photograph(canvas: Canvas, dice: Dice) -> np.ndarray:
    """Return what the camera records of the canvas: uint8 (HEIGHT, WIDTH, 3)."""
    light: Light = canvas.light
    density = dice.uniform(0.001, 0.005) if dice.chance(0.8) else dice.uniform(0.006, 0.014)
    air = np.where(canvas.depth < FAR, 1 - 1 / (1 + canvas.depth * np.float32(density)), np.float32(0))
    gain, contrast = dice.uniform(0.94, 1.22), dice.uniform(0.88, 1.08)
    balance = (dice.uniform(0.92, 1.08), 1.0, dice.uniform(0.92, 1.08))
    strength, dim = dice.uniform(0.006, 0.018), dice.uniform(0.0, 0.22)
    corners = 1 - np.float32(dim) * _off_axis()
    image = np.empty((HEIGHT, WIDTH, 3), np.float32)
    for channel, plane in enumerate(canvas.color):
        plane += air * (np.float32(light.haze[channel]) - plane)
        finished = _shrink(plane) * np.float32(gain * contrast * balance[channel])
        finished = (finished + np.float32(0.5 * (1 - contrast))) * corners
        # The sum of two uniform draws stands for a Gaussian, whose tails would need exp and log.
        noise = dice.grid(HEIGHT, WIDTH) + dice.grid(HEIGHT, WIDTH)
        # Bright pixels carry more photon noise than dark ones.
        image[..., channel] = finished + noise * (np.float32(0.4) + finished) * np.float32(strength)
    levels = np.floor(image * np.float32(255) + np.float32(0.5))
    pixels: np.ndarray = np.clip(levels, 0, 255).astype(np.uint8)
    return pixels


def purity(label: np.ndarray) -> tuple[np.ndarray, Mask]:
    """Return the commonest class below every finished pixel, and where it fills more than half of it."""
    parts = (label[::2, ::2], label[::2, 1::2], label[1::2, ::2], label[1::2, 1::2])
    best, votes = parts[0], np.zeros(parts[0].shape, np.uint8)
    for candidate in parts[:2]:
        count = np.zeros(candidate.shape, np.uint8)
        for part in parts:
            count += part == candidate
        best = np.where(count > votes, candidate, best)
        votes = np.maximum(votes, count)
    return best, votes > 2


def shown_depth(depth: Field) -> Field:
    """Return the second least depth below every finished pixel: that of the class which fills three parts."""
    parts = np.stack([depth[::2, ::2], depth[::2, 1::2], depth[1::2, ::2], depth[1::2, 1::2]])
    result: Field = np.sort(parts, axis=0)[1]
    return result


def _shrink(field: Field) -> Field:
    """Return the mean over blocks of 2 × 2, added in a fixed order."""
    total = field[::2, ::2] + field[1::2, ::2] + field[::2, 1::2] + field[1::2, 1::2]
    result: Field = total * np.float32(0.25)
    return result


def _off_axis() -> Field:
    """Return the squared distance from the middle of the image, 1 in its corners."""
    across = (np.arange(WIDTH, dtype=np.float32) + np.float32(0.5)) / np.float32(WIDTH / 2) - 1
    down = (np.arange(HEIGHT, dtype=np.float32) + np.float32(0.5)) / np.float32(HEIGHT / 2) - 1
    result: Field = (across[None, :] * across + (down * down)[:, None]) * np.float32(0.5)
    return result
