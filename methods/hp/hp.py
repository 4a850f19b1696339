"""HP: leveraging hidden positives for unsupervised segmentation (Seong et al., CVPR 2023).

The file reads from top to bottom like a step of the released code: pools, features and codes, thresholds and
positives, the contrast of codes and of locally propagated codes, and the consistency of two views.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.contracts import BackboneInfo, Context, Features, Images
from uss_bench.data.views import Photometric, View, Views, apply_photometric
from uss_bench.nn.batches import ShuffledBatches
from uss_bench.nn.ema import ema_update
from uss_bench.nn.probed import Probed, ProbedNet
from uss_bench.nn.projector import Projector
from uss_bench.nn.prototypes import probe_loss

from .pair_loss import hidden_positive_loss, thresholds

VIEW = Photometric(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1, gray=0.2, blur=0.5, kernel=5)
"""The released code's second view."""

_ROWS = 256
"""Rows of attention logits whose quantiles are taken at once."""
_NEIGHBORS = 9
"""Patches of the 3 × 3 neighborhood that local positives are taken from, the patch itself included."""


@dataclass(kw_only=True)
class HP(Probed):
    """A head trained by contrast with hidden positives, and a cosine k-means probe on its code.

    Loss and prediction need `net`, which `train` and `load_state_dict` make.
    """

    clusters: int
    """K, the number of the probe's centroids."""
    dim: int = 512
    """Dimension of the code."""
    steps: int = 1380
    """Batches of training."""
    batch_size: int = 64
    """Images per batch; all their patches are compared with each other."""
    temperature: float = 0.6
    """T of the contrastive loss."""
    consistency: float = 0.05
    """α, the weight of the distance between two views; 0 leaves the second view out."""
    candidates: float = 0.02
    """ρ, the share of random patches in the denominator."""
    momentum: float = 0.999
    """Of the averaged head, which follows in the forward pass, before the optimizer's step."""
    warmup: int = 50
    """Steps until λ, the weight of task-specific positives, leaves 0; it nears 1 at the end."""
    pool_size: int = 2048
    """Patches in each reference pool, one per image."""
    renew_every: int = 20
    """Steps within an epoch between renewals of the task-specific pool; a shorter epoch has none."""
    task_specific: bool = True
    """Use positives of the averaged head's codes as well as those of the frozen features."""
    propagate: bool = True
    """Contrast locally propagated codes as well: the local hidden positives."""
    view: Literal["normalized", "rgb"] = "normalized"
    """What the second view jitters: normalized pixels, clamped to [0, 1], as released; or RGB."""
    dropout: float = 0.1
    """Probability of channel dropout before the head."""
    feature_dropout: bool = True
    """Drop channels of features, averaged and propagated codes once more, so that positives, thresholds and
    pools come from dropped-out vectors, as in the released code; false uses the clean ones."""
    clip: float = 10.0
    """Largest norm of the head's gradient."""
    lr: float = 5e-4
    """Learning rate of the head and of the projection."""
    weight_decay: float = 0.1
    """Of the head."""
    lr_probe: float = 5e-3
    """Learning rate of the probe's centroids."""
    standardize: bool = False
    """Center and scale features per channel by the training set's moments (needs no label)."""
    checkpoint_every: int = 100
    """Steps between offered checkpoints."""

    net: Net = field(init=False, repr=False)

    def train(self, data: Images, ctx: Context) -> None:
        features = ctx.features(["tokens"])
        net = self.net = self.make_net(ctx.info.dim)
        if self.standardize:
            net.standardizer.fit(features.moments("tokens"))
        projection = nn.Linear(self.dim, self.dim)
        net.to(ctx.device).train()
        projection.to(ctx.device)
        grid = {"prefix": ctx.info.prefix, "height": ctx.grid[0], "width": ctx.grid[1]}
        affinity = images = views = None
        if self.propagate:
            facet = ["attention_logits_mean@-1"]
            affinity = ctx.derived_items("local-affinity", local_affinity, facet, params=grid)
        if self.consistency:
            images, views = ctx.images(), Views(ctx.generator, "second view", photometric=VIEW)

        # The probe and the projection have optimizers of their own in the code: Adam is elementwise.
        optimizer = torch.optim.AdamW(net.head.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        groups = [
            {"params": list(projection.parameters()), "lr": self.lr},
            {"params": [net.centroids], "lr": self.lr_probe},
        ]
        others = torch.optim.Adam(groups)
        batches = ShuffledBatches(len(features), self.batch_size, ctx.generator("batches"))
        agnostic, specific = self.pools(features, ctx, 0)
        per_epoch = max(1, len(features) // self.batch_size)
        for step in ctx.steps(
            self.steps,
            net=net,
            projection=projection,
            optimizer=optimizer,
            others=others,
            agnostic=agnostic,
            specific=specific,
            batches=batches,
        ):
            if (step - 1) % per_epoch > 0 and (step - 1) % per_epoch % self.renew_every == 0:
                specific.copy_(self.pools(features, ctx, step)[1])
            items = next(batches)
            f, other = features.batch(items)["tokens"], None
            if images is not None and views is not None:
                seen = second_view(images.batch(items), views.draw(step, items), ctx.info, self.view)
                other = ctx.backbone(seen, ["tokens"])["tokens"]
            terms = self.losses(
                f,
                weights=None if affinity is None else affinity.batch("weights", items),
                other=other,
                pools=(agnostic, specific),
                projection=projection,
                specific_weight=self.specific_weight(step),
                draws=ctx.generator("candidates", step),
            )
            optimizer.zero_grad(set_to_none=True)
            others.zero_grad(set_to_none=True)
            total = terms["contrast"] + terms["probe"]
            if "consistency" in terms:
                total = total + self.consistency * terms["consistency"]
            total.backward()
            nn.utils.clip_grad_norm_(net.head.parameters(), self.clip)
            optimizer.step()
            others.step()
            if step == 1 or step % 50 == 0:
                ctx.report(step, **terms)
            if step % self.checkpoint_every == 0:
                ctx.checkpoint(step)
        net.eval()

    def losses(
        self,
        f: Tensor,
        *,
        weights: Tensor | None,
        other: Tensor | None,
        pools: tuple[Tensor, Tensor],
        projection: nn.Module,
        specific_weight: float,
        draws: torch.Generator,
    ) -> dict[str, Tensor]:
        """Return the contrastive loss, the probe's loss and, with a second view, the consistency loss.

        The averaged head follows the head here, after it was used: the code's order.

        Args:
            f: features of a batch, (B, D, h, w).
            weights: local affinity (B, 9, h, w), or None without propagation.
            other: features of the second view, or None.
            pools: task-agnostic (P, D) and task-specific (P, d) reference patches, unit rows.
            specific_weight: λ.
            draws: where the random part of the denominator comes from.
        """
        net = self.net
        f = net.standardizer(f)
        code, averaged = net.head(f), net.averaged(f)
        net.follow(self.momentum)
        unit_f, unit_e = (F.normalize(rows(self.drop(one)), dim=2).detach() for one in (f, averaged))
        z = F.normalize(projection(rows(code)), dim=2)
        z_mix = (
            z
            if weights is None
            else F.normalize(projection(rows(self.drop(propagated(code, weights)))), dim=2)
        )
        b, n = z.shape[:2]
        terms = {"probe": probe_loss(code.detach(), net.centroids)}
        terms["contrast"] = hidden_positive_loss(
            z,
            z_mix,
            unit_f,
            thresholds(unit_f.flatten(0, 1), pools[0]).view(b, n),
            unit_e,
            thresholds(unit_e.flatten(0, 1), pools[1]).view(b, n),
            (torch.rand(n, b * n, generator=draws) < self.candidates).to(f.device),
            weight=specific_weight,
            temperature=self.temperature,
        )
        if other is not None:
            z_other = F.normalize(projection(rows(net.head(net.standardizer(other)))), dim=2)
            terms["consistency"] = F.pairwise_distance(z, z_other, eps=1e-6).mean()
        return terms

    def specific_weight(self, step: int) -> float:
        """Return λ of a step, counted from 1: 0 through the warm-up, then linear towards 1."""
        past = step - 1 - self.warmup
        return past / (self.steps - self.warmup) if self.task_specific and past > 0 else 0.0

    @torch.no_grad()
    def pools(self, features: Features, ctx: Context, step: int) -> tuple[Tensor, Tensor]:
        """Draw one patch each of random items: unit features (P, D) and averaged codes (P, d).

        Dropout is on, as in the released code, which fills its pools with the network in training mode. With
        fewer items than the pool should hold, each gives one patch, and the pool is smaller.
        """
        draws = ctx.generator("pool", step)
        items = torch.randperm(len(features), generator=draws)[: self.pool_size]
        agnostic: list[Tensor] = []
        specific: list[Tensor] = []
        for some in items.split(self.batch_size):
            f = self.net.standardizer(features.batch(some)["tokens"])
            for values, pool in ((f, agnostic), (self.net.averaged(f), specific)):
                patches = rows(self.drop(values))
                patch = torch.randint(patches.shape[1], (len(some),), generator=draws).to(patches.device)
                pool.append(patches[torch.arange(len(some), device=patches.device), patch])
        # Kept in half precision by the released code.
        first, second = (F.normalize(torch.cat(pool), dim=1).half().float() for pool in (agnostic, specific))
        return first, second

    def drop(self, values: Tensor) -> Tensor:
        return F.dropout2d(values, self.dropout, self.net.training and self.feature_dropout)

    def make_net(self, channels: int) -> Net:
        return Net(channels, self.dim, self.clusters, self.dropout)


class Net(ProbedNet):
    """What is learned: the head, its average, and the centroids (K, d) of the cluster probe."""

    def __init__(self, channels: int, dim: int, clusters: int, dropout: float) -> None:
        head, averaged = (Projector(channels, dim, activation="relu", dropout=dropout) for _ in range(2))
        super().__init__(channels, head, clusters, dim)
        averaged.load_state_dict(head.state_dict())
        self.averaged = averaged.requires_grad_(False)

    def follow(self, momentum: float) -> None:
        """Move the averaged head towards the head: θ_e ← m θ_e + (1 − m) θ."""
        for average, parameter in zip(self.averaged.parameters(), self.head.parameters(), strict=True):
            ema_update(average, parameter, momentum)


def second_view(images: Tensor, views: Sequence[View], info: BackboneInfo, space: str) -> Tensor:
    """Return a photometric view of images as the backbone takes them, float32 (B, 3, H, W).

    Args:
        images: uint8 (B, 3, H, W).
        space: 'rgb', or 'normalized': the released code jitters what is normalized already, and torchvision
            clamps it to [0, 1], so that all pixels below the mean become the mean's.
    """
    if space == "rgb":
        return apply_photometric(images, views) / 255
    mean, std = (torch.tensor(one, device=images.device)[:, None, None] for one in (info.mean, info.std))
    return apply_photometric((images / 255 - mean) / std, views) * std + mean


def rows(values: Tensor) -> Tensor:
    """Return patches as rows: (B, D, h, w) to (B, h·w, D)."""
    return values.flatten(2).transpose(1, 2)


def propagated(code: Tensor, weights: Tensor) -> Tensor:
    """Return codes mixed with those of their neighborhood, (B, d, h, w).

    Args:
        code: (B, d, h, w).
        weights: of the nine neighbors of every patch, row by row, 0 outside the image; (B, 9, h, w).
    """
    b, d, h, w = code.shape
    neighbors = F.unfold(code, 3, padding=1).view(b, d, _NEIGHBORS, h, w)
    inside = F.unfold(code.new_ones(1, 1, h, w), 3, padding=1).sum(dim=1).view(1, 1, h, w)
    return (neighbors * weights[:, None]).sum(dim=2) / inside


def local_affinity(
    item: Mapping[str, Tensor], *, prefix: int, height: int, width: int, low: float = 0.1, high: float = 0.9
) -> dict[str, np.ndarray]:
    """Return the weights of the nine neighbors of every patch: float32 (9, h, w), row by row.

    A row of attention logits is clipped to its quantiles, put through a softmax over all patches and
    scaled by the side of the grid (28 in the code); what lies below the row's mean is 0. The loss reads no
    more of the h·w × h·w logits than the nine of a patch's neighborhood, and their row's quantiles,
    normalizer and mean; nine weights hold all of that, in 28 kB per crop of 784 patches instead of 2.5 MB.

    Args:
        item: holds ``attention_logits_mean@-1``, (P + h·w, P + h·w).
        prefix: P, tokens before the patches.
        low, high: quantiles that the logits are clipped to.
    """
    (logits,) = item.values()
    logits = logits[prefix:, prefix:].float()
    # By rows: PyTorch takes no quantile of more than 2**24 numbers at once, which 65 × 65 patches have.
    shares = torch.tensor([low, high])
    limits = torch.cat([torch.quantile(some, shares, dim=1) for some in logits.split(_ROWS)], dim=1)
    weights = logits.clamp(limits[0, :, None], limits[1, :, None]).softmax(dim=1) * (height * width) ** 0.5
    weights = torch.where(weights < weights.mean(dim=1, keepdim=True), 0, weights)
    row, column = torch.arange(height * width) // width, torch.arange(height * width) % width
    kept = torch.zeros(_NEIGHBORS, height * width)
    for number in range(_NEIGHBORS):
        there_row, there_column = row + number // 3 - 1, column + number % 3 - 1
        inside = (there_row >= 0) & (there_row < height) & (there_column >= 0) & (there_column < width)
        target = (there_row * width + there_column)[inside]
        kept[number, inside] = weights[inside.nonzero()[:, 0], target]
    return {"weights": kept.view(_NEIGHBORS, height, width).numpy()}
