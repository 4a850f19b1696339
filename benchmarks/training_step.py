"""A training step of each method: cached features and our loss, beside a live backbone and N × N matrices.

::

    python benchmarks/training_step.py [--repeats 5] [--threads N] [--small]

The reference step runs a ViT-S/8 on 32 images of 224 pixels, 784 patches each, without a gradient and
with fused attention, and then the literal loss; STEGO's runs it on the 32 nearest neighbors as well. The
weights are random, which costs as much as trained ones. Projector, optimizer, teacher and threads are
the same on both sides. In between stands the literal loss on cached features, so that the cache's share
of the gain and the loss's are seen apart: their product is the whole.
"""

from __future__ import annotations

import functools
import statistics
import tempfile
from pathlib import Path

import timm
import torch
from measuring import arguments, begin, seconds, show
from reference_step import PATCH, Live, RandomViT, step_seconds, stored_noise

from uss_bench.files.atomic import cache_root

METHODS = ("smooseg", "stego", "ds2dl")
HEADERS = ("method", "reference, s", "cache, literal loss, s", "ours, s")
HEADERS += ("by the cache", "by the loss", "times faster", "backbone's share")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--items", type=int, default=512, help="items of the store, 0.6 MB each")
    options = parser.parse_args()
    images, side, blocks, steps, items, repeats = 32, 224, 12, 3, options.items, options.repeats
    if options.small:
        images, side, blocks, steps, items, repeats = 4, 32, 1, 1, 8, 1
    begin(options)

    backbone = RandomViT(side, blocks)
    live = Live(backbone, torch.rand(images, 3, side, side), items)
    cache_root().mkdir(parents=True, exist_ok=True)
    rows = []
    with tempfile.TemporaryDirectory(dir=cache_root()) as folder:  # where stores are, and no memory disk
        cached = stored_noise(Path(folder), items, side)
        for method in METHODS:
            step = functools.partial(step_seconds, method, batch_size=images, steps=steps)
            cases = (
                functools.partial(step, live, literal=True),
                functools.partial(step, cached, literal=True),
                functools.partial(step, cached, literal=False),
                lambda: seconds(lambda: live.batch(range(images))),
            )
            rounds = [[case() for case in cases] for _ in range(repeats)]
            reference, cache, ours, forward = map(statistics.median, zip(*rounds, strict=True))
            forwards = 2 if method == "stego" else 1  # its neighbors go through the backbone as well
            gains = [reference / cache, cache / ours, reference / ours]
            rows.append([method, reference, cache, ours, *gains, forwards * forward / reference])
    title = (
        f"One training step, B = {images}, {side} × {side}, {(side // PATCH) ** 2} patches, random ViT-S/8 "
        f"of {blocks} blocks, timm {timm.__version__}"
    )
    show(title, rows, HEADERS, ("", ".3f", ".3f", ".3f", ".1f", ".1f", ".1f", ".0%"))


if __name__ == "__main__":
    main()
