"""PriMaPs-EM: mask proposals, and the loss of a step, ours and in the released shape: time and memory.

::

    python benchmarks/principal_masks.py [--repeats 5] [--threads N] [--small]

The released shape decomposes what is left of an image anew for every mask (a low-rank method, 3 directions,
100 iterations), and enlarges features of all channels before the 1 × 1 convolution. Ours keeps a scatter
matrix, from which it takes what a mask covers, and enlarges the logits. The features are planted: a few
regions per image with noise. Both sides refine masks with the same CRF, timed apart.
"""

from __future__ import annotations

import copy
import sys

import numpy as np
import torch
import torch.nn.functional as F
from measuring import (
    FORMATS,
    HEADERS,
    arguments,
    begin,
    compare_losses,
    in_turns,
    method_module,
    peak_bytes,
    show,
)
from torch import Tensor

THRESHOLD, CLUSTERS, CHANNELS = 0.4, 27, 384


def literal_proposals(features: Tensor, threshold: float) -> Tensor:
    """Return masks (M, h, w) of features (D, h, w), each from a decomposition of all that is left."""
    left = torch.ones(features.shape[1:], dtype=torch.bool)
    masks: list[Tensor] = []
    history: list[Tensor] = []
    while (~left).float().mean() < 0.95:
        rows = features[:, left].T
        v = torch.pca_lowrank(rows, q=3, niter=100)[2][:, 0]
        products = F.normalize(rows, dim=1) @ v
        v = v if products.max() >= -products.min() else -v  # the declared sign, so that both find the same
        along = torch.einsum("d,dhw->hw", v, F.normalize(features, dim=0)) * left
        row, column = divmod(int(along.argmax()), along.shape[1])
        anchor = F.normalize(features, dim=0)[:, row, column]
        cosine = torch.einsum("d,dhw->hw", anchor, F.normalize(features, dim=0)) * left
        cosine[cosine < threshold * cosine.max()] = 0
        masks.append(cosine / cosine.max())
        left = left & (cosine <= 0)
        history = [left, *history][:4]
        if len(history) == 4 and all(torch.equal(left, one) for one in history[:3]):
            break
    return torch.stack(masks)


def literal_loss(weights: Tensor, f: Tensor, g: Tensor, teacher: Tensor, own: Tensor) -> Tensor:
    """Return the focal loss of student weights (K, D) on enlarged features, mask by mask.

    Args:
        f, g: features of teacher and student, (B, D, h, w).
        teacher: (K, D).
        own: masks, uint8 (B, H, W).
    """
    f, g = (F.interpolate(one, own.shape[1:], mode="bilinear", align_corners=False) for one in (f, g))
    classes = F.conv2d(f, teacher[:, :, None, None]).argmax(dim=1)
    target = torch.full_like(classes, 255)
    for image, (found, mask) in enumerate(zip(classes, own, strict=True)):
        for number in mask.unique():
            if number != 255:
                inside = mask == number
                target[image][inside] = found[inside].mode()[0]
    logits = F.conv2d(g, F.normalize(weights, dim=1)[:, :, None, None])
    weight = (1 - logits.detach().softmax(dim=1).mean(dim=(0, 2, 3))) ** 2
    return F.cross_entropy(logits, target, weight=weight, ignore_index=255, reduction="none").mean()


def regions(channels: int, side: int, count: int = 6) -> Tensor:
    """Return features (D, side, side) of Voronoi regions around random directions, with noise."""
    generator = torch.Generator().manual_seed(side)
    seeds = torch.rand(count, 2, generator=generator) * side
    places = torch.stack(torch.meshgrid(*[torch.arange(side) + 0.5] * 2, indexing="ij"), dim=-1)
    nearest = (places[:, :, None] - seeds).square().sum(dim=-1).argmin(dim=-1)
    directions = F.normalize(torch.randn(count, channels, generator=generator), dim=1)
    noise = torch.randn(side, side, channels, generator=generator) / channels**0.5
    return (directions[nearest] + 0.5 * noise).permute(2, 0, 1).contiguous()


def masks_table(sizes: list[tuple[int, int]], repeats: int) -> list[list[object]]:
    module = method_module("primaps")
    masks = sys.modules[module.mask_proposals.__module__]
    rows: list[list[object]] = []
    for channels, side in sizes:
        f = regions(channels, side)
        image = np.random.default_rng(0).integers(0, 256, (8 * side, 8 * side, 3), dtype=np.uint8)
        works = {
            "ours": lambda f=f: masks.proposals(f, THRESHOLD),
            "literal": lambda f=f: literal_proposals(f, THRESHOLD),
            "crf": lambda f=f, image=image: masks.refined(masks.proposals(f, THRESHOLD), image),
        }
        taken = in_turns(works, repeats)
        held = {name: peak_bytes(works[name]) / 1e6 for name in ("ours", "literal")}
        found, expected = works["ours"](), works["literal"]()
        same = len(found) == len(expected) and ((found > 0) == (expected > 0)).float().mean().item()
        rows.append(
            [
                *(channels, f"{side} × {side}", len(found), taken["ours"], taken["literal"]),
                *(taken["literal"] / taken["ours"], taken["crf"] - taken["ours"]),
                *(held["ours"], held["literal"], float(same)),
            ]
        )
    return rows


def loss_row(images: int, side: int, repeats: int) -> list[float]:
    module = method_module("primaps")
    method = module.PriMaPs(clusters=CLUSTERS)

    def draw(count: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(0)
        f, g = (torch.randn(count, CHANNELS, side, side, dtype=dtype, generator=generator) for _ in range(2))
        teacher, weights = (
            torch.randn(CLUSTERS, CHANNELS, dtype=dtype, generator=generator) for _ in range(2)
        )
        own = torch.randint(0, 8, (count, side, side), generator=generator).byte()
        own = own.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
        own[own == 0] = 255
        return weights.clone().requires_grad_(), f, g, F.normalize(teacher, dim=1), own

    def ours(weights: Tensor, f: Tensor, g: Tensor, teacher: Tensor, own: Tensor) -> Tensor:
        step = copy.copy(method)
        step.teacher = module.Prototypes(teacher)
        step.student = lambda x: torch.einsum("bdhw,kd->bkhw", x, F.normalize(weights, dim=1))
        loss: Tensor = step.loss(f, g, own)
        return loss

    return compare_losses(ours, literal_loss, draw, images=images, repeats=repeats)


def main() -> None:
    options = arguments(__doc__).parse_args()
    sizes, batches, side = [(384, 28), (384, 40), (768, 40), (384, 56)], [1, 2, 4, 8], 40
    if options.small:
        sizes, batches, side, options.repeats = [(16, 8)], [1], 4, 1
    begin(options)
    headers = ("channels", "patches", "masks", "ours, s", "literal, s", "times faster", "CRF of both, s")
    headers += ("ours, MB", "literal, MB", "same patches")
    formats = ("d", "", "d", ".3f", ".3f", ".1f", ".3f", ".1f", ".1f", ".1%")
    show("Mask proposals of one image", masks_table(sizes, options.repeats), headers, formats)
    rows = [[images, *loss_row(images, side, options.repeats)] for images in batches]
    title = f"\nLoss of a step, {CHANNELS} channels, {side} × {side} patches, {8 * side} × {8 * side} pixels"
    show(title, rows, ("images", *HEADERS), ("d", *FORMATS))


if __name__ == "__main__":
    main()
