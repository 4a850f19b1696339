"""The feature store: every frozen-backbone method shares one extraction.

Features lie under ``CACHE/features/<key>/<facet>/``, where the key is a digest of all that decides
them: backbone weights, position rule, images, geometry and dtype. A facet is a row of shards, each a
plain ``.npy`` that is memory-mapped, with a sidecar that holds its checksum and the moments of its
channels. A sidecar is renamed into place after its shard, so a shard without one does not exist:
an interrupted extraction continues, and a damaged shard is found when the store is opened and built
again. A lock per key lets two processes share a store. Several machines may divide one extraction among
them (`FeatureStore.extract`): a share takes the lock only to look at a shard and to write it.

fp16 moves a value by at most 5e-4 of it, half of its last bit; float32 is a switch. On CUDA it is also
the switch for how they are computed: float16 features by autocast, which is part of their key, and float32
features in float32. What does not
fit the budget is streamed from the backbone instead, through the same interface and rounded alike. So are
whole images: their features differ in size, and their CRF takes far longer than the backbone.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uss_bench import progress
from uss_bench.contracts import Backbone
from uss_bench.decoding import read_ahead
from uss_bench.encoding import Encoder
from uss_bench.errors import ContractError, DataError
from uss_bench.feature_reader import FeatureReader
from uss_bench.geometry import Items
from uss_bench.locking import locked
from uss_bench.paths import atomic_write
from uss_bench.records import FeatureDtype
from uss_bench.shards import Shards, writing_to

_FORMAT = 1


class FeatureStore:
    """Extracts, keeps and serves frozen features.

    Args:
        root: folder of the store.
        backbone: the frozen network; its `sha256` is part of every key.
        positions: the protocol's rule for position embeddings, also part of the key.
        dtype: how features are kept on disk; they are served as float32.
        budget: bytes that one extraction may take on disk; beyond it features are streamed.
        batch_size: images per backbone call while extracting; None for what `Encoder` chooses.
    """

    def __init__(
        self,
        root: Path,
        backbone: Backbone,
        *,
        positions: str,
        device: torch.device,
        dtype: FeatureDtype = "float16",
        budget: int = 50 * 10**9,
        batch_size: int | None = None,
        log: Callable[[str], None] = progress.log,
    ) -> None:
        self.root = Path(root)
        self.backbone = backbone
        self.positions = positions
        self.device = device
        self.dtype = np.dtype(dtype)
        self.budget = budget
        self.encoder = Encoder(backbone, device, dtype=dtype, batch_size=batch_size)
        self.log = log
        self.encoded = 0
        """Items that went through the backbone so far, whether kept or streamed."""

    def open(self, items: Items, facets: Sequence[str]) -> FeatureReader:
        """Return the features of `items`, extracting what is not there yet.

        Raises:
            DataError: when an image cannot be read or is smaller than a patch, or the disk is full.
        """
        layout = self._layout(items, facets)
        if layout.is_complete():  # then nothing is written: the cache may be shared and read-only
            return FeatureReader(self, items, layout, stored=True)
        if not self._may_store(items, layout):
            return FeatureReader(self, items, layout, stored=False)
        self._complete(layout, items, facets)
        return FeatureReader(self, items, layout, stored=True)

    def extract(self, items: Items, facets: Sequence[str], part: int, parts: int) -> None:
        """Build one job's share of what `open` would: of every `parts` shards that follow each other, one.

        Shares may be built at the same time, on several machines that see the same folder. A shard that
        two processes work on is written by the first. Nothing is done where `open` would stream.

        Args:
            part: which share, from 0 to `parts` - 1.

        Raises:
            DataError: as `open`.
        """
        layout = self._layout(items, facets)
        if layout.is_complete() or not self._may_store(items, layout):
            return
        self._describe(layout, items)
        share = range(part, layout.count, parts)
        with progress.bar(total=sum(len(layout.items_of(shard)) for shard in share), label="features") as bar:
            for shard in share:
                with self._locked(layout):
                    missing = [facet for facet in facets if self._must_build(layout, facet, shard)]
                if not missing:
                    bar.update(len(layout.items_of(shard)))
                    continue
                for _, arrays in self._encode_shards(layout, items, {shard: missing}, bar.update):
                    with self._locked(layout):
                        for facet, array in arrays.items():
                            if layout.sidecar(facet, shard) is None:
                                layout.write(facet, shard, array)

    def _layout(self, items: Items, facets: Sequence[str]) -> Shards:
        if not len(items):
            raise DataError("There are no images to extract features from.")
        probe = self.encoder(items[0][None], facets)
        shapes = {facet: tuple(value.shape[1:]) for facet, value in probe.items()}
        return Shards(self.root / self.key(items), shapes, self.dtype, len(items))

    def _may_store(self, items: Items, layout: Shards) -> bool:
        """Whether features that are not there may be kept; says why not where a user can change it."""
        if items.whole:
            return False
        reason = self._why_stream(layout)
        if reason:
            self.log(f"Features are streamed from the backbone, not stored: {reason}.")
        return not reason

    def key(self, items: Items) -> str:
        """Return the digest that names the folder of these items' features."""
        identity = {
            "format": _FORMAT,
            "backbone": [self.backbone.name, self.backbone.sha256],
            "positions": self.positions,
            "dtype": self.dtype.name,
            **items.identity(),
        }
        if self.encoder.autocast:
            identity["autocast"] = "float16"
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]

    def encode(self, items: Items, indices: Sequence[int], facets: Sequence[str]) -> dict[str, Tensor]:
        """Run the backbone on items, float32 (B, D, h, w) per facet, on the store's device."""
        self.encoded += len(indices)
        return self.encoder(np.stack([items[index] for index in indices]), facets)

    def _why_stream(self, layout: Shards) -> str | None:
        folder, needed = layout.folder, layout.bytes_needed()
        if needed > self.budget:
            return f"they take {needed / 1e9:.1f} GB and the budget is {self.budget / 1e9:.1f} GB"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            return f"{folder} cannot be written ({error.strerror})"
        if not os.access(folder, os.W_OK):
            return f"{folder} cannot be written (it is read-only)"
        missing = needed - layout.bytes_present()
        free = shutil.disk_usage(folder).free
        if missing > 0.95 * free:
            return f"they take {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB left"
        return None

    def _locked(self, layout: Shards) -> contextlib.AbstractContextManager[None]:
        return locked(layout.folder / "lock", self.log, "works on the same features")

    def _complete(self, layout: Shards, items: Items, facets: Sequence[str]) -> None:
        with self._locked(layout):
            self._describe(layout, items)
            todo: dict[int, list[str]] = {}
            for shard in range(layout.count):
                missing = [facet for facet in facets if self._must_build(layout, facet, shard)]
                if missing:
                    todo[shard] = missing
            count = sum(len(layout.items_of(shard)) for shard in todo)
            with progress.bar(total=count, label="features") as bar, ThreadPoolExecutor(1) as writer:
                written: list[Future[None]] = []
                for shard, arrays in self._encode_shards(layout, items, todo, bar.update):
                    for future in written:  # one shard is written while the next is computed
                        future.result()
                    written = [writer.submit(layout.write, f, shard, array) for f, array in arrays.items()]
                for future in written:
                    future.result()

    def _describe(self, layout: Shards, items: Items) -> None:
        about = json.dumps({"backbone": self.backbone.name, **items.identity()}, indent=1)
        with writing_to(layout.folder):
            atomic_write(layout.folder / "about.json", about.encode())

    def _must_build(self, layout: Shards, facet: str, shard: int) -> bool:
        sound = layout.is_sound(facet, shard)
        if sound is False:
            path = layout.path(facet, shard)
            self.log(f"Feature shard {path.name} of '{facet}' is damaged and is built again ({path.parent}).")
            layout.sidecar_path(facet, shard).unlink(missing_ok=True)
        return not sound

    def _encode_shards(
        self,
        layout: Shards,
        items: Items,
        todo: Mapping[int, Sequence[str]],
        advance: Callable[[int], Any],
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Yield the arrays of some facets of some shards, while images are read ahead in threads."""
        if not todo:
            return
        size = self.encoder.batch_size(items[0], [facet for facets in todo.values() for facet in facets])
        indices = (index for shard in todo for index in layout.items_of(shard))
        with contextlib.closing(read_ahead(items.__getitem__, indices, depth=2 * size)) as squares:
            for shard, facets in todo.items():
                count = len(layout.items_of(shard))
                arrays = {f: np.empty((count, *layout.shapes[f]), self.dtype) for f in facets}
                for start in range(0, count, size):
                    batch = np.stack(list(itertools.islice(squares, min(size, count - start))))
                    for facet, value in self.encoder(batch, facets).items():
                        shape, known = tuple(value.shape[1:]), layout.shapes[facet]
                        if shape != known:
                            raise ContractError(
                                f"Backbone '{self.backbone.name}' gave '{facet}' of {shape} for one image, "
                                f"{known} for another of the same size."
                            )
                        arrays[facet][start : start + len(batch)] = value.detach().cpu().numpy()
                    self.encoded += len(batch)
                    advance(len(batch))
                yield shard, arrays
