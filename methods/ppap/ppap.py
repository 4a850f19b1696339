"""PPAP: progressive proxy anchor propagation (Seong et al., ECCV 2024).

The file reads like the paper's Section 3, with the behavior of the released code where the text says less.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from uss_bench.contracts import Backbone, Batch, Context, Images, TrainablePart
from uss_bench.nn.batches import ShuffledBatches
from uss_bench.nn.prototypes import cosine_logits, probe_loss

from .propagation import propagate, proxy_contrast

LAST_BLOCK_INPUTS = ("tokens@-2", "prefix@-2")


@dataclass(kw_only=True)
class PPAP:
    """The last block of the backbone, trained by contrast with propagated positives, and a k-means probe.

    Loss and prediction need `net`, which `train` and `load_state_dict` make.
    """

    inputs: ClassVar = LAST_BLOCK_INPUTS

    clusters: int
    """K, the number of the probe's centroids."""
    steps: int = 1380
    """Batches of training."""
    batch_size: int = 64
    """Images per batch."""
    phi: float = 0.6
    """Φ at the start: cosines of frozen features above it are positive."""
    psi: float = 0.2
    """Ψ at the start: cosines below it are negative."""
    moves: int = 3
    """How often the proxy of an anchor moves to the mean of its positives; 0 leaves plain thresholds."""
    sigma_pos: float = 3.0
    """What a proxy's move is divided by before it lowers Φ."""
    sigma_amb: float = 3.0
    """What a proxy's move is divided by before it raises Ψ."""
    exclude_ambiguous: bool = True
    """Leave patches between Ψ and Φ out of the denominator; else all that are not positive are negative."""
    temperature: float = 0.8
    """τ of the contrastive loss."""
    anchors: int = 16
    """One of so many patches is an anchor: 49 of 784."""
    split: int = 784
    """Patches that anchors are drawn from at a time: an image at patch 8, four images at patch 16."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """Of the last block and the projection; 'adamw' decays weights apart from the gradient."""
    lr: float = 1e-3
    """Learning rate of the last block and the projection."""
    weight_decay: float = 0.0
    """Of the last block and the projection."""
    lr_probe: float = 1e-3
    """Learning rate of the probe's centroids."""
    clip: float = 10.0
    """Largest norm of the gradient of what is trained but the probe."""
    dropout: float = 0.1
    """Probability of channel dropout on the frozen features that positives are chosen by."""
    checkpoint_every: int = 50
    """Steps between offered checkpoints."""

    net: Net = field(init=False, repr=False)
    _backbone: Backbone = field(init=False, repr=False)

    def bind(self, backbone: Backbone) -> None:
        self._backbone = backbone

    def train(self, data: Images, ctx: Context) -> None:
        features = ctx.features(["tokens", *LAST_BLOCK_INPUTS])
        dim = ctx.info.dim
        net = self.net = Net(ctx.trainable(1), torch.randn(self.clusters, dim))
        projection = nn.Linear(dim, dim)
        net.to(ctx.device).train()
        projection.to(ctx.device)
        learned = [one for one in net.block.parameters() if one.requires_grad] + list(projection.parameters())
        kind = torch.optim.AdamW if self.optimizer == "adamw" else torch.optim.Adam
        optimizer = kind(learned, lr=self.lr, weight_decay=self.weight_decay)
        probe = torch.optim.Adam([net.centroids], lr=self.lr_probe)
        draws = ctx.generator("anchors")
        batches = ShuffledBatches(len(features), self.batch_size, ctx.generator("batches"))
        for step in ctx.steps(
            self.steps,
            net=net,
            projection=projection,
            optimizer=optimizer,
            probe=probe,
            draws=draws,
            batches=batches,
        ):
            batch = features.batch(next(batches))
            terms = self.losses(batch, projection, draws)
            optimizer.zero_grad(set_to_none=True)
            probe.zero_grad(set_to_none=True)
            (terms["contrast"] + terms["probe"]).backward()
            nn.utils.clip_grad_norm_(learned, self.clip)
            optimizer.step()
            probe.step()
            if step == 1 or step % 50 == 0:
                ctx.report(step, **terms)
            if step % self.checkpoint_every == 0:
                ctx.checkpoint(step)
        net.eval()

    def losses(self, batch: Batch, projection: nn.Module, draws: torch.Generator) -> dict[str, Tensor]:
        """Return the contrastive loss, whose gradient goes to the last block, and the probe's loss.

        Args:
            batch: ``tokens``, the frozen features, and what the last block reads.
            draws: where anchors come from.
        """
        code = self.net(batch)
        z = F.normalize(projection(rows(code)), dim=1)
        f = F.dropout2d(batch["tokens"], self.dropout, self.net.training)
        f = F.normalize(rows(f), dim=1)
        size = min(self.split, len(z))
        losses = []
        for first in range(0, len(z) - size + 1, size):  # a rest smaller than a split has no anchors
            chosen = torch.randperm(size, generator=draws)[: max(1, size // self.anchors)]
            # Pairs of a split are made again for the gradient: those of all splits grow as the batch squared.
            loss = checkpoint(self.contrast, z, f, first + chosen.to(z.device), use_reentrant=False)
            losses.append(loss)
        probe = probe_loss(code.detach(), self.net.centroids)
        return {"contrast": torch.stack(losses).mean(), "probe": probe}

    def contrast(self, z: Tensor, f: Tensor, anchors: Tensor) -> Tensor:
        """Return the loss of some anchors, indices (A,) of the rows of `z` (M, d) and `f` (M, D)."""
        positives, negatives = propagate(
            f[anchors],
            f,
            phi=self.phi,
            psi=self.psi,
            moves=self.moves,
            sigma_pos=self.sigma_pos,
            sigma_amb=self.sigma_amb,
        )
        return proxy_contrast(
            z, anchors, positives, negatives if self.exclude_ambiguous else ~positives, self.temperature
        )

    def embed(self, batch: Batch) -> Tensor:
        code: Tensor = self.net(batch)
        return code

    def classify(self, code: Tensor) -> Tensor:
        return cosine_logits(code, self.net.centroids)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.net.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.net = Net(self._backbone.trainable(1), torch.empty_like(state["centroids"]))
        self.net.load_state_dict(dict(state))
        self.net.to(state["centroids"].device).eval()


class Net(nn.Module):
    """What is learned: the last block, whose normalization stays frozen, and the probe's centroids (K, D)."""

    def __init__(self, block: TrainablePart, centroids: Tensor) -> None:
        super().__init__()
        self.block = block
        self.centroids = nn.Parameter(centroids)

    def forward(self, batch: Batch) -> Tensor:
        code: Tensor = self.block(batch)
        return code


def rows(values: Tensor) -> Tensor:
    """Return the patches of a batch as rows: (B, D, h, w) to (B·h·w, D)."""
    return values.flatten(2).transpose(1, 2).flatten(0, 1)
