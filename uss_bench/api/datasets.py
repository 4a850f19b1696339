"""Datasets by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uss_bench.contracts import Dataset
from uss_bench.plugins.loading import load_dataset
from uss_bench.plugins.registry import Registry


def dataset(
    name: str, root: str | Path | None = None, *, plugins: Sequence[str | Path] = (), **options: Any
) -> Dataset:
    """Return a dataset: its classes, and the images and labels of its splits.

    Examples:
        >>> camvid = uss_bench.dataset("folder", "camvid", classes="camvid")
        >>> image = camvid.images(camvid.test_split).image(0)

    Args:
        name: as ``uss-bench ls datasets`` shows it.
        root: where it lies on disk.
        plugins: folders of further plugins.
        options: any other option of the dataset (``uss-bench info NAME``).

    Raises:
        UsageError: for an unknown name or option.
        DataError: when files are missing or wrong.
    """
    places = {} if root is None else {"root": str(root)}
    found, _ = load_dataset(Registry(map(Path, plugins)), name, {**places, **options})
    return found
