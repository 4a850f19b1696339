"""New method: a linear projection that makes neighboring patches alike, and prototypes that follow it.

Patches that touch mostly show the same thing; patches at the same place of other images mostly do not.
The projection learns to tell the one from the other (InfoNCE; van den Oord et al., 2018), and K
prototypes follow the projected patches, as the centers of cosine k-means do. No label is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.contracts import Batch, Context, Images
from uss_bench.nn.batches import ShuffledBatches
from uss_bench.nn.prototypes import cosine_logits
from uss_bench.nn.standardizer import Standardizer


@dataclass(kw_only=True)
class NewMethod:
    """A projection and K prototypes; `net` holds both, and is made by `train` and `load_state_dict`."""

    clusters: int
    """K, the number of prototypes."""
    dim: int = 32
    """Dimension of the projected patches."""
    steps: int = 400
    batch_size: int = 16
    """Items per step, which are also what a patch is contrasted with."""
    tau: float = 0.2
    """Temperature of the contrast."""
    lr: float = 1e-3
    checkpoint_every: int = 100

    net: Net = field(init=False, repr=False)

    def train(self, data: Images, ctx: Context) -> None:
        features = ctx.features(["tokens"])
        net = self.net = Net(len(features[0]["tokens"]), self.dim, self.clusters)
        net.standardizer.fit(features.moments("tokens"))
        net.to(ctx.device)

        optimizer = torch.optim.Adam(net.parameters(), lr=self.lr)
        batches = ShuffledBatches(len(features), self.batch_size, ctx.generator("batches"))
        for step in ctx.steps(self.steps, net=net, optimizer=optimizer, batches=batches):
            code = self.embed(features.batch(next(batches)))
            contrast = neighbor_contrast(code, self.tau)
            # The prototypes follow the code, and do not move it.
            distance = 1 - cosine_logits(code.detach(), net.prototypes).amax(dim=1).mean()
            optimizer.zero_grad(set_to_none=True)
            (contrast + distance).backward()
            optimizer.step()
            if step == 1 or step % 50 == 0:
                ctx.report(step, contrast=contrast, distance=distance)
            if step % self.checkpoint_every == 0:
                ctx.checkpoint(step)

    def embed(self, batch: Batch) -> Tensor:
        code: Tensor = self.net(batch["tokens"])
        return code

    def classify(self, code: Tensor) -> Tensor:
        return cosine_logits(code, self.net.prototypes)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.net.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.net = Net(len(state["standardizer.mean"]), self.dim, self.clusters)
        self.net.load_state_dict(dict(state))
        self.net.to(state["prototypes"].device)


class Net(nn.Module):
    """What is learned: the projection of standardized features, and the prototypes (K, d)."""

    def __init__(self, channels: int, dim: int, clusters: int) -> None:
        super().__init__()
        self.standardizer = Standardizer(channels)
        self.projection = nn.Conv2d(channels, dim, kernel_size=1, bias=False)
        self.prototypes = nn.Parameter(torch.randn(clusters, dim))

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, D, h, w) to codes (B, d, h, w)."""
        code: Tensor = self.projection(self.standardizer(features))
        return code


def neighbor_contrast(code: Tensor, tau: float) -> Tensor:
    """Return how well a patch picks its right neighbor out of those of all images: cross-entropy.

    Args:
        code: (B, d, h, w), not necessarily normalized.
        tau: temperature of the cosines.
    """
    code = F.normalize(code, dim=1)
    left, right = code[..., :-1], code[..., 1:]
    similarity = torch.einsum("bdhw,cdhw->bchw", left, right) / tau  # with the neighbor in image c
    own = torch.arange(len(code), device=code.device)[:, None, None].expand_as(similarity[:, 0])
    return F.cross_entropy(similarity, own)
