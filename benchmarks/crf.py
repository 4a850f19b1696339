"""How fast the dense CRF is: the lattice engine beside pydensecrf, and the pool beside separate processes.

::

    python benchmarks/crf.py [--repeats 5] [--images 2] [--small]

Both engines treat the same images in turns. Their figures are processor time of one thread, of which other
work on the machine takes little. Beside the pool stand as many processes that share nothing and are fed by
nobody, in turns as well: what they lose per core, the machine loses (cores share its memory and its last
cache), and no pool could win it back.

Real images come from ``../shared/data/camvid`` when it is there; the large one is such an image enlarged.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numba
import numpy as np
from PIL import Image
from scipy import ndimage
from tabulate import tabulate

from uss_bench.crf import CrfPool, refine
from uss_bench.runtime.cores import whole_cores

SIDE = 320
LARGE = (2048, 1024)
CAMVID = Path(__file__).parents[2] / "shared" / "data" / "camvid" / "images" / "test"
Item = tuple[np.ndarray, np.ndarray]


def synthetic(seed: int) -> Image.Image:
    """Return a generated image, SIDE × SIDE: smooth color fields with grain."""
    noise = np.random.default_rng(seed).standard_normal((2, SIDE, SIDE, 3))
    fields = ndimage.gaussian_filter(noise[0], sigma=(20, 20, 0))
    return Image.fromarray(np.clip(128 + 60 * fields / fields.std() + 6 * noise[1], 0, 255).astype(np.uint8))


def images(count: int, *, small: bool) -> dict[str, list[Image.Image]]:
    """Return images by what they are, the last of them for the pool."""
    sets = {f"generated, {SIDE}²": [synthetic(seed) for seed in range(count)]}
    files = sorted(CAMVID.glob("*.jpg"))
    if files:
        scenes = [Image.open(file).convert("RGB") for file in files[:: len(files) // count][:count]]
        if not small:
            sets["CamVid, 1024 × 2048"] = [scenes[0].resize(LARGE, Image.Resampling.BICUBIC)]
        sets[f"CamVid, {SIDE}²"] = [scene.crop((80, 20, 80 + SIDE, 20 + SIDE)) for scene in scenes]
    return sets


def item(image: Image.Image, classes: int) -> Item:
    """Return an image and weak logits that follow its colors, float32 (classes, H, W)."""
    pixels = np.array(image)
    palette = np.random.default_rng(classes).uniform(0, 255, (classes, 3))
    blurred = ndimage.gaussian_filter(pixels.astype(np.float32), sigma=(4, 4, 0))
    distances = np.stack([np.linalg.norm(blurred - color, axis=2) for color in palette])
    return pixels, (2 - 4 * distances / 442).astype(np.float32)  # 442: the diagonal of the color cube


def seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    work()
    return clock() - start


def compare_engines(sets: dict[str, list[Image.Image]], repeats: int) -> str:
    """Return a table of medians per image, one row per set and number of classes."""
    rows = []
    for name, found in sets.items():
        for classes in (3, 11, 27):
            ours, theirs, equal = [], [], []
            for one in (item(image, classes) for image in found):
                labels = [refine(*one, engine=engine).argmax(axis=0) for engine in ("lattice", "pydensecrf")]
                equal.append((labels[0] == labels[1]).mean())
                for _ in range(repeats):
                    ours.append(seconds(lambda: refine(*one), time.thread_time))  # noqa: B023
                    theirs.append(seconds(lambda: refine(*one, engine="pydensecrf"), time.thread_time))  # noqa: B023
            medians = statistics.median(ours), statistics.median(theirs)
            ratios = [other / one for one, other in zip(ours, theirs, strict=True)]
            row = [name, classes, 1e3 * medians[0], 1e3 * medians[1], medians[1] / medians[0], min(ratios)]
            rows.append([*row, f"{np.mean(equal):.4%}"])
    headers = ["images", "K", "lattice, ms", "pydensecrf, ms", "times faster", "least", "equal pixels"]
    return tabulate(rows, headers, floatfmt=("", "", ".0f", ".0f", ".2f", ".2f", ""))


def separate(workers: int, items: list[Item], each: int) -> float:
    """Return images per second of processes that refine `each` images each, handed over beforehand."""
    context = multiprocessing.get_context("spawn")
    start, rates = context.Barrier(workers), context.SimpleQueue()
    arguments = (items, each, start, rates)
    processes = [context.Process(target=_refine_alone, args=arguments) for _ in range(workers)]
    for process in processes:
        process.start()
    return sum(rates.get() for _ in processes)


def _refine_alone(items: list[Item], each: int, start: Barrier, rates: SimpleQueue[float]) -> None:
    stream = [items[n % len(items)] for n in range(each)]
    refine(*stream[0])
    start.wait()
    rates.put(each / seconds(lambda: [refine(*one).argmax(axis=0) for one in stream], time.perf_counter))


def scale_pool(found: list[Image.Image], repeats: int, each: int) -> str:
    """Return a table of throughput: the pool's, and that of processes without one."""
    rows = []
    for classes in (3, 27):
        items = [item(image, classes) for image in found]
        single = 0.0
        for workers in range(1, whole_cores() + 1):
            stream = [items[n % len(items)] for n in range(workers * each)]
            with CrfPool(workers=workers) as pool:
                list(pool.labels(items))
                pooled, alone = [], []
                for _ in range(repeats):
                    taken = seconds(lambda: list(pool.labels(stream)), time.perf_counter)  # noqa: B023
                    pooled.append(len(stream) / taken)
                    alone.append(separate(workers, items, each))
            rate, limit = statistics.median(pooled), statistics.median(alone)
            ratio = statistics.median(one / other for one, other in zip(pooled, alone, strict=True))
            single = single or rate
            rows.append([classes, workers, rate, rate / single / workers, limit, ratio])
    headers = ["K", "threads", "pool, images/s", "efficiency", "processes, images/s", "pool / processes"]
    return tabulate(rows, headers, floatfmt=("", "", *[".2f"] * 4))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="timings per image and engine")
    parser.add_argument("--images", type=int, default=2, help="images per set")
    parser.add_argument("--small", action="store_true", help="one timing of one small image: does it run")
    options = parser.parse_args()
    if options.small:
        options.repeats = options.images = 1
    sets = images(options.images, small=options.small)
    print(
        f"Dense CRF, 10 updates, {platform.machine()}, {whole_cores()} cores, Python "
        f"{platform.python_version()}, numpy {np.__version__}, numba {numba.__version__}"
    )
    if importlib.util.find_spec("pydensecrf"):
        print("\nProcessor time per image; the lattice of the colors is built anew for each:\n")
        print(compare_engines(sets, options.repeats))
    name, found = list(sets.items())[-1]
    print(f"\nPool, {name}:\n")
    print(scale_pool(found, options.repeats, 2 if options.small else 16))


if __name__ == "__main__":
    main()
