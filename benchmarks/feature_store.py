"""The feature store: extraction beside the bare forward, reads beside a step, writes beside a plain file.

::

    python benchmarks/feature_store.py [--repeats 5] [--threads N] [--images 64] [--items 1024] [--small]

Extraction reads generated JPEGs of 480 × 640 pixels, resizes them to 224, runs a ViT-S/8 with random
weights and writes the shards; the bare forward runs on images that lie in memory, in equal batches.
Reading gathers 32 items at random from a memory map, once with its pages in memory and once with the
pages dropped before (Linux only, and a disk may have a cache of its own). Writing includes checksum and
moments, and is timed until the bytes are on the disk, as is a plain file of the same bytes.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from measuring import arguments, begin, in_turns, seconds, show
from PIL import Image
from reference_step import CHANNELS, CPU, PATCH, RandomViT, step_seconds, stored_noise
from scipy import ndimage

from uss_bench.data.geometry import TransformedImages
from uss_bench.data.images import read_image
from uss_bench.features.encoder import CPU_BATCH
from uss_bench.features.shards import ITEMS_PER_SHARD, Shards
from uss_bench.features.store import FeatureStore
from uss_bench.files.atomic import cache_root

BATCH = 32


class Photos:
    """Generated images in JPEG files, smooth with grain, so that decoding costs what it usually does."""

    def __init__(self, folder: Path, count: int) -> None:
        self.ids = [f"{index:04d}" for index in range(count)]
        self._folder = folder
        folder.mkdir()
        rng = np.random.default_rng(0)
        for name in self.ids:
            field = ndimage.gaussian_filter(rng.standard_normal((480, 640, 3)), sigma=(20, 20, 0))
            noisy = 128 + 60 * field / field.std() + 6 * rng.standard_normal(field.shape)
            Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(folder / f"{name}.jpg")

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> np.ndarray:
        return read_image(self._folder / f"{self.ids[index]}.jpg")

    def aux(self, index: int) -> Mapping[str, np.ndarray]:
        return {}

    def fingerprint(self) -> str:
        return hashlib.sha256(f"generated {len(self)}".encode()).hexdigest()


def extraction(folder: Path, backbone: RandomViT, count: int, side: int, repeats: int) -> list[object]:
    """Return the row of images/s: through the store, and by the backbone alone."""
    items = TransformedImages(Photos(folder / "photos", count), side=side, filter="bilinear", patch=PATCH)
    fresh = (folder / f"extraction-{number}" for number in itertools.count())

    def store(root: Path) -> FeatureStore:
        return FeatureStore(root, backbone, device=CPU, log=lambda message: None)

    batch = torch.rand(CPU_BATCH, 3, side, side)

    def forward() -> None:
        for _ in range(-(-count // len(batch))):
            backbone(batch, ["tokens"])

    taken = in_turns(
        {"extract": lambda: store(next(fresh)).open(items, ["tokens"]), "forward": forward}, repeats
    )
    extracted, bare = count / taken["extract"], -(-count // len(batch)) * len(batch) / taken["forward"]
    ours, theirs = f"{extracted:.1f} images/s", f"{bare:.1f} images/s"
    return ["extraction from JPEGs", ours, "forward alone", theirs, extracted / bare]


def reading(folder: Path, count: int, side: int, repeats: int) -> list[list[object]]:
    """Return rows of random reads beside SmooSeg's step, which contains one: cold on Linux, and warm."""
    reader = stored_noise(folder / "reading", count, side)
    size = min(BATCH, count)
    batches = np.random.default_rng(0).permutation(count)[: count // size * size].reshape(-1, size)
    taken = {}
    if hasattr(os, "posix_fadvise"):  # first: a mapped page that was touched once cannot be dropped
        for path in (folder / "reading").rglob("*.npy"):
            drop_pages(path)
        taken["cold"] = statistics.median(seconds(functools.partial(reader.batch, one)) for one in batches)
    once = in_turns({"warm": lambda: [reader.batch(one) for one in batches]}, repeats)
    taken["warm"] = once["warm"] / len(batches)
    step = step_seconds("smooseg", reader, literal=False, batch_size=size, steps=repeats)
    megabytes = size * reader[0]["tokens"].numel() * 2 / 1e6  # of float16, as they lie on disk
    return [
        [
            f"reading {size} at random, {state}",
            f"{1e3 * one:.1f} ms, {megabytes / one:.0f} MB/s",
            "SmooSeg's step",
            f"{1e3 * step:.0f} ms",
            one / step,
        ]
        for state, one in taken.items()
    ]


def writing(folder: Path, items: int, side: int, repeats: int) -> list[object]:
    """Return the row of a shard's way to the disk beside that of a plain file."""
    shape = (CHANNELS, side // PATCH, side // PATCH)
    array = np.random.default_rng(0).standard_normal((items, *shape), dtype=np.float32).astype(np.float16)
    shards = Shards(folder / "writing", {"tokens": shape}, array.dtype, items)
    plain = folder / "plain"

    def write_shard() -> None:
        shards.write("tokens", 0, array)
        sync(shards.path("tokens", 0))

    def write_plain() -> None:
        plain.write_bytes(array.data)
        sync(plain)

    taken = in_turns({"shard": write_shard, "plain": write_plain}, repeats)
    ours, theirs = (array.nbytes / 1e6 / taken[name] for name in ("shard", "plain"))
    what = f"writing a shard of {array.nbytes / 1e6:.0f} MB"
    return [what, f"{ours:.0f} MB/s", "a plain file", f"{theirs:.0f} MB/s", ours / theirs]


def sync(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def drop_pages(path: Path) -> None:
    """Have the system forget what it holds of a file in memory."""
    sync(path)
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=64, help="images to extract in each round")
    parser.add_argument("--items", type=int, default=1024, help="items to read from, 0.6 MB each")
    options = parser.parse_args()
    images, items, repeats = options.images, options.items, options.repeats
    side, blocks, shard = 224, 12, ITEMS_PER_SHARD
    if options.small:
        images, items, repeats, side, blocks, shard = 8, 16, 1, 32, 1, 8
    begin(options)

    cache_root().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_root()) as name:  # where stores are, and no memory disk
        folder = Path(name)
        rows = [
            extraction(folder, RandomViT(side, blocks), images, side, repeats),
            *reading(folder, items, side, repeats),
            writing(folder, shard, side, repeats),
        ]
    title = (
        f"Feature store, {side} × {side}, {(side // PATCH) ** 2} patches of {CHANNELS} float16, random "
        f"ViT-S/8 of {blocks} blocks"
    )
    show(title, rows, ["the store", "measured", "beside", "measured", "ratio"], ("", "", "", "", ".2f"))


if __name__ == "__main__":
    main()
