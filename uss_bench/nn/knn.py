"""Nearest training items by their mean features, as STEGO's table of neighbors has them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.contracts import Features
from uss_bench.nn.standardizer import Standardizer


def knn_table(
    features: Features, *, count: int, standardize: bool = False, dropout: float = 0.0, chunk: int = 32
) -> dict[str, np.ndarray]:
    """Return the `count` nearest items of each, by the cosine of mean features: int64 (N, count).

    An item is its own rank 0 even where another is identical. Where there are fewer items than
    `count`, the table is as wide as there are items.

    This is for `Context.derived`: every method that asks for the same table shares it.

    Args:
        standardize: center and scale features per channel by the training set's moments first.
        dropout: probability that a channel of an item is dropped before the mean is taken, as in STEGO's
            released table; every item has a draw of its own, and every table the same draws.
    """
    transform: nn.Module = nn.Identity()
    if standardize:
        moments = features.moments("tokens")
        transform = Standardizer(len(moments[0]))
        transform.fit(moments)

    def mean_of(row: Tensor) -> Tensor:
        tokens = features.batch(row)["tokens"]
        mean: Tensor = transform.to(tokens.device)(tokens).mean((2, 3))
        return mean

    rows = torch.arange(len(features)).split(chunk)
    means = torch.cat([mean_of(row) for row in rows])
    if dropout:  # of whole channels, so that it may as well come after the mean; its scale cancels
        draws = torch.rand(means.shape, generator=torch.Generator().manual_seed(0))
        means = means * (draws >= dropout).to(means)
    pooled = F.normalize(means, dim=1)
    table = []
    for row in rows:
        similarity = pooled[row.to(pooled.device)] @ pooled.T
        similarity[torch.arange(len(row)), row] = torch.inf
        table.append(similarity.topk(min(count, len(pooled)), dim=1).indices.cpu().numpy())
    return {"neighbors": np.concatenate(table)}


def positives(table: Tensor, items: Tensor, ranks: int, generator: torch.Generator) -> Tensor:
    """Draw one of the ranks 1 to `ranks` for each of some items; fewer where the table is narrower."""
    last = min(ranks, table.shape[1] - 1)
    rank = torch.randint(min(1, last), last + 1, (len(items),), generator=generator)
    return table[items, rank]
