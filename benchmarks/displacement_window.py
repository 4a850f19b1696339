"""IIC's information over a window of displacements: by Fourier transforms, and by the released convolution.

::

    python benchmarks/displacement_window.py [--repeats 3] [--threads N] [--small]

What is timed is the loss of a training step, forward and backward, from class maps that are at hand. The
released code has one convolution whose kernels are the second maps themselves: every displacement sums
products over all places. Ours multiplies class maps once for each frequency, and transforms. Differences
are in double precision, on a few images.
"""

from __future__ import annotations

from unittest.mock import patch

import torch
import torch.nn.functional as F
from measuring import FORMATS, HEADERS, arguments, begin, compare_losses, show
from torch import Tensor

from uss_bench.nn import mutual_information

IMAGES = 8
CASES = ((128, 15, 10), (128, 45, 10), (200, 24, 10), (28, 27, 1))
"""Side of the maps, classes and half of the window: COCO's two heads, Potsdam's larger one, the port."""


def released_counts(first: Tensor, second: Tensor, half_window: int) -> Tensor:
    """Stands for `joint_counts`: the convolution that the released code makes of it."""
    counts = F.conv2d(first.transpose(0, 1), second.transpose(0, 1), padding=half_window)
    return counts.permute(2, 3, 0, 1)


def ours(first: Tensor, second: Tensor, half_window: int) -> Tensor:
    return mutual_information.information_loss(first, second, half_window=half_window)


def released(first: Tensor, second: Tensor, half_window: int) -> Tensor:
    with patch.object(mutual_information, "joint_counts", released_counts):
        return ours(first, second, half_window)


def draw(images: int, side: int, classes: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Draw two maps of class probabilities (B, K, side, side) that want a gradient."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, images, classes, side, side, dtype=dtype, generator=generator)
    return tuple(one.softmax(dim=1).requires_grad_() for one in logits)


def main() -> None:
    options = arguments(__doc__, repeats=3).parse_args()
    images, repeats = (2, 1) if options.small else (IMAGES, options.repeats)
    cases = ((16, 3, 2), (14, 5, 1)) if options.small else CASES
    begin(options)
    rows = [
        [
            *(side, classes, 2 * half + 1),
            *compare_losses(
                lambda a, b: ours(a, b, half),  # noqa: B023
                lambda a, b: released(a, b, half),  # noqa: B023
                lambda count, dtype: draw(count, side, classes, dtype),  # noqa: B023
                images=images,
                repeats=repeats,
            ),
        ]
        for side, classes, half in cases
    ]
    title = f"Mutual information over displacements, forward and backward, B = {images}"
    show(title, rows, ("side", "K", "T", *HEADERS), ("", "", "", *FORMATS))


if __name__ == "__main__":
    main()
