"""A training step of HP beside the shape of its released code: time and memory, and how they grow.

::

    python benchmarks/hp_step.py [--batches 2 4 8 16] [--repeats 3] [--threads N] [--small]

The released step passes each image and its jittered view through a ViT-S/8, mixes codes by whole maps of
attention, and makes some twenty matrices of an image's patches against all of the batch, many of which the
backward pass needs. Ours reads stored features and nine weights per patch, passes the jittered view, and
takes the pairs in tiles. Both multiply the same matrices, and that grows with the square of the batch:
*products* is their arithmetic, and *rate* how much of it ours does a second, beside what one large product
reaches here. Head, optimizer and threads are the same on both sides; weights and images are random, and both
kinds of positives count.
"""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import literal_hp
import torch
from measuring import arguments, begin, in_turns, method_module, peak_bytes, peak_rate, show
from reference_step import CHANNELS, PATCH, RandomViT

HEADERS = ("B", "ours, s", "literal, s", "times faster", "products, GFLOP", "rate, GFLOP/s")
HEADERS += ("ours, MB", "literal, MB", "times less")
POOL = 2048


def steps(backbone: RandomViT, images: torch.Tensor, dim: int) -> dict[str, Callable[[], None]]:
    """Return our step and the literal one on the same images."""
    hp = method_module("hp")
    torch.manual_seed(0)
    method = hp.HP(clusters=27, dim=dim)
    method.net = hp.Net(CHANNELS, dim, 27, method.dropout).train()
    projection = torch.nn.Linear(dim, dim)
    optimizer = torch.optim.AdamW([*method.net.head.parameters(), *projection.parameters()])
    stored = backbone(images, ["tokens"])["tokens"]
    weights = torch.rand(len(images), 9, *stored.shape[2:])
    pools = tuple(torch.nn.functional.normalize(torch.randn(POOL, size), dim=1) for size in (CHANNELS, dim))

    def learn(f: torch.Tensor) -> None:
        terms = method.losses(
            f,
            weights=weights,
            other=backbone(images, ["tokens"])["tokens"],
            pools=pools,
            projection=projection,
            specific_weight=0.5,
            draws=torch.Generator().manual_seed(0),
        )
        optimizer.zero_grad(set_to_none=True)
        (terms["contrast"] + method.consistency * terms["consistency"]).backward()
        optimizer.step()

    def literal() -> None:
        with (
            patch.object(hp, "hidden_positive_loss", literal_hp.hidden_positive_loss),
            patch.object(hp, "propagated", literal_hp.propagated),
        ):
            learn(backbone(images, ["tokens"])["tokens"])

    return {"ours": lambda: learn(stored), "literal": literal}


def products(images: int, patches: int, dim: int) -> float:
    """Return GFLOP of a step's products over pairs: two cosines, and three for either code."""
    return 2 * (images * patches) ** 2 * (CHANNELS + dim + 6 * dim) / 1e9


def main() -> None:
    parser = arguments(__doc__, repeats=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[2, 4, 8, 16], help="images per batch")
    options = parser.parse_args()
    side, blocks, dim, batches, repeats = 224, 12, 512, options.batches, options.repeats
    if options.small:
        side, blocks, dim, batches, repeats = 32, 1, 16, [2, 4], 1
    begin(options)
    backbone, rows = RandomViT(side, blocks), []
    best = peak_rate(dim)
    for images in batches:
        works = steps(backbone, torch.rand(images, 3, side, side), dim)
        taken = in_turns(works, repeats)
        held = {name: peak_bytes(work) / 1e6 for name, work in works.items()}
        flop = products(images, (side // PATCH) ** 2, dim)
        gain, less = taken["literal"] / taken["ours"], held["literal"] / held["ours"]
        rows.append([images, *taken.values(), gain, flop, flop / taken["ours"], *held.values(), less])
    title = (
        f"One training step of HP, {side} × {side}, {(side // PATCH) ** 2} patches, d = {dim}, "
        f"random ViT-S/8; one large product {best:.0f} GFLOP/s"
    )
    show(title, rows, HEADERS, ("", ".2f", ".2f", ".1f", ".0f", ".0f", ".0f", ".0f", ".1f"))


if __name__ == "__main__":
    main()
