"""A method that trains its own network on two views per image, as IIC and PiCIE do.

Nothing frozen is read. Two random crops, each flipped half of the time, are taken from every native
image; the map of the first is warped onto the second, and the mutual information between the two
assignments is maximised (Ji et al., "Invariant Information Clustering", ICCV 2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.contracts import Batch, Context, Images
from uss_bench.nn import ShuffledBatches


@dataclass(kw_only=True)
class CnnViews:
    """A CNN whose output is the assignment; the code is the logits themselves."""

    clusters: int = 5
    """K, by default more than the classes of most small datasets."""
    width: int = 16
    steps: int = 15
    batch_size: int = 4
    side: int = 32
    """Side of a view in pixels, whatever the size of the image."""
    lr: float = 1e-2

    net: nn.Sequential = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.net = nn.Sequential(
            *block(3, self.width, stride=2),
            *block(self.width, self.width),
            nn.Conv2d(self.width, self.clusters, 1),
        )

    def train(self, data: Images, ctx: Context) -> None:
        self.net.to(ctx.device).train()
        optimizer = torch.optim.Adam(self.net.parameters(), lr=self.lr)
        views = ctx.generator("views")
        batches = ShuffledBatches(len(data), self.batch_size, ctx.generator("batches"))
        for step in ctx.progress(range(1, self.steps + 1), total=self.steps, label="cnn-views"):
            # Native sizes may differ, so an image is cut before it is stacked.
            images = [as_tensor(data.image(index), ctx.device) for index in next(batches)]
            first, second = random_boxes(len(images), views), random_boxes(len(images), views)
            seen_first, seen_second = self.net(self.cut(images, first)), self.net(self.cut(images, second))
            warped, valid = warp(seen_first.softmax(1), first, second)
            loss = -mutual_information(warped, seen_second.softmax(1), valid)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            ctx.report(step, information=-loss)
            if step % 10 == 0:
                ctx.checkpoint(step)
        self.net.eval()

    def cut(self, images: list[Tensor], boxes: Tensor) -> Tensor:
        """Return the views (B, 3, side, side) of images (1, 3, H, W) of any sizes."""
        grids = F.affine_grid(boxes, [len(boxes), 3, self.side, self.side], align_corners=False)
        cuts = [
            F.grid_sample(image, grid[None].to(image.device), padding_mode="reflection", align_corners=False)
            for image, grid in zip(images, grids, strict=True)
        ]
        return torch.cat(cuts)

    def embed(self, batch: Batch) -> Tensor:
        logits: Tensor = self.net(2 * batch["image"] - 1)
        return logits

    def classify(self, code: Tensor) -> Tensor:
        return code

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.net.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.net.load_state_dict(dict(state))
        self.net.to(state["0.weight"].device).eval()


def block(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]


def as_tensor(image: object, device: torch.device) -> Tensor:
    """Turn a native uint8 (H, W, 3) into (1, 3, H, W) in [-1, 1]."""
    return torch.as_tensor(image).to(device).permute(2, 0, 1)[None].float() / 127.5 - 1


def random_boxes(count: int, generator: torch.Generator) -> Tensor:
    """Draw crops of 50 to 90 % of the side, flipped half of the time: view → image, (count, 2, 3)."""
    scale = 0.5 + 0.4 * torch.rand(count, generator=generator)
    flip = 1 - 2 * torch.randint(2, (count,), generator=generator)
    centre = (2 * torch.rand(count, 2, generator=generator) - 1) * (1 - scale[:, None])
    boxes = torch.zeros(count, 2, 3)
    boxes[:, 0, 0], boxes[:, 1, 1], boxes[:, :, 2] = scale * flip, scale, centre
    return boxes


def warp(maps: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Bring maps of the first views (B, K, h, w) onto the second; also say where both views look."""
    scale = second[:, :, :2].diagonal(dim1=1, dim2=2) / first[:, :, :2].diagonal(dim1=1, dim2=2)
    shift = (second[:, :, 2] - first[:, :, 2]) / first[:, :, :2].diagonal(dim1=1, dim2=2)
    between = torch.cat([torch.diag_embed(scale), shift[..., None]], dim=2)
    grid = F.affine_grid(between, list(maps.shape), align_corners=False).to(maps.device)
    valid = (grid.abs() <= 1).all(dim=3, keepdim=True).permute(0, 3, 1, 2).float()
    return F.grid_sample(maps, grid, align_corners=False), valid


def mutual_information(p: Tensor, q: Tensor, valid: Tensor) -> Tensor:
    """Return I(k; l) of the joint distribution of two assignments (B, K, h, w), over valid pixels."""
    joint = torch.einsum("bkhw,blhw->kl", p * valid, q) / valid.sum().clamp(min=1)
    joint = ((joint + joint.T) / 2).clamp(min=1e-8)
    marginal = joint.sum(dim=0)
    return (joint * (joint.log() - marginal.log()[:, None] - marginal.log())).sum()
