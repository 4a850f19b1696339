"""How often intervals hold the truth, and how often paired tests are right, on simulated methods.

::

    python benchmarks/interval_coverage.py [--trials 240] [--small]

The truth is the score of 400,000 images. Intervals are tried on a new method in each trial, tests on
three pairs of methods of different skill. 240 trials leave a standard error of 1.4 points at 95 %.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from scipy import stats
from tabulate import tabulate

from uss_bench.evaluation.scoring import score_under
from uss_bench.protocol import get_protocol
from uss_bench.results.scores import Metric
from uss_bench.statistics.comparing import Difference, compare, rank_tiers
from uss_bench.statistics.intervals import seed_interval, student_reach
from uss_bench.statistics.resampling import leave_one_out, resample
from uss_bench.statistics.sampling import COLUMN, estimate, too_few

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from simulation import Images, SimulatedMethod, population

PROTOCOL = get_protocol("stego320@2")
POPULATION = population()
SIZES = (100, 250, 500, 2000)
SKILLS = ((0.25, 0.35), (0.4, 0.45), (0.6, 0.5))
RETRAINING = 0.05
"""Spread of `retrained`: about 0.5 mIoU points of standard deviation over seeds."""
RESAMPLES = 400
GAIN = 1.0
"""The true difference in mIoU points whose detection is counted."""

Bounds = tuple[float, float]
Construction = Callable[[float, np.ndarray, np.ndarray], Bounds]


# --- Intervals over images -----------------------------------------------------------------------


def percentile(score: float, drawn: np.ndarray, left_out: np.ndarray) -> Bounds:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def basic(score: float, drawn: np.ndarray, left_out: np.ndarray) -> Bounds:
    low, high = percentile(score, drawn, left_out)
    return 2 * score - high, 2 * score - low


def bca(score: float, drawn: np.ndarray, left_out: np.ndarray) -> Bounds:
    """Efron's bias-corrected and accelerated percentiles."""
    share = np.clip((drawn < score).mean(), 1 / len(drawn), 1 - 1 / len(drawn))
    shift = stats.norm.ppf(share)
    skew = left_out.mean() - left_out
    acceleration = (skew**3).sum() / (6 * (skew**2).sum() ** 1.5)
    ends = [shift + (shift + z) / (1 - acceleration * (shift + z)) for z in stats.norm.ppf([0.025, 0.975])]
    low, high = np.quantile(drawn, stats.norm.cdf(ends))
    return float(low), float(high)


def jackknife(score: float, drawn: np.ndarray, left_out: np.ndarray) -> Bounds:
    images = len(left_out)
    center = images * score - (images - 1) * left_out.mean()
    reach = student_reach((images - 1) * left_out.var(), images - 1, 0.95)
    return center - reach, center + reach


def ours(score: float, drawn: np.ndarray, left_out: np.ndarray) -> Bounds:
    """What `image_interval` does."""
    found = estimate(score, drawn, left_out)
    reach = student_reach(found.variance, len(left_out) - 1, 0.95)
    return found.value - reach, found.value + reach


CONSTRUCTIONS: dict[str, Construction] = {
    "percentile": percentile,
    "basic": basic,
    "BCa": bca,
    "jackknife": jackknife,
    "ours": ours,
}


def coverage_of_images(trials: int, sizes: Iterable[int]) -> dict[Metric, str]:
    rows: dict[Metric, list[list[object]]] = {metric: [] for metric in COLUMN}
    for size in sizes:
        seen: dict[Metric, list[list[float]]] = {metric: [] for metric in COLUMN}
        for trial in range(trials_at(size, trials)):
            rng = np.random.default_rng([trial, size])
            skill = SKILLS[trial % len(SKILLS)][0]
            method = SimulatedMethod.draw(np.random.default_rng(trial), skill=skill)
            counts = method.counts(Images.draw(size, rng), rng)
            truth, whole = method.truth(POPULATION, PROTOCOL), score_under(counts, PROTOCOL)
            drawn, left_out = resample(counts, PROTOCOL, seed=trial), leave_one_out(counts, PROTOCOL)
            for metric, trials_seen in seen.items():
                true, score = getattr(truth, metric), getattr(whole, metric)
                bounds = [
                    construction(score, getattr(drawn, metric), getattr(left_out, metric))
                    for construction in CONSTRUCTIONS.values()
                ]
                held = [low <= true <= high for low, high in bounds]
                width = bounds[-1][1] - bounds[-1][0]
                trials_seen.append([score - true, *held, width, too_few(counts, metric)])
        for metric, trials_seen in seen.items():
            rows[metric].append([size, len(trials_seen), *(100 * np.mean(trials_seen, axis=0))])
    headers = ["images", "trials", "bias", *CONSTRUCTIONS, "width of ours", "too few"]
    formats = ("d", "d", "+.2f", *[".0f"] * len(CONSTRUCTIONS), ".1f", ".0f")
    return {metric: tabulate(rows[metric], headers=headers, floatfmt=formats) for metric in rows}


def trials_at(size: int, trials: int) -> int:
    """Return fewer trials where each takes long."""
    return trials if size <= 500 else trials // 2


# --- Intervals over seeds ------------------------------------------------------------------------


