"""An evaluation end to end: its parts one by one, a plain loop over images, and the pipeline.

::

    python benchmarks/evaluation.py [--repeats 3] [--images 24] [--threads N] [--small]

Generated JPEGs of 480 × 640 pixels and label maps in PNG are evaluated under ``stego320@2`` with stored
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
from reference_step import CHANNELS, CPU, Noise
from tabulate import tabulate
from torch import Tensor

from uss_bench.contracts import Batch
from uss_bench.crf import CrfPool, refine
from uss_bench.data.file_datasets import FileLabels
from uss_bench.data.geometry import TransformedImages, resize_center_crop
from uss_bench.data.images import read_label
from uss_bench.evaluation.evaluator import Evaluator
from uss_bench.evaluation.scoring import count
from uss_bench.features.reader import FeatureReader
from uss_bench.features.store import FeatureStore
from uss_bench.protocol import get_protocol
from uss_bench.runtime.cores import whole_cores

PROTOCOL = get_protocol("stego320@2")
CODE, CLASSES = 64, 27
SIDE = PROTOCOL.eval_side


def label_files(folder: Path, ids: Sequence[str]) -> FileLabels:
    """Return label maps of random blocks, 480 × 640, in PNG."""
    rng = np.random.default_rng(1)
    paths = {name: folder / f"{name}.png" for name in ids}
    for path in paths.values():
        blocks = rng.integers(0, CLASSES, (12, 16), dtype=np.uint8).repeat(40, axis=0).repeat(40, axis=1)
        Image.fromarray(blocks).save(path)
    return FileLabels.one_each(paths, lambda path, content: read_label(path, content).astype(np.int16))


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

    def labels(
        self, items: Iterable[tuple[np.ndarray, np.ndarray]], names: Sequence[str] = ()
    ) -> Iterator[np.ndarray]:
        for image, log_probs in items:
            if self.keep:
                self.items.append((image, log_probs))
            yield np.zeros(image.shape[:2], np.uint8)


def evaluator(
    items: TransformedImages, features: FeatureReader, labels: FileLabels, pool: object
) -> Evaluator:
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
        device=CPU,
    )


def busy(work: Callable[[], object]) -> float:
    """Return the seconds of processor time that `work` takes in this process, all threads together."""
    start = time.process_time()
    work()
    return time.process_time() - start


def parts(items: TransformedImages, features: FeatureReader, labels: FileLabels) -> dict[str, float]:
    """Return seconds of processor time per image of each part, done by itself in this process."""
    number = len(items.images)
    keep = NoCrf(keep=True)
    evaluator(items, features, labels, keep).evaluate(Head())
    maps = [logits.argmax(axis=0) for _, logits in keep.items]
    truths = [resize_center_crop(labels.label(index), SIDE, "nearest") for index in range(number)]

    def read() -> None:
        for index in range(number):
            items.scored(index)
            resize_center_crop(labels.label(index), SIDE, "nearest")

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
    items: TransformedImages, features: FeatureReader, labels: FileLabels, repeats: int, total: float
) -> list[list[object]]:
    """Return rows of images per second, with the pool on 1 to all cores."""
    number = len(items.images)
    warm = [(items.scored(0), np.zeros((CLASSES, SIDE, SIDE), np.float32))] * 2
    rows: list[list[object]] = []
    for workers in range(1, whole_cores() + 1):
        with CrfPool(PROTOCOL.crf, workers=workers) as pool:
            subject = evaluator(items, features, labels, pool)
            list(pool.labels(warm))  # compiles
            rate = number / statistics.median(
                seconds(lambda: subject.evaluate(Head()))  # noqa: B023
                for _ in range(repeats)
            )
            rows.append([workers, rate, rate * total, rate * total / whole_cores()])
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
        labels = label_files(Path(folder), photos.ids)
        items = TransformedImages.for_evaluation(photos, PROTOCOL)
        store = FeatureStore(Path(folder) / "features", Noise(), device=CPU, log=lambda message: None)
        features = store.open(items, ["tokens"])
        alone = parts(items, features, labels)
        total = sum(alone.values())
        print(f"{options.images} images under {PROTOCOL.name}, {machine()}\n")
        print("Parts, each by itself, processor time per image:\n")
        shares = [[name, 1e3 * taken, taken / total] for name, taken in (alone | {"sum": total}).items()]
        print(tabulate(shares, ["part", "ms", "share"], floatfmt=("", ".1f", ".2f")))
        print("\nEnd to end; images per second times the sum of the parts tells how many cores work:\n")
        headers = ["CRF threads", "images/s", "cores at work", "of all cores"]
        rows = pipeline(items, features, labels, options.repeats, total)
        print(tabulate(rows, headers, floatfmt=("", ".2f", ".2f", ".2f")))


if __name__ == "__main__":
    main()
