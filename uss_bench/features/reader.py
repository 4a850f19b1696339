"""Reading frozen features by index: from the memory map, or streamed from the backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from uss_bench.contracts import Features, Sampler
from uss_bench.data.geometry import TransformedImages
from uss_bench.data.prefetch import Prefetcher, read_batches
from uss_bench.errors import UsageError
from uss_bench.features.encoder import Encoder
from uss_bench.features.shards import Shards, StoredRows, channel_sums, vanished
from uss_bench.runtime import progress

AHEAD_BYTES = 2**28
"""What images may take that are decoded ahead of their use."""


class Encodes(Protocol):
    """The part of a `FeatureStore` that a reader needs: it encodes what is not stored."""

    device: torch.device
    encoder: Encoder

    def encode(self, squares: Sequence[np.ndarray], facets: Sequence[str]) -> dict[str, Tensor]: ...


class FeatureReader(Features):
    """Features of items, read by index from the memory map or streamed from the backbone.

    Args:
        names: canonical facets by the names under which they are served.
        layout: where shards lie; None where nothing can be stored.
        shards: those that are stored.
        read: reads an item that is streamed; None: from the dataset, every time.
    """

    def __init__(
        self,
        store: Encodes,
        items: TransformedImages,
        names: Mapping[str, str],
        layout: Shards | None,
        shards: set[int],
        read: Callable[[int], np.ndarray] | None = None,
    ) -> None:
        self.facets = list(names)
        self.stored = layout is not None and len(shards) == layout.count
        """Whether nothing is streamed."""
        self.items = items
        self._names = dict(names)
        self._store = store
        self._layout = layout
        self._shards = shards
        self._rows = StoredRows(layout, shards) if layout is not None else None
        self._decoded = Prefetcher(read or items.__getitem__, capacity=ahead(items.size))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return {facet: value[0].cpu() for facet, value in self.batch([index]).items()}

    def batch(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        wanted = [int(index) for index in indices]
        streamed = [place for place, index in enumerate(wanted) if not self._is_stored(index)]
        if len(streamed) == len(wanted):
            return self._stream(wanted)
        if not streamed:
            return {name: self._gather(facet, wanted) for name, facet in self._names.items()}
        kept = [place for place, index in enumerate(wanted) if self._is_stored(index)]
        fresh = self._stream([wanted[place] for place in streamed])
        order = torch.tensor([*kept, *streamed]).argsort().to(self._store.device)
        return {
            name: torch.cat([self._gather(facet, [wanted[place] for place in kept]), fresh[name]])[order]
            for name, facet in self._names.items()
        }

    def batches(self, sampler: Sampler) -> Iterator[tuple[Sequence[int], dict[str, Tensor]]]:
        if self.stored:
            return ((indices, self.batch(indices)) for indices in iter(sampler.__next__, None))
        return read_batches(sampler, self.batch, self.expect)

    def expect(self, indices: Sequence[int]) -> None:
        """Begin to decode what of these items is streamed."""
        self._decoded.expect([index for index in indices if not self._is_stored(index)])

    def moments(self, facet: str) -> tuple[Tensor, Tensor]:
        if facet not in self._names:
            raise UsageError(f"The features hold {', '.join(self.facets)}, not '{facet}'.")
        positions, total, squares = 0, np.zeros(()), np.zeros(())
        for count, channel_total, channel_squares in self._sums_by_part(self._names[facet]):
            positions += count
            total = total + channel_total
            squares = squares + channel_squares
        mean = total / positions
        deviation = np.sqrt(np.maximum(squares / positions - mean**2, 0.0))
        return (
            torch.from_numpy(np.asarray(mean, dtype=np.float32)),
            torch.from_numpy(np.asarray(deviation, dtype=np.float32)),
        )

    def source(self, index: int) -> tuple[int, int]:
        return self.items.source(index)

    def _is_stored(self, index: int) -> bool:
        return self._rows is not None and self._rows.has(index)

    def _gather(self, facet: str, indices: Sequence[int]) -> Tensor:
        assert self._rows is not None, "only stored items are gathered"
        return self._rows.gather(facet, indices, self._store.device, torch.float32)

    def _stream(self, indices: Sequence[int], facets: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Run items through the backbone: what is served, by its name, or the canonical `facets`."""
        wanted = list(dict.fromkeys(facets or self._names.values()))
        found = self._store.encode(self._decoded.take(indices), wanted)
        return found if facets else {name: found[facet] for name, facet in self._names.items()}

    def _sums_by_part(self, facet: str) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield sums per channel, of stored shards as they were noted, and in batches of what is streamed."""
        for shard in sorted(self._shards):
            assert self._layout is not None, "shards that are stored have a place"
            sidecar = self._layout.sidecar(facet, shard)
            if sidecar is None:
                raise vanished(self._layout.sidecar_path(facet, shard))
            yield sidecar.positions, np.array(sidecar.total), np.array(sidecar.total_of_squares)
        rest = [index for index in range(len(self)) if not self._is_stored(index)]
        if not rest:
            return
        size = 1  # whole images do not stack
        if not self.items.whole:
            size = self._store.encoder.batch_size(self.items[0], [facet])
        steps = range(0, len(rest), size)
        for start in progress.track(steps, total=len(steps), label="feature moments"):
            self.expect(rest[start : start + 3 * size])
            array = self._stream(rest[start : start + size], [facet])[facet].cpu().numpy()
            total, squares, positions = channel_sums(array)
            yield positions, total, squares


def ahead(size: tuple[int, int]) -> int:
    """Return how many images of this (height, width) are decoded ahead at most."""
    return max(1, AHEAD_BYTES // (3 * size[0] * size[1]))
