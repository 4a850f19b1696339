"""What a method reads for some items: images, extra channels and frozen features, under one geometry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from uss_bench.contracts import Batch, Features, Sampler
from uss_bench.data.geometry import TransformedImages
from uss_bench.data.prefetch import read_batches
from uss_bench.errors import UsageError
from uss_bench.features.encoder import to_unit_range
from uss_bench.features.planes import PlaneReader, plane
from uss_bench.features.reader import FeatureReader


class Inputs(Features):
    """Images (3, side, side) in [0, 1], extra channels (n, side, side) and facets, by item.

    Args:
        names: ``image``, ``aux:NAME`` or facets, in the order of the batch.
        planes: readers of images and extra channels, by name.
        features: features of the same items; None when no facet is among the names.
    """

    def __init__(
        self, names: Sequence[str], planes: Mapping[str, PlaneReader], features: FeatureReader | None
    ) -> None:
        self.facets = list(names)
        self._planes = dict(planes)
        self._features = features
        readers: list[PlaneReader | FeatureReader] = [*self._planes.values()]
        self._readers = readers if features is None else [*readers, features]

    def __len__(self) -> int:
        return len(self._readers[0])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return {name: value[0].cpu() for name, value in self.batch([index]).items()}

    def batch(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        batch = {name: reader.batch(indices) for name, reader in self._planes.items()}
        batch = {
            name: value.float().div_(255) if value.dtype == torch.uint8 else value
            for name, value in batch.items()
        }
        if self._features is not None:
            batch |= self._features.batch(indices)
        return {name: batch[name] for name in self.facets}

    def batches(self, sampler: Sampler) -> Iterator[tuple[Sequence[int], dict[str, Tensor]]]:
        if all(reader.stored for reader in self._readers):
            return ((indices, self.batch(indices)) for indices in iter(sampler.__next__, None))
        return read_batches(sampler, self.batch, self.expect)

    def expect(self, indices: Sequence[int]) -> None:
        """Begin to read what of these items is not stored."""
        for reader in self._readers:
            reader.expect(indices)

    def moments(self, facet: str) -> tuple[Tensor, Tensor]:
        if self._features is None or facet not in self._features.facets:
            raise UsageError(f"Moments are kept of facets, and '{facet}' was not asked for as one.")
        return self._features.moments(facet)

    def source(self, index: int) -> tuple[int, int]:
        return self._readers[0].source(index)


def assemble(
    names: Sequence[str],
    items: TransformedImages,
    features: Features | None,
    rows: Sequence[int],
    device: torch.device,
) -> Batch:
    """Gather inputs of some items, stacked on `device`, images and extra channels from the dataset itself."""
    batch: dict[str, Tensor] = {}
    for name in names:
        if name == "image":
            batch[name] = to_unit_range(np.stack([items[row] for row in rows]), device)
        elif name.startswith("aux:"):
            batch[name] = torch.from_numpy(np.stack([plane(items, row, name) for row in rows])).to(device)
    if features is not None:
        batch.update(features.batch(rows))
    return batch
