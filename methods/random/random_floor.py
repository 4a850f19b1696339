"""The floor that looks at nothing: every pixel's cluster is drawn independently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from uss_bench.contracts import Batch, Context, Images


@dataclass(kw_only=True)
class Random:
    """Standard normal logits per pixel, from a generator seeded by the run and by the image."""

    clusters: int

    def __post_init__(self) -> None:
        self.seed = torch.zeros((), dtype=torch.int64)

    def train(self, data: Images, ctx: Context) -> None:
        self.seed = torch.tensor(ctx.generator("logits").initial_seed() % 2**31)

    def embed(self, batch: Batch) -> Tensor:
        return torch.stack([self._logits(image) for image in batch["image"]])

    def classify(self, code: Tensor) -> Tensor:
        return code

    def state_dict(self) -> dict[str, Tensor]:
        return {"seed": self.seed}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.seed = state["seed"]

    def _logits(self, image: Tensor) -> Tensor:
        # The sum of its bytes stands for the image, so that prediction does not depend on its place.
        content = int((image.double() * 255).sum().round())
        generator = torch.Generator().manual_seed(int(self.seed) + content)
        return torch.randn(self.clusters, *image.shape[1:], generator=generator).to(image.device)
