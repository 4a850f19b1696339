"""A method that breaks the contract in a chosen way, to see that the harness says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from uss_bench.contracts import Batch, Context, Images


@dataclass(kw_only=True)
class Broken:
    fault: str
    clusters: int = 2
    offer: bool = False
    """Whether a checkpoint is offered, so that candidates are scored before the last state is."""

    def train(self, data: Images, ctx: Context) -> None:
        ctx.report(1, loss=float("nan") if self.fault == "loss is NaN" else 0.5)
        if self.fault == "train raises":
            raise RuntimeError("the dog ate the gradients")
        if self.offer:
            ctx.checkpoint(1)

    def embed(self, batch: Batch) -> Tensor:
        code = batch["image"].mean(dim=1, keepdim=True)
        if self.fault == "embed raises":
            raise KeyError("tokens")
        if self.fault == "code is no tensor":
            return code.numpy()
        if self.fault == "code has integers":
            return (255 * code).long()
        if self.fault == "code lacks images":
            return code[:1]
        if self.fault == "code is flat":
            return code.flatten(1)
        return code

    def classify(self, code: Tensor) -> Tensor:
        logits = torch.cat([code * k for k in range(self.clusters)], dim=1)
        if self.fault == "classify raises":
            raise IndexError("cluster 9")
        if self.fault == "logits are NaN":
            return logits.sqrt().neg().log()
        if self.fault == "logits are no tensor":
            return logits.numpy()
        if self.fault == "logits have integers":
            return logits.round().long()
        if self.fault == "logits have another size":
            return logits[..., 1:]
        if self.fault == "K changes with the image":
            return logits[:, : 1 + int(255 * code[0].mean()) % 2]
        return logits

    def state_dict(self) -> dict[str, Tensor]:
        if self.fault == "state is no tensor":
            return {"clusters": self.clusters}  # type: ignore[dict-item]
        return {"clusters": torch.tensor(self.clusters)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """There is nothing to restore."""
