"""How fast the dense CRF is: the lattice engine beside pydensecrf, and the pool on 1 to all cores.

::

    python benchmarks/crf.py [--repeats 3] [--images 4] [--small]

Both engines treat the same images in the same run, in turns, so that whatever else the machine does
slows both. Beside the pool stand as many processes that share nothing and are fed by nobody: what they
lose per core, the machine loses (cores share its memory and its last cache), and no pool could win it back.

Real images come from ``../shared/data/camvid`` when it is there.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numba
import numpy as np
from PIL import Image
from scipy import ndimage
from tabulate import tabulate

from uss_bench.cores import whole_cores
from uss_bench.crf import CrfPool, refine

SIDE = 320
CLASSES = (4, 11, 27)
CAMVID = Path(__file__).parents[2] / "shared" / "data" / "camvid" / "images" / "test"


def synthetic(seed: int) -> np.ndarray:
    """Return a generated image, uint8 (SIDE, SIDE, 3): smooth colour fields with grain."""
    noise = np.random.default_rng(seed).standard_normal((2, SIDE, SIDE, 3))
    fields = ndimage.gaussian_filter(noise[0], sigma=(20, 20, 0))
    return np.clip(128 + 60 * fields / fields.std() + 6 * noise[1], 0, 255).astype(np.uint8)


def street_scenes(count: int) -> list[np.ndarray]:
    """Return centre crops of real images, uint8 (SIDE, SIDE, 3), spread over the split; none if absent."""
    files = sorted(CAMVID.glob("*.jpg"))
    crops = []
    for file in files[:: max(1, len(files) // count)][:count]:
        with Image.open(file) as image:
            left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
            crops.append(np.array(image.convert("RGB").crop((left, top, left + SIDE, top + SIDE))))
    return crops


def log_probs(image: np.ndarray, classes: int) -> np.ndarray:
    """Return weak logits that follow the image's colours, float32 (classes, SIDE, SIDE)."""
    palette = np.random.default_rng(classes).uniform(0, 255, (classes, 3))
    blurred = ndimage.gaussian_filter(image.astype(float), sigma=(4, 4, 0))
    distances = np.linalg.norm(blurred - palette[:, None, None], axis=3)
    return (2 - 4 * distances / 442).astype(np.float32)  # 442 is the length of the colour cube's diagonal


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare_engines(sets: dict[str, list[np.ndarray]], repeats: int) -> str:
    """Return a table of medians per image in one process, one row per set and number of classes."""
    with_reference = importlib.util.find_spec("pydensecrf") is not None
    rows = []
    for name, images in sets.items():
        for classes in CLASSES:
            ours, theirs, equal = [], [], []
            for image in images:
                logits = log_probs(image, classes)
                labels = refine(image, logits).argmax(axis=0)  # also compiles, and fills the caches
                if with_reference:
                    equal.append((refine(image, logits, engine="pydensecrf").argmax(axis=0) == labels).mean())
                for _ in range(repeats):
                    ours.append(seconds(lambda: refine(image, logits)))  # noqa: B023
                    if with_reference:
                        theirs.append(seconds(lambda: refine(image, logits, engine="pydensecrf")))  # noqa: B023
            row: list[object] = [name, len(images), classes, 1e3 * statistics.median(ours)]
            if with_reference:
                ratio = statistics.median(theirs) / statistics.median(ours)
                row += [1e3 * statistics.median(theirs), ratio, f"{np.mean(equal):.4%}"]
            rows.append(row)
    headers = ["images", "n", "K", "lattice, ms", "pydensecrf, ms", "times faster", "equal pixels"]
    return tabulate(rows, headers=headers[: len(rows[0])], floatfmt=("", "", "", ".0f", ".0f", ".2f", ""))


def independent(workers: int, items: list[tuple[np.ndarray, np.ndarray]], each: int) -> float:
    """Return images per second of processes that refine `each` images each, made in the process itself."""
    context = multiprocessing.get_context("spawn")
    start, rates = context.Barrier(workers), context.Queue()
    arguments = (items, each, start, rates)
    processes = [context.Process(target=_refine_alone, args=arguments) for _ in range(workers)]
    for process in processes:
        process.start()
    total = sum(rates.get() for _ in processes)
    for process in processes:
        process.join()
    return total


def _refine_alone(
    items: list[tuple[np.ndarray, np.ndarray]], each: int, start: Barrier, rates: Queue[float]
) -> None:
    stream = [items[n % len(items)] for n in range(each)]
    refine(*stream[0])
    start.wait()
    rates.put(each / seconds(lambda: [refine(*item).argmax(axis=0) for item in stream]))


def scale_pool(images: list[np.ndarray], cores: int, repeats: int, each: int) -> str:
    """Return a table of throughput at K = 27, workers already started: the pool's, and without a pool."""
    items = [(image, log_probs(image, 27)) for image in images]
    rows: list[list[object]] = []
    single = 0.0
    for workers in range(1, cores + 1):
        with CrfPool(workers=workers) as pool:
            list(pool.labels(items[: 2 * workers]))
            stream = [items[n % len(items)] for n in range(workers * each)]
            pooled, alone = [], []
            for _ in range(repeats):
                pooled.append(len(stream) / seconds(lambda: list(pool.labels(stream))))  # noqa: B023
                alone.append(independent(workers, items, each))
            rate, limit = statistics.median(pooled), statistics.median(alone)
            single = single or max(rate, limit)
            shares = [limit, limit / single / workers, rate, rate / single / workers, rate / limit]
            rows.append([workers, len(stream), *shares, pool.fallbacks])
    headers = ["workers", "n", "no pool, images/s", "efficiency", "pool, images/s", "efficiency"]
    headers += ["pool / no pool", "fallbacks"]
    return tabulate(rows, headers, floatfmt=("", "", *[".2f"] * 5, ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="timings per image and engine")
    parser.add_argument("--images", type=int, default=4, help="images per set")
    parser.add_argument("--small", action="store_true", help="one timing of two images: does it run at all")
    options = parser.parse_args()
    if options.small:
        options.repeats, options.images = 1, 2
    cores = whole_cores()
    sets = {"synthetic": [synthetic(seed) for seed in range(options.images)]}
    sets |= {"CamVid": scenes} if (scenes := street_scenes(options.images)) else {}

    print(
        f"Dense CRF, 10 updates, {SIDE} × {SIDE}, {platform.machine()}, {cores} cores, Python "
        f"{platform.python_version()}, numpy {np.__version__}, numba {numba.__version__}"
    )
    print("\nOne process, median per image; the lattice of the colours is built anew for each:\n")
    print(compare_engines(sets, options.repeats))
    name, images = list(sets.items())[-1]
    print(f"\nPool, K = 27, {name}:\n")
    print(scale_pool(images, cores, options.repeats, 2 if options.small else 16))


if __name__ == "__main__":
    main()
