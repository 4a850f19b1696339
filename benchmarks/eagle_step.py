"""A training step of EAGLE beside the shape of its released code: time and memory, and how they grow.

::

    python benchmarks/eagle_step.py [--batches 4 8 16] [--repeats 3] [--threads N] [--small]

The released step passes every image through a ViT-S/8 three times, inverts diagonal matrices, and makes
all distances of an object's patches at once. Ours reads stored keys, passes the blurred half of the images
through the backbone, and does the rest in batches and chunks. Both decompose two Laplacians per image with
the same `eigh`, whose share of our step is shown: no arrangement of the rest can save it. Head, loss,
optimizer and threads are the same on both sides; weights and keys are random.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from unittest.mock import patch

import literal_eagle
import torch
from measuring import arguments, begin, in_turns, method_module, peak_bytes, peak_rate, products, show
from reference_step import CHANNELS, PATCH, RandomViT
from torch import Tensor

HEADERS = (
    "B",
    "ours, s",
    "literal, s",
    "times faster",
    "of ours eigh",
    "ours, GFLOP",
    "literal, GFLOP",
    "ours, GFLOP/s",
    "literal, GFLOP/s",
    "ours, MB",
    "literal, MB",
    "times less",
)
SEEN_AGAIN = 2
"""One of so many images is blurred, and passes through the backbone in our step."""


class KeyViT(RandomViT):
    """A random ViT-S/8 that gives the keys of its last three blocks, (B, 3 · 384, h, w)."""

    def __init__(self, side: int, blocks: int) -> None:
        super().__init__(side, blocks)
        self._keys: list[Tensor] = []
        for block in self.model.blocks[-3:]:
            block.attn.qkv.register_forward_hook(lambda module, given, qkv: self._keys.append(qkv))

    @torch.no_grad()
    def keys(self, images: Tensor) -> Tensor:
        self._keys.clear()
        self.model.forward_features(images)
        grid = (images.shape[2] // PATCH, images.shape[3] // PATCH)
        found = torch.cat([qkv[:, 1:, CHANNELS : 2 * CHANNELS] for qkv in self._keys], dim=2)
        return found.transpose(1, 2).unflatten(2, grid).contiguous()


def steps(backbone: KeyViT, images: Tensor) -> dict[str, Callable[[], None]]:
    """Return our step and the literal one on the same images, and the decompositions alone."""
    eagle = method_module("eagle")
    contrast = sys.modules[eagle.object_contrast.__module__]
    torch.manual_seed(0)
    method = eagle.Eagle(clusters=32)
    method.net = eagle.Net(3 * CHANNELS, method.dim, method.clusters, method.dropout).train()
    learner = eagle.Learner(method.dim, method.objects, method.eigenvectors)
    optimizer = torch.optim.Adam([*method.net.parameters(), *learner.parameters()])
    stored, draws = backbone.keys(images), torch.Generator().manual_seed(0)
    grid = stored.shape[2:]
    colors = torch.nn.functional.interpolate(images, size=grid, mode="bilinear") / 255
    laplacians = torch.rand(len(images), grid.numel(), grid.numel())
    laplacians = laplacians + laplacians.transpose(1, 2)

    def learn(k: Tensor, other: Tensor) -> None:
        terms = method.losses(k, other, colors, learner, draws, objects=True)
        optimizer.zero_grad(set_to_none=True)
        method.total(terms, method.switch_to).backward()
        optimizer.step()

    def ours() -> None:
        other = stored.clone()
        other[::SEEN_AGAIN] = backbone.keys(images[::SEEN_AGAIN])
        learn(stored, other)

    def literal() -> None:
        k, _, other = (backbone.keys(images) for _ in range(3))
        with (
            patch.object(eagle, "eigenvectors", literal_eagle.eigenvectors),
            patch.object(eagle, "patch_weights", literal_eagle.patch_weights),
            patch.object(contrast, "medoids", literal_eagle.medoids),
        ):
            learn(k, other)

    def decompose() -> None:
        for _ in range(2):
            torch.linalg.eigh(laplacians)

    return {"ours": ours, "literal": literal, "eigh": decompose}


def decompositions(images: int, patches: int) -> float:
    """Return the GFLOP of `eigh` with vectors for both views, 9 n³ each, which torch does not count."""
    return 2 * images * 9 * patches**3 / 1e9


def main() -> None:
    parser = arguments(__doc__, repeats=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 8, 16, 32], help="images per batch")
    options = parser.parse_args()
    side, blocks, batches, repeats = 224, 12, options.batches, options.repeats
    if options.small:
        side, blocks, batches, repeats = 32, 3, [2, 4], 1
    begin(options)
    backbone, rows = KeyViT(side, blocks), []
    best, patches = peak_rate(), (side // PATCH) ** 2
    for images in batches:
        works = steps(backbone, torch.rand(images, 3, side, side))
        taken = in_turns(works, repeats)
        held = {name: peak_bytes(works[name]) / 1e6 for name in ("ours", "literal")}
        gain, less = taken["literal"] / taken["ours"], held["literal"] / held["ours"]
        share = taken["eigh"] / taken["ours"]
        done = {name: products(works[name]) + decompositions(images, patches) for name in held}
        rates = [done[name] / taken[name] for name in done]
        row = [images, taken["ours"], taken["literal"], gain, share, *done.values(), *rates]
        rows.append([*row, *held.values(), less])
    title = (
        f"One training step of EAGLE, {side} × {side}, {patches} patches, random ViT-S/8; "
        f"one large product {best:.0f} GFLOP/s"
    )
    formats = ("", ".3f", ".3f", ".1f", ".0%", ".0f", ".0f", ".0f", ".0f", ".0f", ".0f", ".1f")
    show(title, rows, HEADERS, formats)


if __name__ == "__main__":
    main()
