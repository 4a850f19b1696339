"""An evaluation end to end: its parts one by one, a plain loop over images, and the pipeline.

::

    python benchmarks/evaluation.py [--repeats 3] [--images 24] [--threads N] [--small]

Generated JPEGs of 480 × 640 pixels and label maps in PNG are evaluated under ``stego320@1`` with stored
features of a ViT-S/8's shape (384 × 40 × 40, of image and mirror image), a head of 64 channels and 27
clusters. Nothing but the time is of interest: features and labels are drawn at random.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line; torch reads it when imported

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from feature_store import Photos
from measuring import arguments, machine, seconds
from PIL import Image
from tabulate import tabulate
from torch import Tensor

from uss_bench.contracts import Batch
from uss_bench.cores import whole_cores
from uss_bench.crf import CrfPool, refine
from uss_bench.evaluation import Evaluator
from uss_bench.geometry import Items, label_square
from uss_bench.images import read_label
from uss_bench.protocol import get_protocol
from uss_bench.scoring import count

PROTOCOL = get_protocol("stego320@1")
CHANNELS, CODE, CLASSES, PATCH = 384, 64, 27, 8
SIDE = PROTOCOL.eval_side


class LabelFiles:
    """Label maps of random blocks, 480 × 640, in PNG."""

    def __init__(self, folder: Path, ids: Sequence[str]) -> None:
        self.ids = list(ids)
        self._folder = folder
        rng = np.random.default_rng(1)
        for name in self.ids:
            blocks = rng.integers(0, CLASSES, (12, 16), dtype=np.uint8).repeat(40, axis=0).repeat(40, axis=1)
            Image.fromarray(blocks).save(folder / f"{name}.png")

    def __len__(self) -> int:
        return len(self.ids)

    def label(self, index: int) -> np.ndarray:
        return read_label(self._folder / f"{self.ids[index]}.png").astype(np.int16)

    def fingerprint(self) -> str:
        return "labels"


class Tokens:
    """Features by index, float16 in a memory map as the feature store keeps them."""

    facets = ("tokens",)

    def __init__(self, path: Path, items: int) -> None:
        cells = SIDE // PATCH
        shape = (items, CHANNELS, cells, cells)
        self._map = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
        rng = np.random.default_rng(2)
        for index in range(items):
            self._map[index] = rng.standard_normal(shape[1:], dtype=np.float32)

    def __len__(self) -> int:
        return len(self._map)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"tokens": self.batch([index])["tokens"][0]}

    def batch(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        return {"tokens": torch.from_numpy(np.stack([self._map[int(one)] for one in indices])).float()}

    def moments(self, facet: str) -> tuple[Tensor, Tensor]:
        return torch.zeros(CHANNELS), torch.ones(CHANNELS)

    def source(self, index: int) -> tuple[int, int]:
        return index, 0


class Head:
    """A projection with one hidden layer, and cosines with prototypes."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.hidden = torch.randn(CHANNELS, CHANNELS, 1, 1, generator=generator) / CHANNELS**0.5
        self.out = torch.randn(CODE, CHANNELS, 1, 1, generator=generator) / CHANNELS**0.5
        self.prototypes = F.normalize(torch.randn(CLASSES, CODE, generator=generator))[:, :, None, None]

    def embed(self, batch: Batch) -> Tensor:
        return F.conv2d(F.conv2d(batch["tokens"], self.hidden).relu(), self.out)

    def classify(self, code: Tensor) -> Tensor:
        return F.conv2d(F.normalize(code), self.prototypes)


