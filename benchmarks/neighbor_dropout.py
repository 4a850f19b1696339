"""What dropout does to STEGO's table of neighbors, and to what is trained with it.

::

    python benchmarks/neighbor_dropout.py [--images 400] [--steps 500] [--seeds 3] [--only camvid] [--small]

STEGO's released code makes the table from features of which every item has lost a tenth of the channels.
The first columns say how much of the ranks 1 to 7, from which positives are drawn, is in both tables. The
scores are those of STEGO trained with either (`neighbor_dropout`), evaluated without a CRF. CamVid, Dubai and
COCO are read from ``../shared/data`` with the ViT-S/14 that lies there, where they exist.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate

from uss_bench.evaluation.scoring import score_under
from uss_bench.experiment.cells import CellSpec
from uss_bench.experiment.evaluating import make_evaluator
from uss_bench.experiment.resolving import resolve
from uss_bench.experiment.setup import Setup
from uss_bench.features.store import FeatureStore
from uss_bench.nn.knn import knn_table
from uss_bench.plugins.registry import Registry
from uss_bench.runtime import progress
from uss_bench.runtime.seeding import seed_everything
from uss_bench.training.clock import Clock
from uss_bench.training.context import RunContext

SHARED = Path(__file__).parents[2] / "shared" / "data"
WEIGHTS = SHARED / "weights" / "vit_small_patch14_dinov2.imgfocus.safetensors"
COUNT, RANKS, DROPOUT = 30, 7, 0.1
"""Of the released configuration: neighbors in the table, ranks that positives come from, dropout."""
HEADERS = ["data", "items", "features", "ranks 1-7 in both", "Acc clean", "dropped", "mIoU clean", "dropped"]


def overlap(table: np.ndarray, other: np.ndarray) -> float:
    """Return the mean share of the ranks 1 to 7 of `table` that are among those of `other`."""
    ranks = slice(1, 1 + min(RANKS, table.shape[1] - 1))
    return float(np.mean([np.isin(a[ranks], b[ranks]).mean() for a, b in zip(table, other, strict=True)]))


def trained_scores(setup: Setup, store: FeatureStore, scratch: Path, seed: int) -> tuple[float, float]:
    """Return accuracy and mIoU of one training, without the CRF."""
    seed_everything(seed)
    method, clock, items = setup.make_method(), Clock(), setup.training_items()
    context = RunContext(method=method, items=items, store=store, seed=seed, scratch=scratch, clock=clock)
    method.train(setup.train_images, context)
    evaluation = make_evaluator(setup, store, None, clock).evaluate(method)
    found = score_under(evaluation.raw.sum(axis=0), setup.protocol)
    return 100 * found.accuracy, 100 * found.miou


def compare(
    cell: dict[str, object], standardize: bool, steps: int, seeds: int, scratch: Path
) -> list[object]:
    """Return a row for features as they are, or for standardized ones."""
    scores: dict[bool, list[tuple[float, float]]] = {}
    for dropped in (False, True):
        params = {"standardize": standardize, "neighbor_dropout": dropped, "steps": steps}
        setup = resolve(CellSpec(method="stego", params=params, **cell), Registry())  # type: ignore[arg-type]
        store = setup.open_store(torch.device("cpu"), root=scratch / "features")
        scores[dropped] = []
        for seed in range(seeds):
            folder = scratch / f"{standardize}-{dropped}-{seed}"
            folder.mkdir()
            scores[dropped].append(trained_scores(setup, store, folder, seed))
    items = setup.training_items()
    features = store.open(items, ("tokens",))
    tables = [
        knn_table(features, count=COUNT, standardize=standardize, dropout=dropout)["neighbors"]
        for dropout in (0.0, DROPOUT)
    ]
    row: list[object] = [len(items), "standardized" if standardize else "raw", f"{overlap(*tables):.1%}"]
    for which in (0, 1) if seeds else ():
        for dropped in (False, True):
            values = [one[which] for one in scores[dropped]]
            row.append(f"{np.mean(values):.1f} ± {np.std(values):.1f}")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=400, help="at most, of each split")
    parser.add_argument("--steps", type=int, default=500, help="of each training")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind; 0 for tables alone")
    parser.add_argument("--only", choices=("toy3", "camvid", "dubai", "coco"), help="one data set")
    parser.add_argument("--small", action="store_true", help="a few images of toy3: does it run at all")
    options = parser.parse_args()
    progress.set_quiet(True)
    images, steps, seeds = (12, 3, 1) if options.small else (options.images, options.steps, options.seeds)
    cells: dict[str, dict[str, object]] = {
        "toy3": {"dataset": "toy3", "backbone": "tinyvit", "limit": images}
    }
    if WEIGHTS.exists() and not options.small:
        vit = {"backbone": "dinov2_vits14", "weights": str(WEIGHTS), "backbone_name": "dinov2s14-imgfocus"}
        for name in ("camvid", "dubai"):
            data = {"root": str(SHARED / name), "classes": name}
            cells[name] = {"dataset": "folder", "data": data, "limit": images, **vit}
        coco = {"root": str(SHARED / "coco"), "lists": "none"}
        cells["coco"] = {"dataset": "cocostuff27", "data": coco, "limit": images, **vit}
    rows = []
    for name, cell in cells.items():
        if options.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                for standardize in (False, True):
                    found = compare(cell, standardize, steps, seeds, Path(folder))
                    rows.append([name, *found])
                    print(f"{name}: {found}", file=sys.stderr, flush=True)
    print(tabulate(rows, HEADERS, disable_numparse=True))


if __name__ == "__main__":
    main()
