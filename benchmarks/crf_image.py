"""What the lineage's image changes: its CRF sees BGR, after a round trip that truncates values.

::

    python benchmarks/crf_image.py [--images 60] [--small]

Cosine k-means (`dino`) is trained on frozen features once per data set. Its test images are then evaluated
with each setting of ``crf.channels`` and ``crf.truncate``, and the label maps are compared with the first.
CamVid is read from ``../shared/data`` with the ViT-S/14 that lies there, where they exist.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from tabulate import tabulate

from uss_bench.crf import CrfParams, CrfPool
from uss_bench.evaluation.scoring import score_under
from uss_bench.experiment.cells import CellSpec
from uss_bench.experiment.evaluating import make_evaluator
from uss_bench.experiment.resolving import resolve
from uss_bench.plugins.registry import Registry
from uss_bench.runtime import progress
from uss_bench.runtime.seeding import seed_everything
from uss_bench.training.clock import Clock
from uss_bench.training.context import RunContext

SHARED = Path(__file__).parents[2] / "shared" / "data"
WEIGHTS = SHARED / "weights" / "vit_small_patch14_dinov2.imgfocus.safetensors"
VARIANTS = [(channels, truncate) for truncate in (False, True) for channels in ("rgb", "bgr")]
HEADERS = ["data", "images", "K", "channels", "truncate", "other labels", "Acc", "mIoU", "Δ mIoU"]


class KeepingPool(CrfPool):
    """A pool that keeps the label maps which it hands out."""

    def labels(self, *arguments: Any) -> Iterator[np.ndarray]:
        self.maps: list[np.ndarray] = []
        for labels in super().labels(*arguments):
            self.maps.append(labels)
            yield labels


def compare(asked: CellSpec, scratch: Path) -> list[list[object]]:
    """Return a row per variant."""
    setup = resolve(asked, Registry())
    store = setup.open_store(torch.device("cpu"), root=scratch / "features")
    seed_everything(0)
    method, clock = setup.make_method(), Clock()
    items = setup.training_items()
    context = RunContext(method=method, items=items, store=store, seed=0, scratch=scratch, clock=clock)
    method.train(setup.train_images, context)
    first: list[np.ndarray] = []
    rows: list[list[object]] = []
    for channels, truncate in VARIANTS:
        params = msgspec.structs.replace(
            setup.protocol.crf or CrfParams(), channels=channels, truncate=truncate
        )
        with KeepingPool(params) as pool:
            evaluator = make_evaluator(setup, store, pool, clock)
            evaluation = evaluator.evaluate(method)
        assert evaluation.crf is not None
        first = first or pool.maps
        other = np.mean([(one != before).mean() for one, before in zip(pool.maps, first, strict=True)])
        scores = score_under(evaluation.crf.sum(axis=0), setup.protocol)
        accuracy, miou = 100 * scores.accuracy, 100 * scores.miou
        difference = miou - rows[0][7] if rows else 0.0  # type: ignore[operator]
        setting = [channels, "yes" if truncate else "no"]
        found = [f"{other:.2%}", accuracy, miou, difference]
        rows.append([asked.dataset, len(pool.maps), evaluation.clusters, *setting, *found])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=60, help="images of each split")
    parser.add_argument("--small", action="store_true", help="two images of toy3: does it run at all")
    options = parser.parse_args()
    progress.set_quiet(True)
    limit = 2 if options.small else options.images
    cells = [CellSpec(method="dino", dataset="toy3", backbone="tinyvit", limit=limit)]
    if WEIGHTS.exists() and not options.small:
        vit = {"backbone": "dinov2_vits14", "weights": str(WEIGHTS), "backbone_name": "dinov2s14-imgfocus"}
        data = {"root": str(SHARED / "camvid"), "classes": "camvid"}
        cells.append(CellSpec(method="dino", dataset="folder", data=data, limit=limit, **vit))
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for number, cell in enumerate(cells) for row in compare(cell, Path(folder, str(number)))]
    print(tabulate(rows, HEADERS, floatfmt=("", "", "", "", "", "", ".2f", ".2f", "+.2f")))


if __name__ == "__main__":
    main()
