"""The losses of CAUSE's phases, as the method computes them and in the released shape.

::

    python benchmarks/cause_steps.py [--repeats 3] [--threads N] [--each 5 25] [--small]

Time, memory and difference at the published sizes: 100 pooled tokens an image of 384 channels, a codebook of
2,048 codes, a code of 90 dimensions projected to 2,048. *codebook* and *probe* are the modularity losses of
the first and third phase (2,048 and 27 centers), *contrast* the loss of the second against its batch of 16
and a bank of R rows, of at most 204,800; forward and backward. The released shape keeps C_pk C_qk for all
pairs and codes, and every matrix of anchors × bank. It is favored: its bank is put together by one
concatenation, where the released code makes one for every code and copies what it has each time.

The rates are those of the contrast's matrix products, counted for each form by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from measuring import FORMATS, HEADERS, arguments, begin, compare_losses, method_module, show
from torch import Tensor

POSITIVE, NEGATIVE, TEMPERATURE = 0.3, 0.1, 0.07
Draw = Callable[[int, torch.dtype], tuple[Tensor, ...]]


def modularity(centers: Tensor, tokens: Tensor) -> Tensor:
    """Return the modularity loss as the trace of (W / e) δ, with all pairs' products for all centers."""
    x = F.normalize(tokens, dim=2)
    affinity = (x @ x.transpose(1, 2)).clamp(min=0)
    affinity = affinity * (1 - torch.eye(x.shape[1], dtype=x.dtype))
    d, e = affinity.sum(dim=2, keepdim=True), affinity.sum(dim=(1, 2), keepdim=True)
    w = affinity - (d / e) @ (d.transpose(1, 2) / e) * e
    c = (x @ F.normalize(centers, dim=1).T).clamp(min=0).transpose(1, 2)
    delta = torch.tanh(c.unsqueeze(3) @ c.unsqueeze(2) / 0.1).amax(dim=1)
    return -((w / e) @ delta).diagonal(dim1=1, dim2=2).sum(dim=1).mean()


def contrast(
    code: Tensor,
    weight: Tensor,
    bias: Tensor,
    teacher: Tensor,
    codes: Tensor,
    bank: Tensor,
    owners: Tensor,
    codebook: Tensor,
) -> Tensor:
    """Return the contrast with every matrix of anchors × others made and kept, image by image."""
    student, book = F.normalize(code @ weight.T + bias, dim=2), F.normalize(codebook, dim=1)
    own, kept = F.normalize(teacher.flatten(0, 1), dim=1), F.normalize(bank.to(code.dtype), dim=1)
    quantized, kept_codes = book[codes], book[owners]
    n, losses = codes.shape[1], []

    def term(cosines: Tensor, close: Tensor, positive: Tensor) -> Tensor:
        s = cosines / TEMPERATURE
        s = s - s.amax(dim=1, keepdim=True).detach()
        counted = s.exp() * (positive | (close < NEGATIVE))
        return (-s + counted.sum(dim=1, keepdim=True).log())[positive].mean()

    for image in range(len(code)):
        close = quantized[image] @ quantized.flatten(0, 1).T
        positive = close > POSITIVE
        positive[:, image * n : (image + 1) * n].fill_diagonal_(False)
        losses.append(term(student[image] @ own.T, close, positive))
        close = quantized[image] @ kept_codes.T
        losses.append(term(student[image] @ kept.T, close, close > POSITIVE))
    return torch.stack(losses).mean()


def our_contrast(
    code: Tensor,
    weight: Tensor,
    bias: Tensor,
    teacher: Tensor,
    codes: Tensor,
    bank: Tensor,
    owners: Tensor,
    codebook: Tensor,
) -> Tensor:
    """Return the method's own form. The tables of codes are made here, which a run does once."""
    cause, layer = method_module("cause"), SimpleNamespace(weight=weight, bias=bias)
    concepts = cause.Concepts(codebook, POSITIVE, NEGATIVE)
    terms: Tensor = cause.front_door_loss(code, layer, teacher, codes, (bank, owners), concepts)[0]
    return terms.mean()


def centers_and_tokens(count: int, tokens: int, channels: int) -> Draw:
    def draw(images: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(images, tokens, channels, dtype=dtype, generator=generator) + 0.3
        centers = torch.randn(count, channels, dtype=dtype, generator=generator)
        return centers.requires_grad_(), x

    return draw


def step_of_contrast(tokens: int, codes: int, projection: int, each: int) -> Draw:
    """Return a draw of what a step contrasts, with a bank of `each` rows per code, a tenth in float64."""

    def draw(images: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=dtype, generator=generator)

        owners = torch.arange(codes).repeat(each if dtype == torch.float32 else max(1, each // 10))
        bank = F.normalize(normal(len(owners), projection), dim=1)
        layer = normal(projection, 90) / 10, normal(projection) / 10
        return (
            normal(images, tokens, 90).requires_grad_(),
            *(one.requires_grad_() for one in layer),
            normal(images, tokens, projection),
            torch.randint(codes, (images, tokens), generator=generator) // 8,  # an image shows few concepts
            bank.half() if dtype == torch.float32 else bank,
            owners,
            normal(codes, 384),
        )

    return draw


def products(images: int, tokens: int, projection: int, rows: int) -> tuple[float, float]:
    """Return the GFLOP of the contrast's products, ours and in the released shape."""
    anchors, others = images * tokens, rows + images * tokens
    ours = 2 * 91 * others * (2 * projection + 4 * anchors)
    literal = 2 * anchors * others * (2 * projection + 384)
    return ours / 1e9, literal / 1e9


def main() -> None:
    parser = arguments(__doc__, repeats=3)
    parser.add_argument("--each", type=int, default=[5, 25], nargs="+", help="rows of the bank per code")
    parser.add_argument("--images", type=int, default=[4, 16], nargs="+", help="batches of the first phase")
    options = parser.parse_args()
    tokens, codes, projection, images, repeats = 100, 2048, 2048, 16, options.repeats
    if options.small:
        tokens, codes, projection, images, repeats = 9, 16, 32, 4, 1
        options.each, options.images = [2], [4]
    begin(options)
    cause = method_module("cause")
    rows = [
        [
            f"{name}, B = {batch}",
            *compare_losses(
                cause.modularity_loss, modularity, centers_and_tokens(*size), images=batch, repeats=repeats
            ),
        ]
        for batch in options.images
        for name, size in {"codebook": (codes, tokens, 384), "probe": (27, tokens, 90)}.items()
    ]
    rates = []
    for each in options.each:
        draw = step_of_contrast(tokens, codes, projection, each)
        compared = compare_losses(our_contrast, contrast, draw, images=images, repeats=repeats)
        rows.append([f"contrast, B = {images}, R = {each * codes:,}", *compared])
        done = products(images, tokens, projection, each * codes)
        rates.append(f"{done[0]:.0f} GFLOP at {done[0] / compared[0]:.0f} GFLOP/s, ")
        rates[-1] += f"released {done[1]:.0f} at {done[1] / compared[1]:.0f}"
    show("CAUSE, forward and backward", rows, ("loss", *HEADERS), ("", *FORMATS))
    for each, rate in zip(options.each, rates, strict=True):
        print(f"\nproducts of the contrast, R = {each * codes:,}: {rate}")


if __name__ == "__main__":
    main()
