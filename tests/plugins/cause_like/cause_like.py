"""A method of three phases, whose first may be replaced by a file, as CAUSE's codebook is.

Each phase is a loop of its own, and reads what the one before has learned. A run that is killed in the third
phase finds the first two finished. The codebook's file enters the run's identity by its content.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.contracts import Backbone, Batch, Context, Images
from uss_bench.nn.batches import ShuffledBatches
from uss_bench.nn.prototypes import cosine_logits


@dataclass(kw_only=True)
class CauseLike:
    clusters: int
    codebook: Path | None = None
    """A .npy file with the codebook, float (codes, D); without one the first phase learns it."""
    codes: int = 6
    dim: int = 8
    steps: int = 3
    """Of each phase."""
    batch_size: int = 3
    lr: float = 1e-2

    net: nn.ModuleDict = field(init=False, repr=False)

    def bind(self, backbone: Backbone) -> None:
        self.net = nn.ModuleDict(
            {
                "codebook": nn.Embedding(self.codes, backbone.info.dim),
                "head": nn.Conv2d(backbone.info.dim, self.dim, 1),
                "probe": nn.Embedding(self.clusters, self.dim),
            }
        )

    def train(self, data: Images, ctx: Context) -> None:
        features = ctx.features(["tokens"])
        net = self.net.to(ctx.device)
        codebook, head, probe = net["codebook"], net["head"], net["probe"]
        batches = ShuffledBatches(len(features), self.batch_size, ctx.generator("batches"))

        if self.codebook is not None:
            codebook.weight.data.copy_(torch.from_numpy(np.load(self.codebook)))
        else:
            optimizer = torch.optim.Adam(codebook.parameters(), lr=self.lr)
            for step in ctx.steps(
                self.steps, label="codebook", codebook=codebook, optimizer=optimizer, batches=batches
            ):
                tokens = features.batch(next(batches))["tokens"]
                descend(optimizer, loss := -cosine_logits(tokens, codebook.weight).amax(dim=1).mean())
                ctx.report(step, codebook=loss)

        optimizer = torch.optim.Adam(head.parameters(), lr=self.lr)
        for step in ctx.steps(self.steps, label="head", head=head, optimizer=optimizer, batches=batches):
            tokens = features.batch(next(batches))["tokens"]
            same = cosine_logits(tokens, codebook.weight.detach()).argmax(dim=1).flatten(1)
            z = F.normalize(head(tokens), dim=1).flatten(2)
            log_share = torch.log_softmax(z.transpose(1, 2) @ z / 0.5, dim=2)
            alike = (same[:, :, None] == same[:, None]).float()
            descend(optimizer, loss := -((log_share * alike).sum(2) / alike.sum(2)).mean())
            ctx.report(step, head=loss)

        optimizer = torch.optim.Adam(probe.parameters(), lr=self.lr)
        for step in ctx.steps(self.steps, label="probe", probe=probe, optimizer=optimizer, batches=batches):
            with torch.no_grad():
                code = head(features.batch(next(batches))["tokens"])
            descend(optimizer, loss := -cosine_logits(code, probe.weight).amax(dim=1).mean())
            ctx.report(step, probe=loss)
            ctx.checkpoint(step)

    def embed(self, batch: Batch) -> Tensor:
        code: Tensor = self.net["head"](batch["tokens"])
        return code

    def classify(self, code: Tensor) -> Tensor:
        return cosine_logits(code, self.net["probe"].weight)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.net.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.net.load_state_dict(dict(state))
        self.net.to(state["head.weight"].device)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
