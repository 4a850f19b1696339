"""Reading frozen features by index: from the memory map, or streamed from the backbone."""

from __future__ import annotations

import contextlib
import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from uss_bench import progress
from uss_bench.contracts import Features
from uss_bench.errors import UsageError
from uss_bench.geometry import Items
from uss_bench.locking import locked
from uss_bench.shards import ITEMS_PER_SHARD, Shards, channel_sums, writing_to

if TYPE_CHECKING:
    from uss_bench.features import FeatureStore


class FeatureReader(Features):
    """Features of items, read by index from the memory map or streamed from the backbone."""

    def __init__(self, store: FeatureStore, items: Items, layout: Shards, *, stored: bool) -> None:
        self.facets = list(layout.shapes)
        self.stored = stored
        self.items = items
        self.folder = layout.folder
        self._store = store
        self._layout = layout
        self._maps = {
            facet: [_mapped(layout.path(facet, shard)) for shard in range(layout.count)]
            for facet in (self.facets if stored else ())
        }

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return {facet: value[0].cpu() for facet, value in self.batch([index]).items()}

    def batch(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        wanted = [int(index) for index in indices]
        if not self.stored:
            return self._store.encode(self.items, wanted, self.facets)
        return {facet: self._gather(facet, wanted) for facet in self.facets}

    def _gather(self, facet: str, indices: Sequence[int]) -> Tensor:
        maps, device = self._maps[facet], self._store.device
        # On a CPU rows go straight to their place, converted on the way; over a bus they go as they are kept.
        dtype = torch.float32 if device.type == "cpu" else maps[0].dtype
        batch = torch.empty((len(indices), *maps[0].shape[1:]), dtype=dtype)
        for place, index in enumerate(indices):
            shard, row = divmod(index, ITEMS_PER_SHARD)
            batch[place].copy_(maps[shard][row])
        return batch.to(device).float()

    def moments(self, facet: str) -> tuple[Tensor, Tensor]:
        if facet not in self.facets:
            raise UsageError(f"The features hold {', '.join(self.facets)}, not '{facet}'.")
        positions, total, squares = 0, np.zeros(()), np.zeros(())
        for count, channel_total, channel_squares in self._sums_by_part(facet):
            positions += count
            total = total + channel_total
            squares = squares + channel_squares
        mean = total / positions
        deviation = np.sqrt(np.maximum(squares / positions - mean**2, 0.0))
        return (
            torch.from_numpy(np.asarray(mean, dtype=np.float32)),
            torch.from_numpy(np.asarray(deviation, dtype=np.float32)),
        )

    def _sums_by_part(self, facet: str) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        if self.stored:
            for shard in range(self._layout.count):
                sidecar = self._layout.sidecar(facet, shard)
                assert sidecar is not None, "a stored reader is opened after every sidecar was written"
                yield sidecar.positions, np.array(sidecar.total), np.array(sidecar.total_of_squares)
            return
        size = 1  # whole images do not stack
        if not self.items.whole:
            size = self._store.encoder.batch_size(self.items[0], [facet])
        steps = range(0, len(self), size)
        for start in progress.track(steps, total=len(steps), label="feature moments"):
            indices = range(start, min(len(self), start + size))
            array = self.batch(indices)[facet].cpu().numpy()
            total, squares, positions = channel_sums(array)
            yield positions, total, squares

    def source(self, index: int) -> tuple[int, int]:
        return self.items.source(index)

    def derived(
        self, name: str, version: str, build: Callable[[Features], Mapping[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Return arrays that `build` makes from these features, computed once and kept beside them.

        Args:
            name: what is computed, parameters included.
            version: digest of the code that computes it.
        """
        digest = hashlib.sha256(json.dumps([name, version, self.facets]).encode()).hexdigest()[:16]
        path = self.folder / "derived" / f"{digest}.npz"
        kept = _load_arrays(path)
        if kept is not None:
            return kept
        with contextlib.ExitStack() as stack:
            writable = True
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(
                    locked(path.with_suffix(".lock"), self._store.log, "works on the same features")
                )
            except OSError:
                writable = False  # built in every run, as features are then streamed in every run
            kept = _load_arrays(path)
            if kept is not None:
                return kept
            arrays = {key: np.asarray(value) for key, value in build(self).items()}
            if writable:
                partial = path.with_name(f".{path.name}.partial")
                with writing_to(path.parent, partial):
                    with partial.open("wb") as file:
                        np.savez(file, **arrays)  # type: ignore[arg-type]
                    partial.replace(path)
            return arrays


def _mapped(path: Path) -> Tensor:
    """Map a shard into memory. What is written to it stays in this process; torch wants it writable."""
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def _load_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Read an npz file; None when it is missing or damaged (its members carry checksums)."""
    try:
        # np.load leaves a file open that it opened itself and that turns out to be damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            return {key: kept[key] for key in kept.files}
    except (OSError, ValueError, EOFError, KeyError, zlib.error, zipfile.BadZipFile):
        return None
