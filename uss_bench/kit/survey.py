"""A dataset under survey: opened more than once, with some images of every split in use."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from uss_bench.contracts import Dataset, Images, Labels
from uss_bench.plugins.loading import load_dataset
from uss_bench.plugins.registry import Plugin, Registry

SAMPLED = 16
"""Images that are read of each split, evenly spaced; ``uss-bench verify`` reads all."""


class Survey:
    """Opens a dataset and remembers what was read.

    Args:
        options: the dataset's options, as a run would give them.
    """

    def __init__(self, plugin: Plugin, registry: Registry, options: Mapping[str, Any]) -> None:
        self.plugin = plugin
        self.registry = registry
        self.options = dict(options)
        self.image = functools.cache(lambda split, index: self.images[split].image(index))
        self.label = functools.cache(lambda split, index: self.labels[split].label(index))

    def open(self, **changed: Any) -> Dataset:
        """Open the dataset anew, with some options changed.

        Raises:
            UssBenchError: when it cannot be opened.
        """
        return load_dataset(self.registry, self.plugin.name, {**self.options, **changed})[0]

    @functools.cached_property
    def first(self) -> Dataset:
        return self.open()

    @functools.cached_property
    def second(self) -> Dataset:
        return self.open()

    @functools.cached_property
    def images(self) -> dict[str, Images]:
        """The images of the splits in use."""
        return {split: self.first.images(split) for split in (self.first.train_split, self.first.test_split)}

    @functools.cached_property
    def labels(self) -> dict[str, Labels]:
        """The labels of the splits in use that have some."""
        found = {split: self.first.labels(split) for split in self.images}
        return {split: labels for split, labels in found.items() if labels is not None}

    def sampled(self, split: str) -> list[int]:
        total = len(self.images[split])
        return sorted({index * total // SAMPLED for index in range(SAMPLED)}) if total else []

    def samples(self) -> list[tuple[str, int]]:
        """Return (split, index) of every sampled image."""
        return [(split, index) for split in self.images for index in self.sampled(split)]