class NoCrf:
    """A pool that refines nothing, to time what comes before; it may keep what it was asked to refine."""

    def __init__(self, *, keep: bool) -> None:
        self.keep = keep
        self.items: list[tuple[np.ndarray, np.ndarray]] = []

    def labels(self, items: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[np.ndarray]:
        for image, log_probs in items:
            if self.keep:
                self.items.append((image, log_probs))
            yield np.zeros(image.shape[:2], np.uint8)


def evaluator(items: Items, features: Tokens, labels: LabelFiles, pool: object) -> Evaluator:
    return Evaluator(
        method_name="head",
        inputs=["tokens"],
        items=items,
        features=features,
        labels=labels,
        n_classes=CLASSES,
        protocol=PROTOCOL,
        alpha=3.0,
        pool=pool,  # type: ignore[arg-type]
        device=torch.device("cpu"),
    )


def busy(work: Callable[[], object]) -> float:
    """Return the seconds of processor time that `work` takes in this process, all threads together."""
    start = time.process_time()
    work()
    return time.process_time() - start


def parts(items: Items, features: Tokens, labels: LabelFiles) -> dict[str, float]:
    """Return seconds of processor time per image of each part, done by itself in this process."""
    number = len(items.images)
    keep = NoCrf(keep=True)
    evaluator(items, features, labels, keep).evaluate(Head())
    maps = [logits.argmax(axis=0) for _, logits in keep.items]
    truths = [label_square(labels.label(index), SIDE) for index in range(number)]

    def read() -> None:
        for index in range(number):
            items.scored(index)
            label_square(labels.label(index), SIDE)

    def refine_all() -> None:
        for image, logits in keep.items:
            refine(image, logits, PROTOCOL.crf).argmax(axis=0)

    def count_all() -> None:
        for found, truth in zip(maps, truths, strict=True):
            count(found, truth, CLASSES, CLASSES)
            count(found, truth, CLASSES, CLASSES)

    refine(*keep.items[0])  # compiles
    reading, counting = busy(read), busy(count_all)
    before = busy(lambda: evaluator(items, features, labels, NoCrf(keep=False)).evaluate(Head()))
    taken = {
        "decode and resize": reading,
        "predict, to log-probabilities": before - reading - counting,
        "dense CRF": busy(refine_all),
        "count": counting,
    }
    return {name: value / number for name, value in taken.items()}


def pipeline(
    items: Items, features: Tokens, labels: LabelFiles, repeats: int, total: float
) -> list[list[object]]:
    """Return rows of images per second: a plain loop in this process, then the pool on 1 to all cores."""
    number = len(items.images)
    warm = [(items.scored(0), np.zeros((CLASSES, SIDE, SIDE), np.float32))] * 2
    rows: list[list[object]] = []
    for workers in range(1, whole_cores() + 1):
        with CrfPool(PROTOCOL.crf, workers=workers) as pool:
            subject = evaluator(items, features, labels, pool)
            list(pool.labels(warm * workers))  # starts the processes
            rate = number / statistics.median(
                seconds(lambda: subject.evaluate(Head()))  # noqa: B023
                for _ in range(repeats)
            )
            name = "one process" if workers == 1 else f"{workers} CRF processes beside it"
            rows.append([name, rate, rate * total, rate * total / whole_cores(), pool.fallbacks])
    return rows


def main() -> None:
    parser = arguments(__doc__, repeats=3)
    parser.add_argument("--images", type=int, default=24, help="images that are evaluated")
    options = parser.parse_args()
    if options.small:
        options.repeats, options.images = 1, 3
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        photos = Photos(Path(folder) / "photos", options.images)
        labels = LabelFiles(Path(folder), photos.ids)
        items = Items.for_evaluation(photos, PROTOCOL)
        features = Tokens(Path(folder) / "tokens.npy", len(items))
        alone = parts(items, features, labels)
        total = sum(alone.values())
        print(f"{options.images} images under {PROTOCOL.name}, {machine()}\n")
        print("Parts, each by itself, processor time per image:\n")
        shares = [[name, 1e3 * taken, taken / total] for name, taken in (alone | {"sum": total}).items()]
        print(tabulate(shares, ["part", "ms", "share"], floatfmt=("", ".1f", ".2f")))
        print("\nEnd to end; images per second times the sum of the parts tells how many cores work:\n")
        headers = ["how", "images/s", "cores at work", "of all cores", "fallbacks"]
        rows = pipeline(items, features, labels, options.repeats, total)
        print(tabulate(rows, headers, floatfmt=("", ".2f", ".2f", ".2f", "")))


if __name__ == "__main__":
    main()
