"""Images and extra channels of training items, at the training geometry: stored once, or read ahead.

They lie beside the features, as ``CACHE/features/<key>/image/``, with a key that knows no backbone: images
as uint8, so exactly as they were decoded and resized, extra channels as float32. What the budget does not
hold is read from the dataset again, in threads.
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

from uss_bench.contracts import ImageReader, Sampler
from uss_bench.data.geometry import TransformedImages
from uss_bench.data.images import channel_fingerprint
from uss_bench.data.overlay import extra_channel
from uss_bench.data.prefetch import Prefetcher, read_ahead, read_batches
from uss_bench.errors import DataError, UsageError
from uss_bench.features.building import Builder
from uss_bench.features.reader import AHEAD_BYTES
from uss_bench.features.shards import Shards, StoredRows
from uss_bench.protocol import Filter
from uss_bench.runtime import progress

_FORMAT = 1
_AUX = "aux:"
_FILTERS: tuple[Filter, ...] = ("nearest", "bilinear", "bicubic")


class PlaneStore:
    """Stores and serves images and extra channels.

    Args:
        root: folder of the feature store.
        budget: bytes that one of them may take on disk.
    """

    def __init__(
        self, root: Path, device: torch.device, budget: int, log: Callable[[str], None] = progress.log
    ) -> None:
        self._root = root
        self._device = device
        self._budget = budget
        self._log = log

    def open(self, items: TransformedImages, name: str, *, build: bool = True) -> PlaneReader:
        """Return ``image`` or ``aux:NAME`` of square items, storing what is not there yet.

        Args:
            build: whether what is not there is stored; without, it is read from the dataset.

        Raises:
            UsageError: for a filter in the name that does not exist.
            DataError: when an image or map cannot be read, or the disk is full.
        """
        if not len(items):
            raise DataError("There are no images to read.")
        first = plane(items, 0, name)
        folder = name.partition("@")[0].replace(":", "-")
        layout = Shards(self._root / self.key(items, name), {folder: first.shape}, first.dtype, len(items))
        if not build:
            return PlaneReader(items, name, layout, folder, layout.sound_shards(), self._device)

        def produce(todo: Mapping[int, list[str]]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
            indices = (index for shard in todo for index in layout.items_of(shard))
            with contextlib.closing(read_ahead(lambda i: plane(items, i, name), indices, depth=16)) as ahead:
                for shard in todo:
                    planes = list(itertools.islice(ahead, len(layout.items_of(shard))))
                    yield shard, {folder: _stacked(planes, items, name)}

        about = {"what": name, **items.identity()}
        what = f"{name} at training size"
        builder = Builder(layout, about, what, self._budget, self._log, lambda: self.key(items, name))
        stored = builder.complete(produce)
        return PlaneReader(items, name, layout, folder, stored, self._device)

    def key(self, items: TransformedImages, name: str) -> str:
        """Return the digest that names the folder of these items' plane."""
        identity = {"format": _FORMAT, "plane": name, **items.identity()}
        if name.startswith(_AUX):
            identity["maps"] = channel_fingerprint(items.images, aux_channel(name)[0])
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


class PlaneReader(ImageReader):
    """Images or an extra channel by item, uint8 or float32 (n, side, side)."""

    def __init__(
        self,
        items: TransformedImages,
        name: str,
        layout: Shards,
        folder: str,
        shards: set[int],
        device: torch.device,
    ) -> None:
        self.side = items.side
        self._items = items
        self._folder = folder
        self._shape = layout.shapes[folder]
        self._dtype = torch.uint8 if layout.dtype == np.uint8 else torch.float32
        self._rows = StoredRows(layout, shards)
        self._device = device
        self.stored = len(shards) == layout.count
        self._ahead = Prefetcher(
            lambda index: torch.from_numpy(plane(items, index, name)),
            capacity=max(1, AHEAD_BYTES * len(items) // layout.bytes_needed()),
        )

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.batch([index])[0].cpu()

    def batch(self, indices: Sequence[int] | Tensor) -> Tensor:
        wanted = [int(index) for index in indices]
        if all(map(self._rows.has, wanted)):
            return self._rows.gather(self._folder, wanted, self._device, self._dtype)
        batch = torch.empty((len(wanted), *self._shape), dtype=self._dtype)
        fresh = [place for place, index in enumerate(wanted) if not self._rows.has(index)]
        for place, value in zip(fresh, self._ahead.take([wanted[place] for place in fresh]), strict=True):
            batch[place] = value
        if kept := [place for place, index in enumerate(wanted) if self._rows.has(index)]:
            on_disk = [wanted[place] for place in kept]
            batch[kept] = self._rows.gather(self._folder, on_disk, torch.device("cpu"), self._dtype)
        return batch.to(self._device)

    def batches(self, sampler: Sampler) -> Iterator[tuple[Sequence[int], Tensor]]:
        if self.stored:
            return ((indices, self.batch(indices)) for indices in iter(sampler.__next__, None))
        return read_batches(sampler, self.batch, self.expect)

    def expect(self, indices: Sequence[int]) -> None:
        """Begin to read what of these items is not stored."""
        self._ahead.expect([index for index in indices if not self._rows.has(index)])

    def source(self, index: int) -> tuple[int, int]:
        return self._items.source(index)


def plane(items: TransformedImages, row: int, name: str) -> np.ndarray:
    """Return ``image`` or ``aux:NAME`` of an item: uint8 or float32 (n, H, W).

    Raises:
        UsageError: for a filter in the name that does not exist.
        DataError: when the images have no such channel.
    """
    if not name.startswith(_AUX):
        return channels_first(items[row])
    channel, filter = aux_channel(name)
    image_index, _ = items.source(row)
    return channels_first(items.transform(extra_channel(items.images, image_index, channel), row, filter))


def aux_channel(name: str) -> tuple[str, Filter | None]:
    """Split ``aux:NAME`` or ``aux:NAME@FILTER`` into the channel and the filter, None for the items' own.

    Raises:
        UsageError: for another filter than nearest, bilinear or bicubic.
    """
    channel, at, wanted = name.removeprefix(_AUX).partition("@")
    if not at:
        return channel, None
    for filter in _FILTERS:
        if filter == wanted:
            return channel, filter
    raise UsageError(f"Input '{name}' asks for a filter '{wanted}'.", hint=f"Known: {', '.join(_FILTERS)}.")


def channels_first(array: np.ndarray) -> np.ndarray:
    """Turn (H, W) or (H, W, n) into (n, H, W), contiguous and writable, as torch wants it."""
    planes = array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)
    return np.require(planes, requirements=["C", "W"])


def _stacked(planes: Sequence[np.ndarray], items: TransformedImages, name: str) -> np.ndarray:
    shapes = {one.shape for one in planes}
    if len(shapes) > 1:
        counts = sorted({shape[0] for shape in shapes})
        raise DataError(
            f"Maps of '{name}' have {counts[0]} values per pixel for some images, {counts[-1]} for others."
        )
    return np.stack(planes)
