"""The floor that says the same everywhere: all pixels in cluster 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from uss_bench.contracts import Batch, Context, Images


@dataclass(kw_only=True)
class Constant:
    """Logit 1 for cluster 0 and 0 for the others."""

    clusters: int

    def train(self, data: Images, ctx: Context) -> None:
        """There is nothing to learn."""

    def embed(self, batch: Batch) -> Tensor:
        image = batch["image"]
        code = image.new_zeros((len(image), self.clusters, *image.shape[2:]))
        code[:, 0] = 1.0
        return code

    def classify(self, code: Tensor) -> Tensor:
        return code

    def state_dict(self) -> dict[str, Tensor]:
        return {"clusters": torch.tensor(self.clusters)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """There is nothing to restore."""
