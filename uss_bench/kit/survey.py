"""A dataset under survey: opened more than once, with some images of every split in use."""

from __future__ import annotations

import functools
import inspect
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from uss_bench.contracts import Dataset, Images, Labels
from uss_bench.registry import Registry
from uss_bench.setup import load_dataset

SAMPLED = 16
"""Images that are read of each split, evenly spaced; ``uss-bench verify`` reads all."""

_COPIED = 64 * 2**20
"""Bytes up to which a dataset's folder is copied, to see whether a change is noticed."""


class Survey:
    """Opens a dataset and remembers what was read.

    Args:
        options: the dataset's options, as a run would give them.
    """

    def __init__(self, name: str, registry: Registry, options: Mapping[str, Any]) -> None:
        self.name = name
        self.registry = registry
        self.options = dict(options)

    def open(self, **changed: Any) -> Dataset:
        """Open the dataset anew, with some options changed.

        Raises:
            UssBenchError: when it cannot be opened.
        """
        return load_dataset(self.registry, self.name, {**self.options, **changed})[0]

    @functools.cached_property
    def entry(self) -> Any:
        return self.registry.dataset(self.name)[1].load()

    @functools.cached_property
    def first(self) -> Dataset:
        return self.open()

    @functools.cached_property
    def second(self) -> Dataset:
        return self.open()

    @functools.cached_property
    def splits(self) -> list[str]:
        """The splits in use, each once."""
        return list(dict.fromkeys((self.first.train_split, self.first.test_split)))

    @functools.cached_property
    def images(self) -> dict[str, Images]:
        return {split: self.first.images(split) for split in self.splits}

    @functools.cached_property
    def labels(self) -> dict[str, Labels]:
        """The labels of the splits that have some."""
        found = {split: self.first.labels(split) for split in self.splits}
        return {split: labels for split, labels in found.items() if labels is not None}

    def sampled(self, split: str) -> list[int]:
        total = len(self.images[split])
        return sorted({index * total // SAMPLED for index in range(SAMPLED)}) if total else []

    @functools.cache  # noqa: B019 - a survey lives as long as one check
    def image(self, split: str, index: int) -> np.ndarray:
        """Return a sampled image, read once."""
        return self.images[split].image(index)

    @functools.cache  # noqa: B019
    def label(self, split: str, index: int) -> np.ndarray:
        """Return a sampled label, read once."""
        return self.labels[split].label(index)

    @property
    def root(self) -> Path | None:
        """The folder that the dataset lies in, if it has such an option."""
        parameter = inspect.signature(self.entry).parameters.get("root")
        default = parameter.default if parameter is not None else None
        given = self.options.get("root", default)
        return Path(given).expanduser() if isinstance(given, str | Path) else None

    def copy(self, target: Path) -> Path | None:
        """Copy the dataset's folder; return the copy, or None if there is none or it is large."""
        root = self.root
        if root is None or not root.is_dir():
            return None
        size = 0
        for path in root.rglob("*"):
            size += path.stat().st_size if path.is_file() else 0
            if size > _COPIED:
                return None
        return Path(shutil.copytree(root, target / "copy"))
