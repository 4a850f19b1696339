"""The feature store: every frozen-backbone method shares one extraction.

Features lie under ``CACHE/features/<key>/<facet>/``, where the key is a digest of all that decides
them: backbone weights, position rule, images, geometry and dtype. A facet is a row of shards, each a
plain ``.npy`` that is memory-mapped, with a sidecar that holds its checksum and the moments of its
channels. A sidecar is renamed into place after its shard, so a shard without one does not exist:
an interrupted extraction continues, and a damaged shard is found when the store is opened and built
again. A lock per key lets two processes share a store. Several machines may divide one extraction among
them (`FeatureStore.extract`): a share takes the lock only to look at a shard and to write it.

fp16 moves a value by at most 5e-4 of it, half of its last bit; float32 is a switch, and so is int8, see
`quantized`. On CUDA it is also
the switch for how they are computed: float16 features by autocast, which is part of their key, and float32
features in float32. Shards beyond the budget are streamed from the backbone instead, through the same
interface and rounded alike. So are whole images: their features differ in size, and their CRF takes far
longer than the backbone.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from uss_bench.backbones.facets import Facet, facet_shape, parse_facet
from uss_bench.contracts import Backbone
from uss_bench.data.geometry import TransformedImages
from uss_bench.data.prefetch import read_ahead
from uss_bench.errors import ContractError, DataError
from uss_bench.features.building import Builder
from uss_bench.features.encoder import Encoder
from uss_bench.features.kept import KeptImages
from uss_bench.features.reader import FeatureReader
from uss_bench.features.shards import Shards
from uss_bench.results.record import FeatureDtype
from uss_bench.runtime import progress

_FORMAT = 1


def positions_of(backbone: Backbone) -> str:
    """Return who interpolates a backbone's position embedding; '' where it has none."""
    return str(getattr(backbone, "positions", ""))