def coverage_of_seeds(trials: int) -> str:
    rows = []
    rng = np.random.default_rng(0)
    for seeds in (2, 3, 5, 10):
        student, bootstrap = [], []
        for _ in range(trials):
            values = rng.standard_normal(seeds)
            interval = seed_interval(values.tolist())
            assert interval is not None
            student.append(interval.low <= 0 <= interval.high)
            means = values[rng.integers(0, seeds, (1000, seeds))].mean(axis=1)
            low, high = np.quantile(means, [0.025, 0.975])
            bootstrap.append(low <= 0 <= high)
        rows.append([seeds, 100 * np.mean(bootstrap), 100 * np.mean(student)])
    return tabulate(rows, headers=["seeds", "percentile bootstrap", "Student's t"], floatfmt=".0f")


# --- Paired tests --------------------------------------------------------------------------------


def retrain(method: SimulatedMethod, seeds: int, rng: np.random.Generator) -> list[SimulatedMethod]:
    """Return the method itself for one seed, and `seeds` trainings of it otherwise."""
    return [method] if seeds == 1 else [method.retrained(rng, RETRAINING) for _ in range(seeds)]


def expected_miou(method: SimulatedMethod, seeds: int) -> float:
    """Return the mean true mIoU over trainings, in percent."""
    trained = retrain(method, seeds if seeds == 1 else 100, np.random.default_rng(0))
    return 100 * float(np.mean([one.truth(POPULATION, PROTOCOL).miou for one in trained]))


def pair(skills: tuple[float, float], world: int, seeds: int, gain: float) -> list[SimulatedMethod]:
    """Return two methods of different kind, the first better by `gain` mIoU points in truth."""
    rng = np.random.default_rng([world, 1])
    a, b = sorted(
        (SimulatedMethod.draw(rng, skill=skill) for skill in skills),
        key=lambda one: -expected_miou(one, seeds),
    )
    blur = np.full(a.confusion.shape, 1 / a.confusion.shape[1])
    goal = expected_miou(b, seeds)
    if goal + gain > expected_miou(a, seeds):
        a, b, goal, gain = b, a, expected_miou(a, seeds), -gain
    low, high = 0.0, 1.0
    for _ in range(10):
        middle = (low + high) / 2
        above = expected_miou(a.towards(blur, middle), seeds) > goal + gain
        low, high = (middle, high) if above else (low, middle)
    return [a.towards(blur, low), b] if gain >= 0 else [b, a.towards(blur, low)]


def observe(
    methods: Iterable[SimulatedMethod], size: int, seeds: int, rng: np.random.Generator
) -> list[list[np.ndarray]]:
    """Return the counts of every method and seed on the same images."""
    images = Images.draw(size, rng)
    return [[one.counts(images, rng) for one in retrain(method, seeds, rng)] for method in methods]


def tests_of_pairs(trials: int, sizes: Iterable[int], seeds: int, gain: float) -> list[list[Difference]]:
    """Return the differences in mIoU, per size and trial."""
    pairs = [pair(skills, world, seeds, gain) for world, skills in enumerate(SKILLS)]
    found = []
    for size in sizes:
        sides = (
            observe(pairs[trial % len(pairs)], size, seeds, np.random.default_rng([trial, size, seeds]))
            for trial in range(trials_at(size, trials))
        )
        found.append([compare(a, b, PROTOCOL, resamples=RESAMPLES).miou for a, b in sides])
    return found


def paired_tests(trials: int, sizes: tuple[int, ...]) -> str:
    rows: list[list[object]] = [[size] for size in sizes]
    for seeds in (1, 3):
        equal = tests_of_pairs(trials, sizes, seeds, 0.0)
        gained = tests_of_pairs(trials, sizes, seeds, GAIN)
        for row, null, better in zip(rows, equal, gained, strict=True):
            row.append(100 * np.mean([one.verdict != "tied" for one in null]))
            row.append(100 * np.mean([one.verdict == "better" for one in better]))
    headers = ["images", "false, 1 seed", "found, 1 seed", "false, 3 seeds", "found, 3 seeds"]
    return tabulate(rows, headers=headers, floatfmt=".0f")


def tiers_of_equals(trials: int, size: int) -> str:
    """Return how often a tier splits settings that are trainings of one method."""
    split = []
    for trial in range(trials):
        rng = np.random.default_rng([trial, 2])
        method = SimulatedMethod.draw(rng, skill=0.4)
        tiers = rank_tiers(observe([method] * 5, size, 3, rng), PROTOCOL, resamples=RESAMPLES)
        split.append(max(tiers) > 1)
    return f"Five settings of equal skill, 3 seeds, {size} images: split in {100 * np.mean(split):.0f} %."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=240, help="trials per row; half of it at 2,000 images")
    parser.add_argument("--small", action="store_true", help="a few trials of few images: does it run at all")
    options = parser.parse_args()
    trials, sizes = (6, SIZES[:1]) if options.small else (options.trials, SIZES)

    print(f"27 classes, 95 % nominal, Python {platform.python_version()}, numpy {np.__version__}")
    tables = coverage_of_images(trials, sizes)
    for metric, title in (("miou", "mIoU"), ("accuracy", "accuracy")):
        print(f"\nPercent of intervals over images that hold the true {title} of a trained method:\n")
        print(tables[metric])
    print("\nPercent of intervals over seeds that hold the true mean of normal scores:\n")
    print(coverage_of_seeds(10 * trials))
    print(f"\nPercent of paired tests of the mIoU that tell equals apart, and that find {GAIN:g} point:\n")
    print(paired_tests(trials, sizes))
    print("\n" + tiers_of_equals(trials, sizes[min(1, len(sizes) - 1)]))


if __name__ == "__main__":
    main()
