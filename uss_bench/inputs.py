"""What a method reads for some items: images, extra channels and frozen features, under one geometry."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from uss_bench.contracts import Batch, Features, Images
from uss_bench.encoding import to_unit_range
from uss_bench.errors import DataError, UsageError
from uss_bench.geometry import Items

_AUX = "aux:"


class Inputs(Features):
    """Images (3, side, side) in [0, 1], extra channels (n, side, side) and facets, by item.

    Args:
        names: ``image``, ``aux:NAME`` or facets.
        features: features of the same items; None when no facet is among the names.
    """

    def __init__(
        self, names: Sequence[str], items: Items, features: Features | None, device: torch.device
    ) -> None:
        self.facets = list(names)
        self._items = items
        self._features = features
        self._device = device

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return {name: value[0].cpu() for name, value in self.batch([index]).items()}

    def batch(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        rows = [int(index) for index in indices]
        return dict(assemble(self.facets, self._items, self._features, rows, self._device))

    def moments(self, facet: str) -> tuple[Tensor, Tensor]:
        if self._features is None or facet not in self._features.facets:
            raise UsageError(f"Moments are kept of facets, and '{facet}' is none that was asked for.")
        return self._features.moments(facet)

    def source(self, index: int) -> tuple[int, int]:
        return self._items.source(index)


def assemble(
    names: Sequence[str], items: Items, features: Features | None, rows: Sequence[int], device: torch.device
) -> Batch:
    """Gather inputs of some items, stacked on `device`."""
    batch: dict[str, Tensor] = {}
    for name in names:
        if name == "image":
            batch[name] = to_unit_range(np.stack([items[row] for row in rows]), device)
        elif name.startswith(_AUX):
            planes = [_aux(items, row, name.removeprefix(_AUX)) for row in rows]
            batch[name] = torch.from_numpy(np.stack(planes)).to(device)
    if features is not None:
        batch.update(features.batch(rows))
    return batch


def _aux(items: Items, row: int, channel: str) -> np.ndarray:
    """Return an auxiliary channel under the item's geometry, float32 (n, side, side)."""
    image_index, _ = items.source(row)
    return channels_first(items.transform(extra_channel(items.images, image_index, channel), row))


def extra_channel(images: Images, index: int, channel: str) -> np.ndarray:
    """Return an auxiliary channel of an image at its native size, float32 (H, W) or (H, W, n).

    Raises:
        DataError: when the images have no such channel.
    """
    aux = images.aux(index)
    if channel not in aux:
        known = ", ".join(sorted(aux)) or "none"
        raise DataError(f"The images have no extra channel '{channel}' (they have: {known}).")
    return aux[channel].astype(np.float32)


def channels_first(array: np.ndarray) -> np.ndarray:
    """Turn (H, W) or (H, W, n) into contiguous (n, H, W)."""
    return np.ascontiguousarray(array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0))
