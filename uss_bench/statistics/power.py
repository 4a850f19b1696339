"""How much more data would tell two configurations apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import stats

from uss_bench.statistics.comparing import Difference

POWER = 0.8


@dataclass(frozen=True, slots=True)
class Needed:
    """What would tell a difference of the observed size, if it is real, in four cases of five."""

    images: int | None
    """Test images in all, with the seeds there are; None where the seeds alone leave too much open."""
    seeds: int | None
    """Seeds per side, with the images there are; None where the images alone leave too much open, or
    one seed a side hides what seeds do."""


def needed(
    difference: Difference, images: int, seeds: tuple[int, int], *, level: float = 0.95
) -> Needed | None:
    """Return roughly what a verdict would need; None where there is one, or no difference to find.

    Rough, because the observed difference stands for the real one, and a normal distribution for
    Student's: with few seeds somewhat more is needed.
    """
    size = abs(sum((difference.interval.low, difference.interval.high)) / 2)
    if difference.verdict != "tied" or math.isnan(size) or size < 0.05:
        return None
    allowed = (size / (stats.norm.ppf((1 + level) / 2) + stats.norm.ppf(POWER))) ** 2
    by_images, by_seeds = difference.error_of_images**2, difference.error_of_seeds**2
    return Needed(
        images=_enough(images, by_images, allowed - by_seeds),
        seeds=_enough(max(seeds), by_seeds, allowed - by_images) if by_seeds else None,
    )


def _enough(number: int, variance: float, allowed: float) -> int | None:
    """Return how many instead of `number` would bring a variance down to what is allowed."""
    return max(number + 1, math.ceil(number * variance / allowed)) if allowed > 0 else None
