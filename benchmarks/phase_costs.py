"""What each phase of a run costs on this machine: the rows that ``run --dry-run`` estimates from.

::

    python benchmarks/phase_costs.py --backbone dino_vits8 [--write] [--small]

Runs the methods on a few generated scenes (toy27, K = 27, and toy3, K = 3, for the CRF's sake) through the
ordinary runner, for a few steps, and prints what the phases of their records took. The ViTs have random
weights, which cost as much as trained ones; `tinyvit` has its own. With ``--write`` the rows replace those of
that backbone in `uss_bench/estimate/costs.csv`: use an idle machine. ``--records DIR`` writes the rows of the
records below DIR there instead, in place of all but those of the three ViTs.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from measuring import arguments, machine
from safetensors.torch import save_file
from tabulate import tabulate

from uss_bench.data.subset import limited, limited_labels
from uss_bench.estimate.costs import TABLE, Cost, cost_of, installed_costs, measured_costs, table_text
from uss_bench.experiment.cells import CellSpec
from uss_bench.experiment.data_in_use import data_fingerprint
from uss_bench.experiment.resolving import resolve
from uss_bench.experiment.runner import run_cell
from uss_bench.experiment.setup import Setup
from uss_bench.plugins.registry import Registry
from uss_bench.runtime import progress

NETWORKS = {"dino_vits8": "vit_small_patch8_224", "dino_vitb8": "vit_base_patch8_224"} | {
    "dinov2_vitb14": "vit_base_patch14_dinov2"
}
BACKBONES = ("tinyvit", *NETWORKS)
PUBLISHED = {"dino": 32, "smooseg": 32, "stego": 16, "ds2dl": 32}
"""Images per step. A row holds for one batch size only."""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--backbone", choices=BACKBONES, default="tinyvit")
    parser.add_argument("--write", action="store_true", help="put the rows into the installed table")
    parser.add_argument("--records", type=Path, metavar="DIR", help="take the rows from records")
    options = parser.parse_args()
    if options.records:
        kept = [cost for cost in installed_costs() if cost.backbone in NETWORKS]
        TABLE.write_text(table_text([*kept, *measured_costs([options.records])]), encoding="utf-8")
        return
    torch.set_num_threads(options.threads)
    progress.set_quiet(True)
    before = os.getloadavg()[0]
    sizes = {"train": 4, "test": 2, "steps": 1} if options.small else {"train": 32, "test": 8, "steps": 10}
    with tempfile.TemporaryDirectory() as folder:
        costs = measure(options.backbone, Path(folder), **sizes)
    print(
        f"{options.backbone}, {sizes['train']} training and {sizes['test']} test scenes, {machine()}, "
        f"load {before:.1f} before\n"
    )
    print(tabulate([row(cost) for cost in costs], headers=HEADERS, floatfmt=".3f"))
    if options.write:
        others = [cost for cost in installed_costs() if cost.backbone != options.backbone]
        TABLE.write_text(table_text([*others, *costs]), encoding="utf-8")


HEADERS = ("method", "dataset", "batch", "extract, s/item", "train, s/step")
HEADERS += ("candidates, ms/image", "evaluate, s/image", "monitor, ms/state")


def row(cost: Cost) -> tuple[Any, ...]:
    """Return a run's costs per unit of its work; items that were stored before cost nothing."""
    return (
        *(cost.method, cost.dataset, cost.batch_size),
        cost.extract / cost.encoded if cost.encoded else None,
        cost.train / (cost.steps or 1),
        1000 * cost.choose / (cost.images * cost.candidates) if cost.candidates else None,
        cost.evaluate / cost.images,
        1000 * cost.monitor / cost.points if cost.points else None,
    )


def measure(backbone: str, folder: Path, *, train: int, test: int, steps: int) -> list[Cost]:
    """Run every method on a few scenes and return what the runs cost.

    Args:
        folder: for weights, features and records.
        train, test: numbers of images.
    """
    weights = None
    if backbone in NETWORKS:
        weights = str(folder / "random.safetensors")
        save_file(timm.create_model(NETWORKS[backbone], num_classes=0).state_dict(), weights)
    registry = Registry()

    def setup(method: str, dataset: str, **params: Any) -> Setup:
        own: dict[str, Any] = {"backbone": backbone, "weights": weights, "params": params} if params else {}
        return few(resolve(CellSpec(method=method, dataset=dataset, **own), registry), train, test)

    plan = [(method, "toy27", batch) for method, batch in PUBLISHED.items()]
    if backbone == "tinyvit":  # what the toy presets use, and K = 3, whose CRF is alike for all backbones
        plan += [("dino", "toy3", PUBLISHED["dino"]), ("ds2dl", "toy27", 16), ("smooseg", "toy3", 32)]
        plan += [(floor, dataset, 0) for floor in ("constant", "random") for dataset in ("toy27", "toy3")]
    first = setup("dino", "toy27", steps=1)
    store = first.open_store(torch.device("cpu"), root=folder / "features")
    costs = []
    with first.open_crf() as pool:
        common: dict[str, Any] = {"store": store, "pool": pool, "crf_engine": "lattice"}
        run_cell(few(first, 2, 2), 0, out=folder / "warm", **common)  # builds the backbone, compiles the CRF
        for number, (method, dataset, batch) in enumerate(plan):
            length = 10 * steps if method == "dino" else steps
            params = {"steps": length, "batch_size": batch, "checkpoint_every": max(length // 2, 1)}
            one = setup(method, dataset, **params if batch else {})
            outcome = run_cell(one, 0, out=folder / str(number), **common)
            cost = cost_of(outcome.record, outcome.path)
            assert cost is not None
            costs.append(cost)
    return costs


def few(setup: Setup, train: int, test: int) -> Setup:
    """Return a setup that trains and tests on a few evenly spaced images."""
    assert setup.test_labels is not None
    images = limited(setup.train_images, train), limited(setup.test_images, test)
    labels = limited_labels(setup.test_labels, test)
    return replace(
        setup,
        train_images=images[0],
        test_images=images[1],
        test_labels=labels,
        limit=train,
        fingerprint=data_fingerprint(setup.dataset, *images, labels),
    )


if __name__ == "__main__":
    main()
