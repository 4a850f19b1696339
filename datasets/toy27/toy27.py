"""The dataset `toy27`: generated street scenes, 27 classes, exact labels, nothing to download."""

from __future__ import annotations

from uss_bench.data import Generated
from uss_bench.plugins.specs import DatasetSpec

from .scenes import VERSION, depth, render

SPLITS = {"train": (0, 300), "test": (10_000, 100), "heldout": (20_000, 60)}
"""First scene number and count of every split; the ranges do not meet."""


def toy27(spec: DatasetSpec, *, seed: int = 0) -> Generated:
    """Return the dataset, whose images have the extra channel ``depth``: exact, in meters.

    Args:
        seed: 0 is the benchmark; another is another world of the same kind, under another name.
    """
    return Generated(
        spec, render=render, version=VERSION, splits=SPLITS, seed=seed, channels={"depth": depth}
    )