class FeatureStore:
    """Extracts, keeps and serves frozen features.

    Args:
        root: folder of the store.
        backbone: the frozen network; its `sha256` and its rule for positions are part of every key.
        dtype: how features are kept on disk; they are served as float32.
        budget: bytes that one extraction may take on disk; features beyond it are streamed, and their images
            kept in as many bytes while a process reads them.
        batch_size: images per backbone call while extracting; None for what `Encoder` chooses.
        aliases: facets that are served under other names: ``{"tokens": "tokens@3"}`` lets whatever reads
            ``tokens`` read those of the third block.
    """

    def __init__(
        self,
        root: Path,
        backbone: Backbone,
        *,
        device: torch.device,
        dtype: FeatureDtype = "float16",
        budget: int = 50 * 10**9,
        batch_size: int | None = None,
        log: Callable[[str], None] = progress.log,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self.root = Path(root)
        self.backbone = backbone
        self.device = device
        self.dtype = np.dtype(dtype)
        self.budget = budget
        self.encoder = Encoder(backbone, device, dtype=dtype, batch_size=batch_size)
        self.log = log
        self.aliases = dict(aliases or {})
        self.encoded = 0
        """Items that went through the backbone so far, whether kept or streamed."""

    def open(self, items: TransformedImages, facets: Sequence[str], *, build: bool = True) -> FeatureReader:
        """Return the features of `items`, extracting what is not there yet.

        Nothing runs through the backbone before it has to.

        Args:
            facets: names of facets, under which the reader serves them.
            build: whether features that are not there are stored; without, they are streamed.

        Raises:
            UsageError: for a facet that the backbone does not have.
            DataError: when an image cannot be read or is smaller than a patch, or the disk is full.
        """
        names = {name: str(self.facet(name)) for name in facets}
        if items.whole:
            return FeatureReader(self, items, names, None, set())
        layout = self.layout(items, facets)
        if build:
            stored = self._builder(layout, items).complete(self._producer(layout, items))
        else:
            stored = layout.sound_shards()
        read = KeptImages(items, self.root, self.budget) if build and len(stored) < layout.count else None
        return FeatureReader(self, items, names, layout, stored, read)

    def extract(self, items: TransformedImages, facets: Sequence[str], part: int, parts: int) -> None:
        """Build one job's share of what `open` would: of every `parts` shards that follow each other, one.

        Shares may be built at the same time, on several machines that see the same folder. A shard that
        two processes work on is written by the first. Nothing is done where `open` would stream.

        Args:
            part: which share, from 0 to `parts` - 1.

        Raises:
            UsageError, DataError: as `open`.
        """
        if items.whole:
            return
        layout = self.layout(items, facets)
        self._builder(layout, items).share(self._producer(layout, items), part, parts)

    def storable(self, items: TransformedImages, facets: Sequence[str]) -> tuple[int, str]:
        """Return how many shards `open` would store, and why not all; '' if all. Nothing is written."""
        if items.whole:
            return 0, "whole images differ in size"
        return self._builder(self.layout(items, facets), items).storable()

    def facet(self, name: str) -> Facet:
        """Return the facet that is served under a name.

        Raises:
            UsageError: when the backbone does not have it.
        """
        return parse_facet(self.aliases.get(name, name), self.backbone.info)

    def layout(self, items: TransformedImages, facets: Sequence[str]) -> Shards:
        """Return where the features of square items lie, and their shapes, by canonical names.

        Raises:
            UsageError: for a facet that the backbone does not have.
            DataError: when there are no items.
        """
        if not len(items):
            raise DataError("There are no images to extract features from.")
        info = self.backbone.info
        named = {str(facet): facet for facet in map(self.facet, facets)}
        shapes = {name: facet_shape(facet, info, *items.size) for name, facet in named.items()}
        known = {name: shape for name, shape in shapes.items() if shape is not None}
        if unknown := [name for name in shapes if name not in known]:
            probe = self.encoder(items[0][None], unknown)  # a kind of this backbone's own
            known |= {name: tuple(value.shape[1:]) for name, value in probe.items()}
        known = {name: known[name] for name in shapes}
        return Shards(self.root / self.key(items), known, self.dtype, len(items))

    def key(self, items: TransformedImages) -> str:
        """Return the digest that names the folder of these items' features."""
        identity = {
            "format": _FORMAT,
            "backbone": [self.backbone.name, self.backbone.sha256],
            "positions": positions_of(self.backbone),
            "dtype": self.dtype.name,
            **items.identity(),
        }
        if self.encoder.autocast:
            identity["autocast"] = "float16"
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]

    def encode(self, squares: Sequence[np.ndarray], facets: Sequence[str]) -> dict[str, Tensor]:
        """Run the backbone on uint8 (H, W, 3) arrays; return float32 (B, ...) per facet, on the device."""
        self.encoded += len(squares)
        return self.encoder(np.stack(squares), facets)

    def _builder(self, layout: Shards, items: TransformedImages) -> Builder:
        about = {"backbone": self.backbone.name, **items.identity()}
        return Builder(layout, about, "features", self.budget, self.log, lambda: self.key(items))

    def _producer(
        self, layout: Shards, items: TransformedImages
    ) -> Callable[[Mapping[int, list[str]]], Iterator[tuple[int, dict[str, np.ndarray]]]]:
        def produce(todo: Mapping[int, list[str]]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
            return self._encode_shards(layout, items, todo)

        return produce

    def _encode_shards(
        self, layout: Shards, items: TransformedImages, todo: Mapping[int, Sequence[str]]
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Yield the arrays of some facets of some shards, while images are read ahead in threads."""
        if not todo:
            return
        size = self.encoder.batch_size(items[0], [facet for facets in todo.values() for facet in facets])
        indices = (index for shard in todo for index in layout.items_of(shard))
        with contextlib.closing(read_ahead(items.__getitem__, indices, depth=2 * size)) as squares:
            for shard, facets in todo.items():
                count = len(layout.items_of(shard))
                arrays = {f: np.empty((count, *layout.shapes[f]), layout.array_dtype) for f in facets}
                for start in range(0, count, size):
                    batch = list(itertools.islice(squares, min(size, count - start)))
                    for facet, value in self.encode(batch, facets).items():
                        shape, known = tuple(value.shape[1:]), layout.shapes[facet]
                        if shape != known:
                            raise ContractError(
                                f"Backbone '{self.backbone.name}' gave '{facet}' of {shape} for one image; "
                                f"by its info it should be {known}."
                            )
                        arrays[facet][start : start + len(batch)] = value.detach().cpu().numpy()
                yield shard, arrays
