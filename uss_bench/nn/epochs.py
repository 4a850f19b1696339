"""The passes of an epoch of deep clustering: k-means over a data set, and its labels of every position.

PiCIE and MDC cluster the codes of all items, label every position, and train on these labels
(`uss_bench.nn.label_training`): with a network of their own (`own_network`) or with a projector on frozen
features (`projected`). Each pass is a loop of `Context.steps`, so that a run goes on wherever it was killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.contracts import Context, Kept, Sampler
from uss_bench.nn.lloyd import lloyd, move, nearest, sums_and_counts

Code = Callable[[Sequence[int], Any], Tensor]
"""Codes (B, d, h, w) of the view of some items, given what a `Reader` has of them."""


class Reader(Protocol):
    """What `Context.images` and `Context.features` have in common."""

    def __len__(self) -> int: ...

    def batches(self, sampler: Sampler) -> Iterator[tuple[Sequence[int], Any]]: ...


@dataclass(frozen=True)
class EpochViews:
    """Items, and the codes of their views, which are the same in all passes of an epoch."""

    items: Reader
    grid: tuple[int, int]
    """(h, w) of a code."""
    code: Callable[..., Tensor]
    """``code(view, epoch, items, values)``: the code of view 0 or 1 of some items, (B, d, h, w)."""


class EpochBatches(Iterator[Sequence[int]]):
    """Batches of a shuffled epoch: every item once, the last batch as short as it is."""

    def __init__(self, items: int, size: int, generator: torch.Generator) -> None:
        order = torch.randperm(items, generator=generator).tolist()
        self._batches = [order[start : start + size] for start in range(0, items, size)]
        self._next = 0

    def __len__(self) -> int:
        return len(self._batches)

    def __next__(self) -> Sequence[int]:
        batch = self._batches[self._next % len(self)]  # reading ahead goes past the end
        self._next += 1
        return batch

    def state_dict(self) -> dict[str, Tensor]:
        return {"next": torch.tensor(self._next)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._next = int(state["next"])


def unit_points(code: Tensor) -> Tensor:
    """Return the positions (B·h·w, d) of codes (B, d, h, w) as unit vectors."""
    return F.normalize(code, dim=1).permute(0, 2, 3, 1).flatten(0, 2)


def linear_logits(code: Tensor, weights: Tensor) -> Tensor:
    """Return the products of unit codes (B, d, h, w) with weights (K, d) as they are: (B, K, h, w)."""
    return torch.einsum("bdhw,kd->bkhw", F.normalize(code, dim=1), weights)


@dataclass(kw_only=True)
class DeepClustering:
    """What PiCIE, MDC and their ports share: k-means, labels, and prediction."""

    clusters: int
    dim: int = 128
    """Channels of the code."""
    epochs: int = 10
    batch_size: int = 128
    cluster_batch_size: int = 256
    """Items of a batch of k-means and of labelling."""
    init_batches: int = 20
    """Batches from which Lloyd's algorithm makes the first centroids."""
    init_points: int = 200_000
    """Positions that are drawn from these batches; the released code takes all, which are 16.8 GB."""
    kmeans_iterations: int = 20
    """Of Lloyd's algorithm."""
    class_weights: Literal["frequency", "none"] = "frequency"
    """Weights of clusters in the cross-entropy: their share of all positions, as in the code, or none."""
    lr: float = 1e-4

    net: nn.Module = field(init=False, repr=False)
    """Makes codes; of training and evaluation mode."""
    centroids: Tensor = field(init=False, repr=False)

    @property
    def trains_in_kmeans(self) -> bool:
        """Whether the network is in training mode while k-means reads its codes."""
        return False

    def cluster(
        self, centroids: Tensor, code: Code, images: Reader, ctx: Context, *key: int, grid: tuple[int, int]
    ) -> None:
        """Fill the centroids (K, d), in place, by mini-batch k-means over all positions of all items.

        Args:
            key: of the random numbers: an epoch and a view.
            grid: (h, w) of a code.
        """
        net, size, positions = self.net, self.cluster_batch_size, grid[0] * grid[1]
        net.train(self.trains_in_kmeans)
        batches = EpochBatches(len(images), size, ctx.generator("cluster order", *key))
        reader = images.batches(batches)
        first = min(self.init_batches, len(batches))
        items = min(first * size, len(images))
        rows = min(self.init_points, items * positions)
        sample = torch.zeros(rows, self.dim, device=ctx.device)
        filled = torch.zeros((), dtype=torch.int64)
        kept: dict[str, Kept] = {"net": net, "batches": batches}
        for step in ctx.steps(first, label="first centroids", sample=sample, filled=filled, **kept):
            seen, x = next(reader)
            points = self._points(code, seen, x)
            share = rows * min(step * size, items) // items - int(filled)
            chosen = torch.randperm(len(points), generator=ctx.generator("sample", *key, step))[:share]
            sample[int(filled) : int(filled) + share] = points[chosen.to(points.device)]
            filled += share
        clusters = len(centroids)
        found = lloyd(sample, clusters, self.kmeans_iterations, ctx.generator("first points", *key))
        centroids.copy_(found)
        counts = sums_and_counts(sample, nearest(sample, centroids), clusters)[1] * (items * positions / rows)
        del sample
        for _ in ctx.steps(len(batches) - first, label="k-means", centroids=centroids, counts=counts, **kept):
            move(centroids, counts, self._points(code, *next(reader)))

    @torch.no_grad()
    def _points(self, code: Code, items: Sequence[int], values: Any) -> Tensor:
        return unit_points(code(items, values))

    def label(
        self,
        labels: np.ndarray,
        centroids: Tensor,
        code: Code,
        images: Reader,
        ctx: Context,
        *key: int,
    ) -> Tensor:
        """Write the nearest centroid of every position into labels (N, h, w), and return the weights (K,)."""
        net = self.net.eval()
        counts = torch.zeros(len(centroids), dtype=torch.int64, device=ctx.device)
        batches = EpochBatches(len(images), self.cluster_batch_size, ctx.generator("label order", *key))
        reader = images.batches(batches)
        kept: dict[str, Kept] = {"net": net, "batches": batches, "counts": counts}
        for _ in ctx.steps(len(batches), label="labels", **kept):
            items, x = next(reader)
            own = nearest(self._points(code, items, x), centroids)
            counts += torch.bincount(own, minlength=len(centroids))
            labels[items] = own.cpu().numpy().reshape(len(items), *labels.shape[1:])
        return self.weights(counts)

    def weights(self, counts: Tensor) -> Tensor:
        """Return the weights (K,) of clusters with so many positions; they sum to 1."""
        even = torch.full_like(counts, 1 / len(counts), dtype=torch.float32)
        return even if self.class_weights == "none" else (counts.double() / counts.sum()).float()

    def finish(self, items: Reader, code: Code, grid: tuple[int, int], ctx: Context) -> None:
        """Cluster the items as they are, without views: the clusters that predict."""
        self.cluster(self.centroids, code, items, ctx, 0, 0, grid=grid)
        self.net.eval()

    def classify(self, code: Tensor) -> Tensor:
        return linear_logits(code, self.centroids)

    def state_dict(self) -> dict[str, Tensor]:
        return {"centroids": self.centroids, **{f"net.{k}": v for k, v in self.net.state_dict().items()}}

    def take_up(self, net: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Restore a fresh network and the centroids from `state_dict`."""
        self.centroids, self.net = state["centroids"], net
        net.load_state_dict({k.removeprefix("net."): v for k, v in state.items() if k != "centroids"})
        net.to(self.centroids.device).eval()


def stored_labels(ctx: Context, name: str, shape: tuple[int, int, int], clusters: int) -> np.ndarray:
    """Return labels (N, h, w) in a file of the run: it outlives a kill, and has a byte for each position."""
    path = ctx.scratch / f"{name}.npy"
    kind = np.uint8 if clusters <= 256 else np.uint16
    if path.exists():
        return np.lib.format.open_memmap(path, mode="r+")
    return np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)


def labels_of(labels: np.ndarray, items: Sequence[int], device: torch.device) -> Tensor:
    """Return the labels of some items, int64 (B, h, w)."""
    return torch.from_numpy(labels[list(items)].astype(np.int64)).to(device)
