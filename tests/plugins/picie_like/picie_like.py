"""A method that trains its own network on view pairs, with k-means in every epoch, as PiCIE does.

Views are drawn per (epoch, image), so that the pass that clusters and the pass that trains see the same ones.
Both are loops within the loop of epochs: a run that is killed goes on within its epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.contracts import Batch, Context, Images
from uss_bench.data.views import (
    Geometric,
    Photometric,
    View,
    Views,
    align,
    apply_geometric,
    apply_photometric,
)
from uss_bench.nn.prototypes import cosine_logits


@dataclass(kw_only=True)
class PicieLike:
    clusters: int = 5
    """K, by default more than the classes of most small datasets."""
    dim: int = 8
    epochs: int = 3
    batch_size: int = 3
    base: int = 64
    """Side of the images that views are drawn from."""
    side: int = 32
    """Side of a view."""
    lr: float = 1e-2

    net: nn.Sequential = field(init=False, repr=False)
    centroids: Tensor = field(init=False, repr=False)

    def build(self) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, stride=2),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, self.dim, 3, padding=1),
        )

    def train(self, data: Images, ctx: Context) -> None:
        images = ctx.images(side=self.base, filter="bilinear")
        color = Photometric(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1, jitter=0.8, each=True)
        colors = [Views(ctx.generator, f"color {view}", photometric=color) for view in (1, 2)]
        place = Views(ctx.generator, "place", geometric=Geometric(scale=(0.5, 1.0), flip=0.5))
        net = self.net = self.build().to(ctx.device)
        centroids = self.centroids = torch.zeros(self.clusters, self.dim, device=ctx.device)
        optimizer = torch.optim.Adam(net.parameters(), lr=self.lr)
        passes = len(images) // self.batch_size
        for epoch in ctx.steps(
            self.epochs, label="epochs", net=net, optimizer=optimizer, centroids=centroids
        ):
            order = torch.randperm(len(images), generator=ctx.generator("order", epoch)).tolist()

            def codes(step: int, epoch: int = epoch, order: list[int] = order) -> tuple[Tensor, Tensor]:
                """Return the codes of both views, over the place that both show: (B, d, h, w) each."""
                items = order[(step - 1) * self.batch_size : step * self.batch_size]
                x = images.batch(items) / 255
                first, second = (apply_photometric(x, one.draw(epoch, items)) for one in colors)
                where = place.draw(epoch, items)
                return self.pair(net, first, second, where)

            sums = torch.zeros(self.clusters, self.dim + 1, device=ctx.device)
            net.eval()
            with torch.no_grad():
                for step in ctx.steps(passes, label="k-means", sums=sums, centroids=centroids):
                    points = torch.cat([code.transpose(0, 1).flatten(1).T for code in codes(step)])
                    points = F.normalize(points, dim=1)
                    if not centroids.any():
                        first = torch.randperm(len(points), generator=ctx.generator("seeds"))
                        centroids.copy_(points[first[: self.clusters].to(points.device)])
                    nearest = F.one_hot((points @ centroids.T).argmax(dim=1), self.clusters).float()
                    sums += nearest.T @ torch.cat([points, torch.ones_like(points[:, :1])], dim=1)
                found = sums[:, -1] > 0
                centroids[found] = sums[found, :-1] / sums[found, -1:]
            net.train()
            frozen = centroids.clone()
            for step in ctx.steps(passes, label="training", net=net, optimizer=optimizer):
                one, other = codes(step)
                loss = agreement(one, other, frozen) + agreement(other, one, frozen)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                ctx.report((epoch - 1) * passes + step, loss=loss)
            ctx.checkpoint(epoch)
        net.eval()

    def pair(self, net: nn.Module, first: Tensor, second: Tensor, where: list[View]) -> tuple[Tensor, Tensor]:
        """Return the code of a crop, and of the same place cut out of the code of the whole image.

        The code of the crop is also laid back over the image, where the two must agree as well.
        """
        crop = net(apply_geometric(first, where, (self.side, self.side)))
        whole = net(F.interpolate(second, (self.side, self.side), mode="bilinear", align_corners=False))
        size = (crop.shape[2], crop.shape[3])
        there = apply_geometric(whole, where, size)
        back, seen = align(crop, where, None, size)
        return torch.cat([crop, back]), torch.cat([there, whole * seen])

    def embed(self, batch: Batch) -> Tensor:
        code: Tensor = self.net(batch["image"])
        return code

    def classify(self, code: Tensor) -> Tensor:
        return cosine_logits(code, self.centroids)

    def state_dict(self) -> dict[str, Tensor]:
        return {"centroids": self.centroids, **{f"net.{k}": v for k, v in self.net.state_dict().items()}}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.centroids = state["centroids"]
        self.net = self.build()
        self.net.load_state_dict({name.removeprefix("net."): v for name, v in state.items() if "." in name})
        self.net.to(self.centroids.device).eval()


def agreement(code: Tensor, other: Tensor, centroids: Tensor) -> Tensor:
    """Return the cross-entropy of a code's assignment to the nearest centroids of the other view's."""
    target = cosine_logits(other.detach(), centroids).argmax(dim=1)
    return F.cross_entropy(cosine_logits(code, centroids) / 0.1, target)
