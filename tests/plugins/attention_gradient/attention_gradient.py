"""A method that needs gradients through the frozen backbone, as TransFGU does.

Class tokens of all images are clustered; how much each attention of the last block moves an image
towards a cluster makes a heatmap per cluster; the heatmaps are the pseudo-labels of a 1×1 classifier
on tokens (Yin et al., "TransFGU", ECCV 2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.contracts import Batch, Context, Features, Images
from uss_bench.data.geometry import resize_center_crop
from uss_bench.nn.batches import ShuffledBatches
from uss_bench.nn.standardizer import Standardizer


@dataclass(kw_only=True)
class AttentionGradient:
    """A linear classifier on standardized tokens."""

    clusters: int
    steps: int = 12
    batch_size: int = 4
    side: int = 96
    """Side of the images that gradients are taken on; a multiple of the backbone's patch."""
    keep: float = 0.6
    """Share of patches, those with the clearest heat, that become pseudo-labels."""
    lr: float = 1e-2

    net: nn.Sequential = field(init=False, repr=False)

    def train(self, data: Images, ctx: Context) -> None:
        features = ctx.features(["tokens", "cls"])
        mean, _ = (moment.to(ctx.device) for moment in features.moments("cls"))
        points = F.normalize(class_tokens(features) - mean, dim=1)
        centroids = cluster(points, self.clusters, ctx.generator("centroids"))
        self.build(len(mean), ctx.device)
        self.net[0].fit(features.moments("tokens"))
        optimizer = torch.optim.Adam(self.net.parameters(), lr=self.lr)
        batches = ShuffledBatches(len(data), self.batch_size, ctx.generator("batches"))
        for step in ctx.progress(range(1, self.steps + 1), total=self.steps, label="attention-gradient"):
            squares = [resize_center_crop(data.image(index), self.side, "bicubic") for index in next(batches)]
            images = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2) / 255
            tokens, heat, gradient = heatmaps(ctx, images, centroids, mean)
            loss = self.pseudo_label_loss(self.net(tokens), heat)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            ctx.report(step, loss=loss, gradient=gradient)
            if step % 10 == 0:
                ctx.checkpoint(step)

    def build(self, channels: int, device: torch.device) -> None:
        self.net = nn.Sequential(Standardizer(channels), nn.Conv2d(channels, self.clusters, 1)).to(device)

    def pseudo_label_loss(self, logits: Tensor, heat: Tensor) -> Tensor:
        """Return the cross-entropy to the hottest cluster, over the patches where it stands out."""
        first, second = heat.topk(2, dim=1).values.unbind(dim=1)
        margin = first - second
        clear = margin >= margin.flatten(1).quantile(1 - self.keep, dim=1)[:, None, None]
        target = heat.argmax(dim=1).masked_fill(~clear, -1)
        return F.cross_entropy(logits, target, ignore_index=-1)

    def embed(self, batch: Batch) -> Tensor:
        return batch["tokens"]

    def classify(self, code: Tensor) -> Tensor:
        logits: Tensor = self.net(code)
        return logits

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.net.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.build(state["1.weight"].shape[1], state["1.weight"].device)
        self.net.load_state_dict(dict(state))


def heatmaps(ctx: Context, images: Tensor, centroids: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens (B, D, h, w), heat (B, K, h, w), and the mean size of the gradient.

    The heat of cluster k on a patch is the attention that the class token pays to it, times how much
    more of it would bring the class token closer to centroid k; on one scale for all clusters.
    """
    out = ctx.backbone(images, ["tokens", "cls", "attention"], grad=True)
    tokens, attention = out["tokens"].detach(), out["attention"]
    patches = tokens.shape[2] * tokens.shape[3]
    maps, sizes = [], []
    for centroid in centroids:
        distance = (1 - F.cosine_similarity(out["cls"] - mean, centroid[None])).sum()
        (gradient,) = torch.autograd.grad(distance, attention, retain_graph=True)
        paid = (-gradient * attention.detach())[:, :, 0, -patches:].mean(dim=1)
        maps.append((paid - paid.mean()) / paid.std())
        sizes.append(gradient[:, :, 0, -patches:].abs().mean())
    heat = torch.stack(maps, dim=1).unflatten(2, tokens.shape[2:])
    return tokens, heat, torch.stack(sizes).mean()


def class_tokens(features: Features) -> Tensor:
    """Return the class tokens of all items, (N, D)."""
    chunks = torch.arange(len(features)).split(32)
    return torch.cat([features.batch(chunk)["cls"] for chunk in chunks])


def cluster(points: Tensor, clusters: int, generator: torch.Generator, rounds: int = 10) -> Tensor:
    """Return K centroids of unit vectors (N, D), by cosine k-means from random points."""
    start = torch.randperm(len(points), generator=generator)[:clusters]
    centroids = points[start.to(points.device)]
    for _ in range(rounds):
        nearest = F.one_hot((points @ centroids.T).argmax(dim=1), len(centroids)).float()
        centroids = F.normalize(nearest.T @ points + 1e-3 * centroids, dim=1)
    return centroids
