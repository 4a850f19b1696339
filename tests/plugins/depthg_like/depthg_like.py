"""A method that reads a depth map beside the features while it trains, as DepthG does.

Depth comes from ``--aux depth=DIR``, follows the crops of the images and is resized by nearest neighbor.
Pairs of patches of similar depth are pulled together; prediction reads the features alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.contracts import Backbone, Batch, Context, Images
from uss_bench.nn.batches import ShuffledBatches
from uss_bench.nn.knn import knn_table
from uss_bench.nn.prototypes import cosine_logits

DEPTH = "aux:depth@nearest"


@dataclass(kw_only=True)
class DepthgLike:
    clusters: int
    dim: int = 8
    steps: int = 6
    batch_size: int = 3
    neighbors: int = 3
    lr: float = 1e-2

    net: nn.ModuleDict = field(init=False, repr=False)

    def bind(self, backbone: Backbone) -> None:
        head = nn.Conv2d(backbone.info.dim, self.dim, 1)
        self.net = nn.ModuleDict({"head": head, "prototypes": nn.Embedding(self.clusters, self.dim)})

    def train(self, data: Images, ctx: Context) -> None:
        features = ctx.features(["tokens", DEPTH])
        table = ctx.derived("knn", knn_table, params={"count": self.neighbors})["neighbors"]
        net = self.net.to(ctx.device)
        optimizer = torch.optim.Adam(net.parameters(), lr=self.lr)
        batches = ShuffledBatches(len(features), self.batch_size, ctx.generator("batches"))
        for step in ctx.steps(self.steps, net=net, optimizer=optimizer, batches=batches):
            items = list(next(batches))
            batch, near = features.batch(items), features.batch(table[items, -1].tolist())
            code, other = self.embed(batch), self.embed(near)
            depth = F.adaptive_avg_pool2d(batch[DEPTH], code.shape[2:]).flatten(1)
            depth = (depth - depth.amin(1, keepdim=True)) / (depth.amax(1) - depth.amin(1) + 1e-6)[:, None]
            closeness = 1 - (depth[:, :, None] - depth[:, None]).abs()
            terms = {
                "features": correspondence(batch["tokens"], near["tokens"], code, other),
                "depth": -((closeness - 0.5) * cosines(code, code).clamp(min=0)).mean(),
                "clustering": -cosine_logits(code.detach(), net["prototypes"].weight).amax(dim=1).mean(),
            }
            optimizer.zero_grad(set_to_none=True)
            torch.stack([*terms.values()]).sum().backward()
            optimizer.step()
            ctx.report(step, **terms)
            if step % 3 == 0:
                ctx.checkpoint(step)

    def embed(self, batch: Batch) -> Tensor:
        code: Tensor = self.net["head"](batch["tokens"])
        return code

    def classify(self, code: Tensor) -> Tensor:
        return cosine_logits(code, self.net["prototypes"].weight)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.net.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.net.load_state_dict(dict(state))
        self.net.to(state["head.weight"].device)


def cosines(one: Tensor, other: Tensor) -> Tensor:
    """Return the cosines of all pairs of patches, (B, P, P), of maps (B, d, h, w)."""
    one, other = (F.normalize(maps, dim=1).flatten(2) for maps in (one, other))
    return one.transpose(1, 2) @ other


def correspondence(f: Tensor, g: Tensor, code: Tensor, other: Tensor, shift: float = 0.2) -> Tensor:
    return -((cosines(f, g) - shift) * cosines(code, other).clamp(min=0)).mean()
