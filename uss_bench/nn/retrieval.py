"""In-context retrieval: a patch gets the labels of the labeled patches that are most like it.

Balažević et al., "Towards In-context Scene Understanding" (NeurIPS 2023), as the evaluation of
open-hummingbird has it: a bank of unit vectors and of the shares of classes within their patches, the 30
nearest by cosine, weighted by a softmax at temperature 0.02. It learns from labels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from uss_bench.contracts import Batch
from uss_bench.nn.clustering import patches_of
from uss_bench.nn.some_items import ReadsBatches

QUERIES = 1024
"""Patches whose neighbors are looked up at once."""
KEYS = 16384
"""Keys that they are compared with at once: 64 MB of similarities, however large the bank is."""


class MemoryBank:
    """Labeled patches, as a method whose code is the expected share of each class.

    Args:
        keys: (M, D), not necessarily normalized.
        values: (M, C), the shares of the classes within each patch.
        neighbors: how many keys a patch is compared with; all of a smaller bank.
        temperature: of the softmax over their cosines.
    """

    def __init__(
        self, keys: Tensor, values: Tensor, *, neighbors: int = 30, temperature: float = 0.02
    ) -> None:
        self.keys = F.normalize(keys, dim=1)
        self.values = values
        self.neighbors = min(neighbors, len(keys))
        self.temperature = temperature

    def embed(self, batch: Batch) -> Tensor:
        """Return shares of classes, float32 (B, C, h, w), of ``tokens`` (B, D, h, w)."""
        tokens = batch["tokens"]
        size, _, height, width = tokens.shape
        shares = [self._shares(queries) for queries in patches_of(tokens).split(QUERIES)]
        return torch.cat(shares).view(size, height, width, -1).permute(0, 3, 1, 2)

    def classify(self, code: Tensor) -> Tensor:
        return code

    def _shares(self, queries: Tensor) -> Tensor:
        cosine, nearest = nearest_keys(F.normalize(queries, dim=1), self.keys, self.neighbors)
        weights = torch.softmax(cosine / self.temperature, dim=1)
        found = torch.zeros(len(queries), self.values.shape[1], device=queries.device)
        for rank in range(self.neighbors):  # all ranks at once would take (Q, neighbors, C)
            found += weights[:, rank, None] * self.values[nearest[:, rank]]
        return found


def nearest_keys(queries: Tensor, keys: Tensor, count: int, chunk: int = KEYS) -> tuple[Tensor, Tensor]:
    """Return the largest products of queries (Q, D) with keys (M, D), and whose they are: (Q, count) each."""
    best = torch.full((len(queries), 0), 0.0, device=queries.device)
    indices = torch.zeros((len(queries), 0), dtype=torch.int64, device=queries.device)
    for start in range(0, len(keys), chunk):
        products = queries @ keys[start : start + chunk].T
        values, places = products.topk(min(count, products.shape[1]), dim=1)
        best, indices = torch.cat([best, values], dim=1), torch.cat([indices, places + start], dim=1)
        del products  # before the next ones are made
        best, order = best.topk(min(count, best.shape[1]), dim=1)
        indices = indices.gather(1, order)
    return best, indices


def memory_bank(
    features: ReadsBatches,
    label_of: Callable[[int], Tensor],
    n_classes: int,
    generator: torch.Generator,
    *,
    size: int = 102_400,
    neighbors: int = 30,
    temperature: float = 0.02,
) -> MemoryBank:
    """Fill a bank with equally many patches of every item, those of classes that are rare in it first.

    Args:
        label_of: returns the labels of an item's pixels, int64 (H, W), negative where there are none.
        size: patches that the bank holds at most; 102,400 is the smallest of the published sizes. With more
            items than that, so many of them give a patch each, evenly spaced.

    Raises:
        ValueError: when no pixel has a label.
    """
    items = min(len(features), size)
    rows = [index * len(features) // items for index in range(items)]
    each, filled = max(1, size // len(rows)), 0
    keys = values = torch.zeros(0, 0)
    for row in rows:
        tokens = features.batch([row])["tokens"]
        counts = patch_labels(label_of(row), tokens.shape[2:], n_classes)
        chosen = balanced_patches(counts, each, generator)
        if not filled:
            most = len(rows) * min(each, len(counts))
            keys = torch.empty(most, tokens.shape[1], device=tokens.device)
            values = torch.empty(most, n_classes, device=tokens.device)
        until = filled + len(chosen)
        keys[filled:until] = patches_of(tokens)[chosen.to(tokens.device)]
        values[filled:until] = (counts[chosen] / counts[chosen].sum(dim=1, keepdim=True)).to(tokens.device)
        filled = until
    if not filled:
        raise ValueError("no pixel has a label")
    return MemoryBank(keys[:filled], values[:filled], neighbors=neighbors, temperature=temperature)


def patch_labels(label: Tensor, grid: tuple[int, ...], n_classes: int) -> Tensor:
    """Count the labels of an item (H, W) by patch: float32 (h·w, C); negative labels are left out."""
    rows, columns = (
        torch.arange(side) * cells // side for side, cells in zip(label.shape, grid, strict=True)
    )
    patch = rows[:, None] * grid[1] + columns
    valid = label >= 0
    flat = patch[valid] * n_classes + label[valid]
    return torch.bincount(flat, minlength=grid[0] * grid[1] * n_classes).view(-1, n_classes).float()


def balanced_patches(counts: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Choose patches of one item that have labels, at most `number`, as open-hummingbird samples them.

    A patch's score is the number of patches that each of its classes is in, summed over its classes, times a
    uniform draw; the lowest are taken.

    Args:
        counts: labels by patch, (h·w, C).
    """
    present = (counts > 0).float()
    usable = present.any(dim=1).nonzero().squeeze(1)
    score = present[usable] @ present.sum(dim=0) * torch.rand(len(usable), generator=generator)
    return usable[score.argsort()[:number]]
