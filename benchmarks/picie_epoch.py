"""An epoch of PiCIE on generated photos: the share of its time that is spent waiting for images.

::

    python benchmarks/picie_epoch.py [--images 300] [--side 320] [--network resnet18] [--threads N] [--small]

Nothing is stored: every pass decodes again, ahead of its use, as with more images than the budget holds.
JPEGs of 480 × 640 pixels, COCO's usual size, are read at 640 × 640 as PiCIE reads them, in all five passes
of an epoch: k-means and labels of each view, and training. What a pass waits for is the time in which it
asks its reader for the next batch; the rest is views, network, k-means and gradients. At most a tenth is
wanted. The share belongs to the machine: a fast GPU beside few cores waits longer.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line; torch reads it when imported

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from measuring import arguments, begin, machine
from PIL import Image
from tabulate import tabulate

from uss_bench.experiment.cells import CellSpec
from uss_bench.experiment.resolving import resolve
from uss_bench.experiment.runner import run_cell
from uss_bench.features.store import FeatureStore
from uss_bench.nn.epochs import DeepClustering, EpochBatches, EpochViews
from uss_bench.nn.label_training import PairTraining
from uss_bench.plugins.registry import Registry

PASSES = ("k-means 1", "k-means 2", "labels 1", "labels 2", "training")


class Waits:
    """Stands for a reader, and counts the seconds that each pass waits for a batch and lasts in all."""

    def __init__(self, items: Any) -> None:
        self._items = items
        self.passes: list[tuple[float, float]] = []

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Any:
        return self._items[index]

    def batches(self, sampler: EpochBatches) -> Iterator[tuple[Sequence[int], Any]]:
        begun, waited, inner = time.perf_counter(), 0.0, self._items.batches(sampler)
        self.passes.append((0.0, 0.0))
        mine = len(self.passes) - 1
        for _ in range(len(sampler)):
            asked = time.perf_counter()
            batch = next(inner)
            waited += time.perf_counter() - asked
            yield batch
            self.passes[mine] = (waited, time.perf_counter() - begun)
        raise AssertionError("a pass asks for one batch too many")


def photos(folder: Path, count: int) -> Path:
    """Write photos of blurred noise, as large as COCO's when compressed, and one to test on."""
    rng = np.random.default_rng(0)
    for split, number in (("train", count), ("val", 1)):
        (folder / "images" / split).mkdir(parents=True)
        for index in range(number):
            coarse = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).resize((640, 480))
            coarse.save(folder / "images" / split / f"{index:04}.jpg", quality=90)
    return folder


def epoch(root: Path, options: argparse.Namespace) -> Waits:
    """Run one epoch on the photos, and return what its passes waited."""
    found: list[Waits] = []
    plain = PairTraining.train_pairs

    def counted(self: PairTraining, ctx: Any, views: EpochViews, code: Any = None) -> None:
        found.append(Waits(views.items))
        plain(self, ctx, EpochViews(found[0], views.grid, views.code), code)

    params = {"network": options.network, "epochs": 1, "clusters": 27}
    params |= {"batch_size": options.batch, "cluster_batch_size": options.batch, "init_batches": 2}
    setup = resolve(
        CellSpec(
            method="picie",
            dataset="folder",
            data={"root": str(root)},
            protocol=f"picie@1[eval_side={options.side}]",
            training={"side": options.side},
            params=params,
        ),
        Registry(),
    )
    cpu, dtype = torch.device("cpu"), setup.feature_dtype
    store = FeatureStore(root / "cache", setup.backbone, device=cpu, dtype=dtype, budget=0)
    with (
        patch.object(PairTraining, "train_pairs", counted),
        patch.object(DeepClustering, "finish", lambda self, *_: self.net.eval()),  # no part of an epoch
        setup.open_crf(workers=1) as pool,
    ):
        run_cell(setup, 0, store=store, pool=pool, out=root / "out", crf_engine="lattice")
    return found[0]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument(
        "--side", type=int, default=320, help="what the network sees; images have twice as much"
    )
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    if options.small:
        options.images, options.side, options.network, options.batch = 6, 64, "test_resnet", 3
    begin(options)
    with tempfile.TemporaryDirectory() as folder:
        passes = epoch(photos(Path(folder), options.images), options).passes
    rows = [
        (name, whole, waited, f"{100 * waited / whole:.1f} %")
        for name, (waited, whole) in zip(PASSES, passes, strict=True)
    ]
    waited, whole = (sum(one[part] for one in passes) for part in (0, 1))
    rows.append(("epoch", whole, waited, f"{100 * waited / whole:.1f} %"))
    print(f"{options.images} photos, {options.network} at {options.side} pixels, {machine()}")
    print(tabulate(rows, headers=("pass", "s", "waiting, s", "share"), floatfmt=".2f"))


if __name__ == "__main__":
    main()
