"""How much better `tinyvit` clusters than the same network with random weights: k-means on toy27 and toy3.

    python benchmarks/tinyvit/measure.py trained-0.safetensors trained-1.safetensors trained-2.safetensors

Every file is one training of `pretrain.py`. As many networks are drawn at random, and `dino` (frozen
features, cosine k-means) runs on all of them under the default protocol, on test scenes that no training
has seen.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from tabulate import tabulate

from uss_bench.backbones.tinyvit.tinyvit import build
from uss_bench.collection import read_entries


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


def score(name: str, weights: Path, dataset: str, out: Path) -> list[float]:
    """Return Acc and mIoU in percent, raw and with CRF."""
    command = ["run", "--method", "dino", "--dataset", dataset, "--backbone", "tinyvit"]
    command += ["--weights", str(weights), "--backbone-name", name, "--out", str(out / name)]
    program = [sys.executable, "-c", "from uss_bench.cli import main; main()"]
    subprocess.run([*program, *command], check=True, stdout=subprocess.DEVNULL)
    [record] = [entry.record for entry in read_entries([out / name / dataset])[0]]
    assert record.last is not None
    assert record.last.crf is not None
    rows = (record.last.raw, record.last.crf)
    return [value or 0.0 for row in rows for value in (row.accuracy, row.miou)]


def table(scores: dict[str, list[float]]) -> str:
    means = {
        kind: [
            statistics.fmean(column)
            for column in zip(*(row for name, row in scores.items() if name.startswith(kind)), strict=True)
        ]
        for kind in ("trained", "random")
    }
    gain = [one - other for one, other in zip(means["trained"], means["random"], strict=True)]
    rows = [[name, *row] for name, row in scores.items()]
    rows += [["mean trained", *means["trained"]], ["mean random", *means["random"]], ["gain", *gain]]
    headers = ["weights", "Acc raw", "mIoU raw", "Acc CRF", "mIoU CRF"]
    return tabulate(rows, headers=headers, floatfmt=".1f")


if __name__ == "__main__":
    main()
