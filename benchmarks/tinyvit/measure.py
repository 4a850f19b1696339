"""How much better `tinyvit` clusters than the same network with random weights: k-means on toy27 and toy3.

    python benchmarks/tinyvit/measure.py trained-0.safetensors trained-1.safetensors trained-2.safetensors

Every file is one training of `pretrain.py`; as many networks are drawn at random. `dino` (frozen features,
cosine k-means on the train split) labels the test split, which no training has seen, with three seeds each.
Scores are raw, unflipped and at patch resolution, as the candidates of a run are: no CRF.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from tabulate import tabulate

from uss_bench.backbones.tinyvit.tinyvit import build
from uss_bench.evaluation.scoring import score_under
from uss_bench.experiment.cells import CellSpec
from uss_bench.experiment.evaluating import make_evaluator
from uss_bench.experiment.resolving import resolve
from uss_bench.features.store import FeatureStore
from uss_bench.plugins.registry import Registry
from uss_bench.runtime.seeding import seed_everything
from uss_bench.training.clock import Clock
from uss_bench.training.context import RunContext

SEEDS = range(3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("trained", type=Path, nargs="+")
    parser.add_argument("--datasets", default="toy27,toy3")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        networks = {f"trained-{number}": path for number, path in enumerate(options.trained)}
        for number in range(len(options.trained)):
            networks[f"random-{number}"] = random_network(number, Path(scratch))
        for dataset in options.datasets.split(","):
            scores = {name: score(name, path, dataset, Path(scratch)) for name, path in networks.items()}
            print(f"\n{dataset}\n{table(scores)}", flush=True)


def random_network(seed: int, folder: Path) -> Path:
    torch.manual_seed(seed)
    path = folder / f"random-{seed}.safetensors"
    save_file(build().state_dict(), path)
    return path


def score(name: str, weights: Path, dataset: str, scratch: Path) -> tuple[float, float]:
    """Return Acc and mIoU in percent, means over the seeds of k-means."""
    asked = CellSpec(
        method="dino", dataset=dataset, backbone="tinyvit", weights=str(weights), backbone_name=name
    )
    setup = resolve(asked, Registry())
    device = torch.device("cpu")
    store = FeatureStore(scratch / "features", setup.backbone, device=device)
    items = setup.training_items()
    with setup.open_crf(workers=1) as pool:
        evaluator = make_evaluator(setup, store, pool, Clock())
        methods = []
        for seed in SEEDS:
            seed_everything(seed)
            method = setup.make_method()
            context = RunContext(
                method=method,
                items=items,
                store=store,
                seed=seed,
                scratch=scratch,
                code=setup.code,
                clock=Clock(),
            )
            method.train(setup.train_images, context)
            methods.append(method)
        found = [score_under(counts, setup.protocol) for counts in evaluator.patch_counts(methods)]
    return (
        100 * statistics.fmean(one.accuracy for one in found),
        100 * statistics.fmean(one.miou for one in found),
    )


def table(scores: dict[str, tuple[float, float]]) -> str:
    def mean(kind: str) -> list[float]:
        rows = [row for name, row in scores.items() if name.startswith(kind)]
        return [statistics.fmean(column) for column in zip(*rows, strict=True)]

    trained, random = mean("trained"), mean("random")
    rows = [[name, *row] for name, row in scores.items()]
    rows += [["mean trained", *trained], ["mean random", *random]]
    rows += [["gain", *(one - other for one, other in zip(trained, random, strict=True))]]
    return tabulate(rows, headers=["weights", "Acc", "mIoU"], floatfmt=".1f")


if __name__ == "__main__":
    main()
