"""What can be said of a trained state without a label: the criteria that ``uss-bench tune`` chooses by.

They are read when all else is done, on a fixed sample of the evaluated images, never of their labels. The
fourth criterion, the agreement of seeds, takes several records (`uss_bench.statistics.criteria`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from uss_bench.results.record import Criteria
from uss_bench.training.monitoring import balance, rounded

if TYPE_CHECKING:
    from torch import Tensor

    from uss_bench.contracts import Batch, Method

SAMPLE_IMAGES = 64
PATCHES_PER_IMAGE = 64
"""Of the silhouette, evenly spaced over the image's patches."""


def sample_images(images: int) -> list[int]:
    """Return at most 64 of so many images, evenly spaced."""
    taken = min(images, SAMPLE_IMAGES)
    return [index * images // taken for index in range(taken)]


@torch.no_grad()
def read_criteria(
    method: Method, batches: Iterable[tuple[Batch, Batch | None]], facets: Sequence[str]
) -> Criteria:
    """Return the criteria of a trained method.

    Args:
        batches: what `Method.embed` receives for the sampled images, and for their mirror images or None.
        facets: the inputs that come from the backbone; the silhouette is in the space of the first that is a
            map of vectors, (B, D, h, w).
    """
    sizes: Tensor | None = None
    same = compared = 0
    points: list[Tensor] = []
    owners: list[Tensor] = []
    for batch, mirrored in batches:
        logits = method.classify(method.embed(batch))
        clusters = logits.argmax(dim=1)
        found = torch.bincount(clusters.flatten().cpu(), minlength=logits.shape[1])
        sizes = found if sizes is None else sizes + found
        if mirrored is not None:
            other = method.classify(method.embed(mirrored)).argmax(dim=1).flip(2)
            same += int((clusters == other).sum())
            compared += clusters.numel()
        space = next((batch[name] for name in facets if batch[name].ndim == 4), None)
        if space is not None:
            vectors, labels = _spread(space, clusters)
            points.append(vectors)
            owners.append(labels)
    assert sizes is not None, "a split is never empty"
    return Criteria(
        balance=rounded(balance((sizes / sizes.sum()).double().numpy())),
        views=rounded(same / compared) if compared else None,
        silhouette=rounded(silhouette(torch.cat(points), torch.cat(owners))) if points else None,
    )


def silhouette(points: Tensor, owners: Tensor) -> float:
    """Return the mean simplified silhouette by cosine distance, −1 to 1; 0 where one cluster has all.

    For each point, (b − a) / max(a, b) with a its distance to the mean direction of its own cluster and b
    that to the nearest other one (Vendramin, Campello, Hruschka, "Relative clustering validity criteria",
    Statistical Analysis and Data Mining 3, 2010).

    Args:
        points: (P, D), of any length but 0.
        owners: the cluster of each, integers (P,).
    """
    _, owners = torch.unique(owners, return_inverse=True)
    clusters = int(owners.max()) + 1
    if clusters == 1:
        return 0.0
    unit = F.normalize(points.double(), dim=1)
    means = torch.zeros(clusters, unit.shape[1], dtype=unit.dtype, device=unit.device)
    distances = 1 - unit @ F.normalize(means.index_add_(0, owners, unit), dim=1).T
    own = distances.gather(1, owners[:, None])[:, 0]
    nearest = distances.scatter(1, owners[:, None], float("inf")).min(dim=1).values
    larger = torch.maximum(own, nearest)
    return float(torch.where(larger > 0, (nearest - own) / larger, torch.zeros_like(larger)).mean())


def _spread(features: Tensor, clusters: Tensor) -> tuple[Tensor, Tensor]:
    """Return evenly spaced patches of every image, (P, D), and their clusters (P,)."""
    height, width = features.shape[2:]
    at_patches = F.interpolate(clusters[:, None].float(), (height, width), mode="nearest")[:, 0].long()
    step = max(1, height * width // PATCHES_PER_IMAGE)
    taken = slice(step // 2, None, step)
    vectors = features.flatten(2)[:, :, taken].transpose(1, 2).flatten(0, 1)
    return vectors, at_patches.flatten(1)[:, taken].flatten()
