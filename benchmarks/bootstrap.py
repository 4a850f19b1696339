"""How fast images are resampled with matching anew: two methods, paired, beside a plain loop.

::

    python benchmarks/bootstrap.py [--repeats 3] [--small]

The loop draws images, adds their counts and calls `score_under`, once per resample. It is timed on
fewer resamples, in turns with the vectorised code, and scaled up.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import scipy
from measuring import arguments, in_turns, show

from uss_bench.evaluation.scoring import score_under
from uss_bench.protocol import get_protocol
from uss_bench.statistics.comparing import compare
from uss_bench.statistics.resampling import resample

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from simulation import Images, SimulatedMethod

PROTOCOL = get_protocol("stego320@2")
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


def main() -> None:
    options = arguments(__doc__, repeats=3).parse_args()
    repeats, shapes = (1, SHAPES[:1]) if options.small else (options.repeats, SHAPES)
    rows = []
    for shape in shapes:
        counts = two_methods(*shape)
        works = {
            "resample": lambda: [resample(one, PROTOCOL, resamples=RESAMPLES) for one in counts],  # noqa: B023
            "compare": lambda: compare(counts[:1], counts[1:], PROTOCOL, resamples=RESAMPLES),  # noqa: B023
            "loop": lambda: loop(counts, LOOPED),  # noqa: B023
        }
        taken = in_turns(works, repeats)
        taken["loop"] *= RESAMPLES / LOOPED
        rows.append([*shape, *taken.values(), taken["loop"] / taken["resample"]])
    title = f"{RESAMPLES} paired resamples of two methods, matched anew, scipy {scipy.__version__}"
    headers = ["images", "K", "C", "resample, s", "compare, s", "loop, s", "times faster"]
    show(title, rows, headers, ("", "", "", ".2f", ".2f", ".1f", ".0f"))


if __name__ == "__main__":
    main()
