"""Over-clustering as Leopart and NeCo measure it: Euclidean k-means on the scored images' components.

Read from ``experiments/overcluster/eval_overcluster.py`` and ``experiments/utils.py`` of vpariza/NeCo, which
has them from Leopart: tokens of the *test* images, standardized per channel, to 50 principal components
(not whitened), k-means of faiss with 100 iterations and the best of 5 starts, on at most 256 points per
cluster. Only faiss' random numbers are others here, and components come of all tokens, where faiss takes
1,000 per channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from uss_bench.contracts import Batch
from uss_bench.errors import DataError
from uss_bench.nn.clustering import patches_of
from uss_bench.nn.lloyd import inertia, lloyd
from uss_bench.nn.some_items import ReadsBatches

COMPONENTS = 50
ITERATIONS = 100
STARTS = 5
POINTS_PER_CLUSTER = 256
_ITEMS = 16
"""Items that are read at once."""


class NecoClustering:
    """Predicts the nearest of K centroids among the principal components of standardized tokens.

    Args:
        mean, deviation: (D,), of the tokens.
        directions: (d, D), by falling variance of the standardized tokens.
        centroids: (K, d).
    """

    def __init__(self, mean: Tensor, deviation: Tensor, directions: Tensor, centroids: Tensor) -> None:
        self._mean, self._deviation = mean[:, None, None], deviation[:, None, None]
        self._directions, self._centroids = directions, centroids

    def embed(self, batch: Batch) -> Tensor:
        standardized = (batch["tokens"] - self._mean) / self._deviation
        return torch.einsum("bdhw,kd->bkhw", standardized, self._directions)

    def classify(self, code: Tensor) -> Tensor:
        """Return minus the squared distances, less the square of the code, which is the same for all."""
        products = torch.einsum("bdhw,kd->bkhw", code, self._centroids)
        return 2 * products - self._centroids.square().sum(dim=1)[:, None, None]


def neco_clusterings(
    features: ReadsBatches,
    clusters: Iterable[int],
    generator: torch.Generator,
    *,
    iterations: int = ITERATIONS,
    starts: int = STARTS,
) -> dict[int, NecoClustering]:
    """Cluster the tokens of all items into each number of clusters.

    Memory does not grow with the items, but for 8 bytes a token: moments are summed over a pass, and a second
    one keeps the points that k-means is fitted on, at most 256 · K.

    Raises:
        DataError: when there are fewer tokens than clusters.
    """
    wanted = sorted(set(clusters))
    mean, deviation, directions, total = _components(features)
    if total < wanted[-1]:
        raise DataError(
            f"{total} patches cannot be {wanted[-1]} clusters.", hint="Ask for fewer, or give more images."
        )
    find = NecoClustering(mean, deviation, directions, directions[:1])
    sample = _sample(features, find, min(total, POINTS_PER_CLUSTER * wanted[-1]), total, generator)
    found: dict[int, NecoClustering] = {}
    for number in wanted:
        points = sample[: POINTS_PER_CLUSTER * number]
        tried = [lloyd(points, number, iterations, generator) for _ in range(starts)]
        best = min(tried, key=lambda centroids: inertia(points, centroids))
        found[number] = NecoClustering(mean, deviation, directions, best)
    return found


def _components(features: ReadsBatches) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return mean and deviation (D,), the first directions (d, D), and the number of tokens."""
    total, sums, products = 0, torch.zeros(()), torch.zeros(())
    shift: Tensor | None = None
    for batch in _batches(features):
        patches = patches_of(batch["tokens"]).double()
        shift = patches.mean(dim=0) if shift is None else shift  # a large common mean would cost digits
        patches = patches - shift
        total += len(patches)
        sums = sums.to(patches) + patches.sum(dim=0)
        products = products.to(patches) + patches.T @ patches
    assert shift is not None, "there is an item"
    mean = sums / total
    covariance = products / total - torch.outer(mean, mean)
    deviation = covariance.diagonal().clamp_min(0).sqrt()
    deviation = torch.where(deviation > 1e-12, deviation, 1.0)  # a constant channel is only centered
    _, vectors = torch.linalg.eigh(covariance / torch.outer(deviation, deviation))
    directions = vectors.T.flip(0)[:COMPONENTS]
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    return (
        (mean + shift).float(),
        deviation.float(),
        (directions * largest.sign()).float().contiguous(),
        total,
    )


def _sample(
    features: ReadsBatches, find: NecoClustering, number: int, total: int, generator: torch.Generator
) -> Tensor:
    """Return the components (number, d) of some tokens, in a random order: a part of it is a sample too."""
    chosen = torch.randperm(total, generator=generator)[:number]
    ascending, order = chosen.sort()
    sample: Tensor | None = None
    seen = filled = 0
    for batch in _batches(features):
        points = patches_of(find.embed(batch))
        sample = points.new_empty(number, points.shape[1]) if sample is None else sample
        until = int(torch.searchsorted(ascending, seen + len(points)))
        mine = slice(filled, until)
        sample[order[mine].to(points.device)] = points[(ascending[mine] - seen).to(points.device)]
        seen, filled = seen + len(points), until
    assert sample is not None, "there is an item"
    return sample


def _batches(features: ReadsBatches) -> Iterable[Mapping[str, Tensor]]:
    for rows in torch.arange(len(features)).split(_ITEMS):
        yield features.batch(rows)
