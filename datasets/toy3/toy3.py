"""The dataset `toy3`: generated aerial scenes, three classes, exact labels, nothing to download."""

from __future__ import annotations

from uss_bench.data import Generated
from uss_bench.plugins.specs import DatasetSpec

from .scenes import VERSION, render

SPLITS = {"train": (0, 200), "test": (10_000, 60), "heldout": (20_000, 60)}
"""First scene number and count of every split; the ranges do not meet."""


def toy3(spec: DatasetSpec, *, seed: int = 0) -> Generated:
    """Return the dataset.

    Args:
        seed: 0 is the benchmark; another is another world of the same kind, under another name.
    """
    return Generated(spec, render=render, version=VERSION, splits=SPLITS, seed=seed)
