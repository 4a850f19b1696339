"""Control: cosine k-means on frozen features whose positional component is regressed out.

Features of a ViT say where a patch is, and k-means may cluster places in place of classes. What a polynomial
of the position explains of each channel, by least squares over all training patches, is subtracted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from uss_bench.contracts import Batch, Context, Images
from uss_bench.nn.clustering import fit_centroids, patches_of
from uss_bench.nn.prototypes import cosine_logits

from .position import position_terms, positional_component


@dataclass(kw_only=True)
class DebiasedKMeans:
    """K-means whose code is the feature less what its position explains; its mean stays."""

    clusters: int
    """K, the number of centroids."""
    degree: int = 6
    """Of the polynomial of a patch's row and column; with 0 the code is the feature, as in `dino`."""
    steps: int = 300
    """Mini-batch steps of k-means."""
    batch_size: int = 32
    """Items per step; all their patches take part."""
    init_patches: int = 8192
    """Patches, drawn over random items, that k-means++ chooses the first centroids from."""
    checkpoint_every: int = 100
    """Steps between offered checkpoints."""

    centroids: Tensor = field(init=False, repr=False)
    coefficients: Tensor = field(init=False, repr=False)
    """(terms, D); see `position_terms`."""

    def train(self, data: Images, ctx: Context) -> None:
        features = ctx.features(["tokens"])
        found = ctx.derived("positional component", positional_component, params={"degree": self.degree})
        self.coefficients = torch.tensor(found["coefficients"], device=ctx.device)
        self.centroids = torch.zeros(self.clusters, self.coefficients.shape[1], device=ctx.device)
        fit_centroids(
            self.centroids,
            lambda items: patches_of(self.embed(features.batch(items))),
            len(features),
            ctx,
            steps=self.steps,
            batch_size=self.batch_size,
            init_points=self.init_patches,
            checkpoint_every=self.checkpoint_every,
        )

    def embed(self, batch: Batch) -> Tensor:
        tokens = batch["tokens"]
        terms = position_terms(tokens.shape[2:], self.degree).to(tokens)
        return tokens - torch.einsum("thw,td->dhw", terms, self.coefficients)

    def classify(self, code: Tensor) -> Tensor:
        return cosine_logits(code, self.centroids)

    def state_dict(self) -> dict[str, Tensor]:
        return {"centroids": self.centroids, "coefficients": self.coefficients}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.centroids, self.coefficients = state["centroids"], state["coefficients"]
