"""The losses over all pairs of patches, as the methods compute them and literal: time, memory, difference.

::

    python benchmarks/pair_losses.py [--repeats 5] [--threads N] [--small]

What is timed is the loss of a training step, within images and across, forward and backward, from inputs that
are at hand: SmooSeg's E_smooth with a gradient to the assignments, and DS²DL's L_p with one to the label
features and the bias. Where S compares frozen features (384 channels, those of a ViT-S) that is all; where
it compares the embedding (64 channels) there is one to S as well. K = C = 27.
"""

from __future__ import annotations

from collections.abc import Callable

import literal_losses
import torch
import torch.nn.functional as F
from measuring import FORMATS, HEADERS, arguments, begin, compare_losses, method_module, show
from torch import Tensor

from uss_bench.nn.pairing import near_derangement

IMAGES, CLUSTERS = 32, 27
PATCHES = (256, 784, 1600)
B_INTRA, B_INTER, R = -0.02, 0.5, 2.22
CHANNELS = {"SmooSeg": 384, "DS²DL, frozen": 384, "DS²DL, learned": 64}
"""Of what is compared, by loss."""


def of_a_step(case: str, *, literal: bool = False) -> Callable[..., Tensor]:
    """Return a loss as a function of what `draw` returns."""
    method = "smooseg" if case == "SmooSeg" else "ds2dl"
    name, written_out = literal_losses.PLACES[method][1:]
    form = written_out if literal else getattr(method_module(method), name)
    if method == "smooseg":
        return lambda x, a, partner: sum(form(x, a, partner, B_INTRA, B_INTER, True))

    def loss(x: Tensor, q: Tensor, b: Tensor, partner: Tensor) -> Tensor:
        intra: Tensor = form(x, x, q, q, b, R, False)
        return intra + form(x, x[partner], q, q[partner], b, R, False)

    return loss


def draw(case: str, images: int, patches: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Draw features (B, D, N), assignments or label features (B, K, N), DS²DL's bias, and partners (B,)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(images, CHANNELS[case], patches, dtype=dtype, generator=generator) + 0.3
    logits = 5 * torch.randn(images, CLUSTERS, patches, dtype=dtype, generator=generator)
    x, q = F.normalize(x, dim=1).requires_grad_(case == "DS²DL, learned"), torch.softmax(logits, dim=1)
    partner = near_derangement(images, generator)
    if case == "SmooSeg":
        return x, F.normalize(q, dim=1).requires_grad_(), partner
    return x, q.requires_grad_(), torch.tensor(-0.5, dtype=dtype, requires_grad=True), partner


def main() -> None:
    options = arguments(__doc__).parse_args()
    images, sizes, repeats = (4, (36, 64), 1) if options.small else (IMAGES, PATCHES, options.repeats)
    begin(options)
    rows = [
        [
            *(case, patches),
            *compare_losses(
                of_a_step(case),
                of_a_step(case, literal=True),
                lambda count, dtype: draw(case, count, patches, dtype),  # noqa: B023
                images=images,
                repeats=repeats,
            ),
        ]
        for case in CHANNELS
        for patches in sizes
    ]
    title = f"Losses over pairs, forward and backward, B = {images}, K = {CLUSTERS}, r = {R}"
    show(title, rows, ("loss", "N", *HEADERS), ("", "", *FORMATS))


if __name__ == "__main__":
    main()
