"""Where the inputs of training items come from: the feature store, and the planes beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from uss_bench.data.geometry import TransformedImages
from uss_bench.features.inputs import Inputs
from uss_bench.features.planes import PlaneStore
from uss_bench.features.reader import FeatureReader
from uss_bench.features.store import FeatureStore
from uss_bench.plugins.inputs import facets_of
from uss_bench.training.clock import Clock


class TrainingSource:
    """Opens inputs of the training items, each once.

    Args:
        clock: counts what is extracted and decoded for it as a phase of its own.
    """

    def __init__(self, items: TransformedImages, store: FeatureStore, clock: Clock) -> None:
        self.planes = PlaneStore(store.root, store.device, store.budget, store.log)
        self._items = items
        self._store = store
        self._clock = clock
        self._readers: dict[tuple[tuple[str, ...], bool], FeatureReader | Inputs] = {}

    def __len__(self) -> int:
        return len(self._items)

    def open(self, inputs: Sequence[str], *, build: bool) -> FeatureReader | Inputs:
        """Return a reader of inputs.

        Args:
            build: whether what is not stored is stored now; without, it is streamed.

        Raises:
            UsageError: for a facet that the backbone does not have.
            DataError: when an image or a map cannot be read.
        """
        key = (tuple(inputs), build)
        if (stored := self._readers.get((tuple(inputs), True))) is not None:
            return stored
        if key not in self._readers:
            with self._clock.phase("extract"):
                self._readers[key] = self._open(inputs, build)
        return self._readers[key]

    def identity(self, inputs: Sequence[str]) -> tuple[Path, list[str]]:
        """Return the folder that arrays derived from `inputs` lie under, and what tells the inputs apart."""
        facets = set(facets_of(inputs))
        stated = [
            f"{self._store.facet(name)} of {self._store.key(self._items)}"
            if name in facets
            else f"{name} of {self.planes.key(self._items, name)}"
            for name in inputs
        ]
        key = self._store.key(self._items) if facets else self.planes.key(self._items, inputs[0])
        return self._store.root / key, stated

    def _open(self, inputs: Sequence[str], build: bool) -> FeatureReader | Inputs:
        facets = facets_of(inputs)
        features = self._store.open(self._items, facets, build=build) if facets else None
        if features is not None and len(facets) == len(inputs):
            return features
        planes = {
            name: self.planes.open(self._items, name, build=build) for name in inputs if name not in facets
        }
        return Inputs(inputs, planes, features)
