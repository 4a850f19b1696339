"""Control: every image by itself cut into segments, and the segments clustered over the data set.

Recursive normalized cut on the patches' features (`cut`), then cosine k-means on the segments' means. The
zero-shot family cuts images in this way and matches every image by itself; here one matching holds for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from uss_bench.contracts import Batch, Context, Images
from uss_bench.nn.clustering import fit_centroids
from uss_bench.nn.prototypes import cosine_logits

from .cut import segment_map, segment_means, segments


@dataclass(kw_only=True)
class NormalizedCut:
    """K-means whose points are segments; a patch's code is the mean feature of its segment."""

    clusters: int
    """K, the number of centroids."""
    exponent: float = 10.0
    """Of the affinity: cosines scaled to [0, 1] for each image, to this power."""
    threshold: float = 0.5
    """A segment is cut again while its best cut has a smaller value."""
    steps: int = 300
    """Mini-batch steps of k-means."""
    batch_size: int = 32
    """Items per step; all their segments take part, each as one point."""
    init_segments: int = 8192
    """Segments, drawn over random items, that k-means++ chooses the first centroids from."""
    checkpoint_every: int = 100
    """Steps between offered checkpoints."""

    centroids: Tensor = field(init=False, repr=False)

    def train(self, data: Images, ctx: Context) -> None:
        cuts = ctx.derived_items("normalized cuts", segments, params=self.cutting)

        def means(items: Sequence[int]) -> Tensor:
            return torch.cat([torch.tensor(cuts[index]["means"], device=ctx.device) for index in items])

        self.centroids = torch.zeros(self.clusters, means([0]).shape[1], device=ctx.device)
        fit_centroids(
            self.centroids,
            means,
            len(cuts),
            ctx,
            steps=self.steps,
            batch_size=self.batch_size,
            init_points=self.init_segments,
            checkpoint_every=self.checkpoint_every,
        )

    @property
    def cutting(self) -> dict[str, float]:
        return {"exponent": self.exponent, "threshold": self.threshold}

    def embed(self, batch: Batch) -> Tensor:
        codes = []
        for tokens in batch["tokens"]:
            found = segment_map(tokens.cpu(), **self.cutting)  # the search is one of the CPU
            means = segment_means(tokens, found)
            codes.append(means[found.long().to(tokens.device)].movedim(-1, 0))
        return torch.stack(codes)

    def classify(self, code: Tensor) -> Tensor:
        return cosine_logits(code, self.centroids)

    def state_dict(self) -> dict[str, Tensor]:
        return {"centroids": self.centroids}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.centroids = state["centroids"]
