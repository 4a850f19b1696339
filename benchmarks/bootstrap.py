"""How fast images are resampled with matching anew: two methods, paired, beside a plain loop.

::

    python benchmarks/bootstrap.py [--repeats 3] [--small]

The loop draws images, adds their counts and calls `score_under`, once per resample. It is timed on
fewer resamples, in turns with the vectorised code, and scaled up.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import scipy
from tabulate import tabulate

from uss_bench.cores import whole_cores
from uss_bench.protocol import get_protocol
from uss_bench.scoring import score_under
from uss_bench.statistics.comparing import compare
from uss_bench.statistics.resampling import resample
from uss_bench.statistics.simulation import Images, SimulatedMethod

PROTOCOL = get_protocol("stego320@1")
RESAMPLES = 1000
LOOPED = 25
SHAPES = ((500, 27, 27), (2000, 3, 3), (2000, 27, 27), (2000, 54, 27))


def two_methods(images: int, clusters: int, classes: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    world = Images.draw(images, rng, classes=classes)
    methods = [SimulatedMethod.draw(rng, skill=0.4, classes=classes, clusters=clusters) for _ in range(2)]
    return [method.counts(world, rng) for method in methods]


def loop(counts: list[np.ndarray], resamples: int) -> list[list[float]]:
    """Score paired resamples one after another."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(resamples):
        drawn = rng.integers(0, len(counts[0]), len(counts[0]))
        found.append([score_under(one[drawn], PROTOCOL).miou for one in counts])
    return found


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="timings of each row")
    parser.add_argument("--small", action="store_true", help="one timing of 500 images: does it run at all")
    options = parser.parse_args()
    repeats, shapes = (1, SHAPES[:1]) if options.small else (options.repeats, SHAPES)
    cores = whole_cores()

    rows = []
    for shape in shapes:
        counts = two_methods(*shape)
        ours, whole, theirs = [], [], []
        for _ in range(repeats):
            ours.append(seconds(lambda: [resample(one, PROTOCOL, resamples=RESAMPLES) for one in counts]))  # noqa: B023
            whole.append(seconds(lambda: compare(counts[:1], counts[1:], PROTOCOL, resamples=RESAMPLES)))  # noqa: B023
            theirs.append(seconds(lambda: loop(counts, LOOPED)) * RESAMPLES / LOOPED)  # noqa: B023
        medians = [statistics.median(one) for one in (ours, whole, theirs)]
        rows.append([*shape, *medians, medians[2] / medians[0]])
    print(
        f"{RESAMPLES} paired resamples of two methods, matched anew, {platform.machine()}, {cores} cores, "
        f"Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}; medians\n"
    )
    headers = ["images", "K", "C", "resample, s", "compare, s", "loop, s", "times faster"]
    print(tabulate(rows, headers=headers, floatfmt=("", "", "", ".2f", ".2f", ".1f", ".0f")))


if __name__ == "__main__":
    main()
