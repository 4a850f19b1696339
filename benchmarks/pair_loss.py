"""DS²DL's pair loss, in tiles beside literal: time, memory and difference.

::

    python benchmarks/pair_loss.py [--repeats 5] [--threads N] [--small]

What is timed is L_p of a training step, within images and across, forward and backward, with a gradient
to the label features and the bias. Where S compares frozen features (384 channels, those of a ViT-S)
that is all; where it compares the embedding (64 channels) there is one to S as well.
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

IMAGES, CLUSTERS, R = 32, 27, 2.22
PATCHES = (256, 784, 1600)
CHANNELS = {"frozen": 384, "learned": 64}


def of_a_step(mean_pair_loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return L_p as a function of what S compares, label features, bias and partners."""

    def loss(x: Tensor, q: Tensor, b: Tensor, partner: Tensor) -> Tensor:
        intra = mean_pair_loss(x, x, q, q, b, R, False)
        return intra + mean_pair_loss(x, x[partner], q, q[partner], b, R, False)

    return loss


def draw(
    similarity: str, images: int, patches: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw x (B, D, N), q (B, C, N), the bias, and a partner for each image."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(images, CHANNELS[similarity], patches, dtype=dtype, generator=generator) + 0.3
    logits = 5 * torch.randn(images, CLUSTERS, patches, dtype=dtype, generator=generator)
    return (
        F.normalize(x, dim=1).requires_grad_(similarity == "learned"),
        torch.softmax(logits, dim=1).requires_grad_(),
        torch.tensor(-0.5, dtype=dtype, requires_grad=True),
        near_derangement(images, generator),
    )


def main() -> None:
    options = arguments(__doc__).parse_args()
    images, sizes, repeats = (4, (36, 64), 1) if options.small else (IMAGES, PATCHES, options.repeats)
    begin(options)
    ours, literal = (
        of_a_step(form) for form in (method_module("ds2dl").mean_pair_loss, literal_losses.mean_pair_loss)
    )
    rows = []
    for similarity in CHANNELS:
        for patches in sizes:
            found = compare_losses(
                ours,
                literal,
                lambda count, dtype: draw(similarity, count, patches, dtype),  # noqa: B023
                images=images,
                repeats=repeats,
            )
            rows.append([similarity, patches, *found])
    print(f"DS²DL's L_p, forward and backward, B = {images}, C = {CLUSTERS}, r = {R}, {machine()}; medians\n")
    print(tabulate(rows, headers=["S compares", "N", *HEADERS], floatfmt=("", "", *FORMATS)))


if __name__ == "__main__":
    main()
