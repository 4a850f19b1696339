"""Counts for tests of statistics: made up, or of simulated methods."""

from __future__ import annotations

import numpy as np
from simulation import Images, SimulatedMethod

from uss_bench.protocol import get_protocol

PROTOCOL = get_protocol("stego320@2")


def some_counts(seed: int, images: int = 12, clusters: int = 5, classes: int = 4) -> np.ndarray:
    """Counts of images that show few classes each; class 0 may be in none."""
    rng = np.random.default_rng(seed)
    shown = rng.random((images, 1, classes)) < 0.4
    return rng.integers(0, 500, (images, clusters, classes)) * shown


def simulated(seed: int, images: int, methods: int = 1, *, skill: float = 0.4) -> list[np.ndarray]:
    """Counts of methods of one kind on the same images."""
    rng = np.random.default_rng(seed)
    seen = Images.draw(images, rng)
    return [SimulatedMethod.draw(rng, skill=skill).counts(seen, rng) for _ in range(methods)]
