"""SmooSeg's smoothness loss, factorised beside literal: time, memory and difference.

::

    python benchmarks/smooseg_loss.py [--repeats 5] [--threads N] [--small]

What is timed is the loss of a training step, E_smooth within images and across, forward and backward,
from features and assignments that are at hand. K = 27, and 384 channels, those of a ViT-S.
"""

from __future__ import annotations

from collections.abc import Callable

import literal_losses
import torch
import torch.nn.functional as F
from measuring import FORMATS, HEADERS, arguments, begin, compare_losses, machine, method_module
from tabulate import tabulate
from torch import Tensor

from uss_bench.nn import near_derangement

IMAGES, CHANNELS, CLUSTERS = 32, 384, 27
PATCHES = (256, 784, 1600)
B_INTRA, B_INTER = -0.02, 0.5


def of_a_step(smoothness: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return E_smooth as a function of features x, assignments a and partners."""
    return lambda x, a, partner: sum(smoothness(x, a, partner, B_INTRA, B_INTER, True))


def draw(images: int, patches: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Draw x (B, D, N), a (B, K, N), which wants a gradient, and a partner for each image."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(images, CHANNELS, patches, dtype=dtype, generator=generator) + 0.3
    logits = 5 * torch.randn(images, CLUSTERS, patches, dtype=dtype, generator=generator)
    a = F.normalize(torch.softmax(logits, dim=1), dim=1)
    return F.normalize(x, dim=1), a.requires_grad_(), near_derangement(images, generator)


def main() -> None:
    options = arguments(__doc__).parse_args()
    images, sizes, repeats = (4, (36, 64), 1) if options.small else (IMAGES, PATCHES, options.repeats)
    begin(options)
    ours, literal = (
        of_a_step(form) for form in (method_module("smooseg").smoothness, literal_losses.smoothness)
    )
    rows = []
    for patches in sizes:
        found = compare_losses(
            ours,
            literal,
            lambda count, dtype: draw(count, patches, dtype),  # noqa: B023
            images=images,
            repeats=repeats,
        )
        rows.append([patches, *found])
    print(
        f"SmooSeg's E_smooth, forward and backward, B = {images}, C = {CHANNELS}, K = {CLUSTERS}, "
        f"{machine()}; medians\n"
    )
    print(tabulate(rows, headers=["N", *HEADERS], floatfmt=("", *FORMATS)))


if __name__ == "__main__":
    main()
