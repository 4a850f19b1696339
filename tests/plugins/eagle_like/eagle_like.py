"""A method that reads facets counted from the last block, and frozen and learned eigenvectors, as EAGLE does.

Eigenvectors of frozen keys and colors are derived once for every image. In each step the eigenvectors of the
learned code are computed as well, and the code is pulled towards patches that share a sign in both.
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

from . import spectra


@dataclass(kw_only=True)
class EagleLike:
    clusters: int
    blocks: int = 3
    """How many of the last blocks the keys are taken of."""
    dim: int = 8
    steps: int = 6
    batch_size: int = 3
    vectors: int = 3
    color: float = 0.5
    lr: float = 1e-2

    net: nn.ModuleDict = field(init=False, repr=False)

    @property
    def keys(self) -> list[str]:
        return [f"keys@-{block}" for block in range(self.blocks, 0, -1)]

    @property
    def inputs(self) -> list[str]:
        return [*self.keys, "image"]

    def bind(self, backbone: Backbone) -> None:
        channels = self.blocks * backbone.info.dim + 3
        head = nn.Conv2d(channels, self.dim, 1)
        self.net = nn.ModuleDict({"head": head, "prototypes": nn.Embedding(self.clusters, self.dim)})

    def train(self, data: Images, ctx: Context) -> None:
        features = ctx.features(self.inputs)
        frozen = ctx.derived_items(
            "eigenvectors",
            spectra.of_image,
            ["keys@-1", "image"],
            params={"count": self.vectors, "color": self.color},
        )
        net = self.net.to(ctx.device)
        optimizer = torch.optim.Adam(net.parameters(), lr=self.lr)
        batches = ShuffledBatches(len(features), self.batch_size, ctx.generator("batches"))
        reader = features.batches(batches)
        for step in ctx.steps(self.steps, net=net, optimizer=optimizer, batches=batches):
            items, batch = next(reader)
            code = self.embed(batch)
            vectors = frozen.batch("vectors", items).flatten(2)
            related = self.agreement(code, vectors)
            clustering = -cosine_logits(code.detach(), net["prototypes"].weight).amax(dim=1).mean()
            optimizer.zero_grad(set_to_none=True)
            (related + clustering).backward()
            optimizer.step()
            ctx.report(step, related=related, clustering=clustering)
            if step % 3 == 0:
                ctx.checkpoint(step)

    def agreement(self, code: Tensor, frozen: Tensor) -> Tensor:
        """Return minus the mean cosine of codes over pairs of patches on one side in both spectra."""
        cosines = spectra.cosines(code.flatten(2))
        learned = spectra.eigenvectors(cosines.detach() + 1e-3, self.vectors)
        both = torch.cat([frozen.cpu(), learned], dim=1).sign()
        together = (both.transpose(1, 2) @ both).to(code.device)
        return -(cosines * (together > 0)).sum() / (together > 0).sum()

    def embed(self, batch: Batch) -> Tensor:
        keys = F.normalize(torch.cat([batch[name] for name in self.keys], dim=1), dim=1)
        colors = F.adaptive_avg_pool2d(batch["image"], keys.shape[2:]) - 0.5
        code: Tensor = self.net["head"](torch.cat([keys, colors], dim=1))
        return code

    def classify(self, code: Tensor) -> Tensor:
        return cosine_logits(code, self.net["prototypes"].weight)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.net.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.net.load_state_dict(dict(state))
        self.net.to(state["head.weight"].device)
