"""Tells calm regions from busy ones by quantiles of the local contrast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from uss_bench.contracts import Batch, Context, Images

from .statistics import local_deviation


@dataclass(kw_only=True)
class LocalContrast:
    clusters: int
    window: int = 9

    levels: Tensor = field(init=False, repr=False)

    def train(self, data: Images, ctx: Context) -> None:
        images = (torch.as_tensor(data.image(index)).permute(2, 0, 1) / 255 for index in range(len(data)))
        seen = torch.cat([local_deviation(image[None], self.window).flatten() for image in images])
        self.levels = seen.quantile((torch.arange(self.clusters) + 0.5) / self.clusters).to(ctx.device)

    def embed(self, batch: Batch) -> Tensor:
        return local_deviation(batch["image"], self.window)

    def classify(self, code: Tensor) -> Tensor:
        return -(code - self.levels[:, None, None]).abs()

    def state_dict(self) -> dict[str, Tensor]:
        return {"levels": self.levels}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.levels = state["levels"]
