"""Control: cosine k-means on frozen features whose positional component is regressed out.

Features of a ViT say where a patch is, and k-means may cluster places in place of classes. What a polynomial
of the position explains of each channel, by least squares over all training patches, is subtracted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from uss_bench.contracts import Batch, Context, Features
from uss_bench.nn.clustering import FeatureKMeans

from .position import position_terms, positional_component


@dataclass(kw_only=True)
class DebiasedKMeans(FeatureKMeans):
    """K-means whose code is the feature less what its position explains; its mean stays."""

    degree: int = 6
    """Of the polynomial of a patch's row and column; with 0 the code is the feature, as in `dino`."""

    coefficients: Tensor = field(init=False, repr=False)
    """(terms, D); see `position_terms`."""
    state_of_code: ClassVar = ("coefficients",)

    def fit_code(self, features: Features, ctx: Context) -> None:
        found = ctx.derived("positional component", positional_component, params={"degree": self.degree})
        self.coefficients = torch.tensor(found["coefficients"], device=ctx.device)

    def embed(self, batch: Batch) -> Tensor:
        tokens = batch["tokens"]
        terms = position_terms(tokens.shape[2:], self.degree).to(tokens)
        return tokens - torch.einsum("thw,td->dhw", terms, self.coefficients)
