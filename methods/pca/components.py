"""Principal components of all patches of a split."""

from __future__ import annotations

import numpy as np
import torch

from uss_bench.contracts import Features


def principal_components(features: Features, *, chunk: int = 32) -> dict[str, np.ndarray]:
    """Return ``mean`` (D,), ``directions`` (D, D) by falling variance, and ``deviations`` (D,), float32.

    One pass, in float64. The sign of a direction is arbitrary; here its largest entry is positive.
    """
    count, total, products = 0, torch.zeros(()), torch.zeros(())
    shift = None
    for items in torch.arange(len(features)).split(chunk):
        patches = features.batch(items)["tokens"].movedim(1, -1).flatten(0, -2).double()
        shift = patches.mean(dim=0) if shift is None else shift  # a large common mean would cost digits
        patches -= shift
        count += len(patches)
        total = total.to(patches) + patches.sum(dim=0)
        products = products.to(patches) + patches.T @ patches
    assert shift is not None, "there is an item"
    mean = total / count
    variances, vectors = torch.linalg.eigh(products / count - torch.outer(mean, mean))
    directions = vectors.T.flip(0)
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    found = {
        "mean": mean + shift,
        "directions": directions * largest.sign(),
        "deviations": variances.flip(0).clamp_min(0).sqrt(),
    }
    return {name: value.float().cpu().numpy() for name, value in found.items()}
