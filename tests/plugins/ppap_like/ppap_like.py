"""A method that trains a copy of the backbone's last block, as PPAP does.

What enters the block is read from the store, so that no step runs the whole backbone. The trained block is
the method's state; `bind` lets it be made again when that state is loaded, where there is no context.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.contracts import Backbone, Batch, Context, Images
from uss_bench.nn.batches import ShuffledBatches
from uss_bench.nn.prototypes import cosine_logits


@dataclass(kw_only=True)
class PpapLike:
    clusters: int
    steps: int = 6
    batch_size: int = 3
    positive: float = 0.6
    """Cosine of frozen features above which two patches belong together."""
    lr: float = 1e-3

    net: nn.ModuleDict = field(init=False, repr=False)

    def bind(self, backbone: Backbone) -> None:
        block = backbone.trainable(last_blocks=1)
        prototypes = nn.Embedding(self.clusters, backbone.info.dim)
        self.net = nn.ModuleDict({"block": block, "prototypes": prototypes})

    def train(self, data: Images, ctx: Context) -> None:
        features = ctx.features(["tokens@-2", "prefix@-2", "tokens"])
        net = self.net.to(ctx.device)
        trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.lr)
        batches = ShuffledBatches(len(features), self.batch_size, ctx.generator("batches"))
        for step in ctx.steps(self.steps, net=net, optimizer=optimizer, batches=batches):
            batch = features.batch(next(batches))
            code = self.embed(batch)
            frozen, z = (F.normalize(one, dim=1).flatten(2) for one in (batch["tokens"], code))
            alike = (frozen.transpose(1, 2) @ frozen > self.positive).float()
            log_share = torch.log_softmax(z.transpose(1, 2) @ z / 0.5, dim=2)
            contrast = -((log_share * alike).sum(2) / alike.sum(2)).mean()
            clustering = -cosine_logits(code.detach(), net["prototypes"].weight).amax(dim=1).mean()
            optimizer.zero_grad(set_to_none=True)
            (contrast + clustering).backward()
            optimizer.step()
            drift = (code - batch["tokens"]).abs().mean()
            ctx.report(step, contrast=contrast, clustering=clustering, drift=drift)
            if step % 3 == 0:
                ctx.checkpoint(step)

    def embed(self, batch: Batch) -> Tensor:
        code: Tensor = self.net["block"](batch)
        return code

    def classify(self, code: Tensor) -> Tensor:
        return cosine_logits(code, self.net["prototypes"].weight)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.net.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.net.load_state_dict(dict(state))
        self.net.to(state["prototypes.weight"].device)
