"""A method that reads an auxiliary channel and nothing else: gray levels by one-dimensional k-means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from uss_bench.contracts import Batch, Context, Images


@dataclass(kw_only=True)
class InfraredLevels:
    clusters: int
    rounds: int = 10

    levels: Tensor = field(init=False, repr=False)

    def train(self, data: Images, ctx: Context) -> None:
        channels = [data.aux(index)["infrared"] for index in range(len(data))]
        values = torch.cat([torch.as_tensor(channel).flatten().float() for channel in channels])
        self.levels = values.quantile((torch.arange(self.clusters) + 0.5) / self.clusters)
        for _ in range(self.rounds):
            nearest = (values[:, None] - self.levels).abs().argmin(dim=1)
            for k in nearest.unique().tolist():
                self.levels[k] = values[nearest == k].mean()
        self.levels = self.levels.to(ctx.device)

    def embed(self, batch: Batch) -> Tensor:
        return batch["aux:infrared"]

    def classify(self, code: Tensor) -> Tensor:
        return -(code - self.levels[:, None, None]).abs()

    def state_dict(self) -> dict[str, Tensor]:
        return {"levels": self.levels}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.levels = state["levels"]
