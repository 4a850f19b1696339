"""Training from streamed features: how much of the bare forward pass is left of the backbone's rate.

::

    python benchmarks/streaming.py [--repeats 3] [--threads N] [--batch 8] [--batches 8] [--small]

Crops of generated photographs, five of each, go through a ViT-S/8 with random weights as a method's batches
do; beside it the same network runs on batches that lie in memory. JPEGs of 480 × 640 pixels are as COCO's,
PNGs of 1024 × 2048 as those of Cityscapes. *each time* decodes every crop when it is needed, as the first
epoch does; *kept* finds it among those that were decoded before. Reading ahead is settled before the clock
starts, and the processor's clock stops when it is settled again, so that every batch that is taken pays for
the decoding of one. The first ratio is of processor time; the second, of the time that passed, also counts
who waits for whom, and suffers from whatever else the machine does.
"""

from __future__ import annotations

import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from measuring import arguments, begin, show
from PIL import Image
from reference_step import CPU, PATCH, RandomViT
from scipy import ndimage

from uss_bench.data.geometry import TransformedImages
from uss_bench.data.images import read_image
from uss_bench.data.prefetch import BATCHES_AHEAD
from uss_bench.features.reader import FeatureReader
from uss_bench.features.store import FeatureStore
from uss_bench.files.atomic import cache_root
from uss_bench.nn.batches import ShuffledBatches

CASES = (
    ("JPEG", (480, 640), "each time"),
    ("JPEG", (480, 640), "kept"),
    ("PNG", (1024, 2048), "each time"),
    ("PNG", (1024, 2048), "kept"),
)
HEADERS = ("photographs", "decoded", "images/s", "forward alone", "ratio of processor time", "ratio of time")


class Photos:
    """Generated photographs, smooth with grain, each shifted against the one before."""

    def __init__(self, folder: Path, count: int, size: tuple[int, int], kind: str) -> None:
        self.ids = [f"{index:04d}" for index in range(count)]
        self._folder, self._kind = folder, kind.lower()
        folder.mkdir()
        rng = np.random.default_rng(0)
        field = ndimage.gaussian_filter(rng.standard_normal((*size, 3)), sigma=(20, 20, 0))
        noisy = 128 + 60 * field / field.std() + 3 * rng.standard_normal(field.shape)
        pixels = np.clip(noisy, 0, 255).astype(np.uint8)
        for index, name in enumerate(self.ids):
            Image.fromarray(np.roll(pixels, 37 * index, axis=1)).save(self._path(name), compress_level=3)

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> np.ndarray:
        return read_image(self._path(self.ids[index]))

    def aux(self, index: int) -> Mapping[str, np.ndarray]:
        return {}

    def fingerprint(self) -> str:
        return hashlib.sha256(str(self._folder).encode()).hexdigest()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.{self._kind}"


def settle() -> None:
    """Wait until no thread of this process does anything."""
    busy = time.process_time()
    while True:
        time.sleep(0.3)
        if time.process_time() - busy < 0.005:
            return
        busy = time.process_time()


def timed(work: Callable[[], object], count: int) -> tuple[float, float]:
    """Return seconds of processor time, and those that passed, of `count` times the work."""
    start = time.process_time(), time.perf_counter()
    for _ in range(count):
        work()
    return time.process_time() - start[0], time.perf_counter() - start[1]


def case(reader: FeatureReader, backbone: RandomViT, batch: int, count: int, repeats: int) -> list[float]:
    """Return images/s streamed and of the forward alone, and both ratios."""
    squares = torch.rand(batch, 3, *reader.items.size)
    streamed, alone = [], []
    for seed in range(repeats):
        sampler = ShuffledBatches(len(reader), batch, torch.Generator().manual_seed(seed))
        batches = reader.batches(sampler)
        next(batches)
        settle()
        alone.append(timed(lambda: backbone(squares, ["tokens"]), count))
        before = time.process_time()
        _, passed = timed(lambda: next(batches), count)  # noqa: B023
        settle()
        streamed.append((time.process_time() - before, passed))
    ratios = [
        statistics.median(one[clock] / other[clock] for one, other in zip(alone, streamed, strict=True))
        for clock in (0, 1)
    ]
    rates = [batch * count / statistics.median(taken for _, taken in each) for each in (streamed, alone)]
    return [*rates, *ratios]


def main() -> None:
    parser = arguments(__doc__, repeats=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--batches", type=int, default=8, help="batches in each round: a multiple of 4")
    options = parser.parse_args()
    side, blocks, cases, batch, count, repeats = (
        224,
        12,
        CASES,
        options.batch,
        options.batches,
        options.repeats,
    )
    if options.small:
        side, blocks, cases, batch, count, repeats = 32, 1, CASES[:2], 2, 1, 1
    begin(options)
    backbone = RandomViT(side, blocks)
    photos = -(-batch * (2 * BATCHES_AHEAD + count) // 5)
    rows = []
    cache_root().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_root()) as name:
        for number, (kind, size, decoded) in enumerate(cases):
            images = Photos(Path(name) / str(number), photos, size, kind)
            items = TransformedImages(images, side=side, filter="bilinear", patch=PATCH, five_crop=True)
            budget = 3 * side**2 * len(items) if decoded == "kept" else 0
            store = FeatureStore(Path(name), backbone, device=CPU, budget=budget, log=lambda message: None)
            reader = store.open(items, ["tokens"])
            if decoded == "kept":
                reader.expect(range(len(items)))
                settle()
            found = case(reader, backbone, batch, count, repeats)
            rows.append([f"{kind}, {size[0]} × {size[1]}", decoded, *found])
    title = f"Streamed features, five crops, {side} × {side}, random ViT-S/8 of {blocks} blocks, B = {batch}"
    show(title, rows, HEADERS, ("", "", ".1f", ".1f", ".2f", ".2f"))


if __name__ == "__main__":
    main()
