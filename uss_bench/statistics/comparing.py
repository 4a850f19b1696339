"""Whether one configuration is better than another, or the data cannot tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from uss_bench.protocol import Protocol
from uss_bench.results.collection import Configuration
from uss_bench.results.record import Refinement
from uss_bench.results.scores import Metric
from uss_bench.statistics.intervals import Interval, student_reach
from uss_bench.statistics.sampling import (
    COLUMN,
    TOO_FEW_IMAGES,
    Sampling,
    estimate,
    too_few,
)

Verdict = Literal["better", "worse", "tied"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One score of a minus the same score of b, in percent points."""

    value: float
    """As the two tables show it. The interval lies around this value corrected for bias."""
    interval: Interval
    p_value: float
    """Two-sided; 1 where nothing can be said."""
    verdict: Verdict
    """Whether a is better; ``tied`` where the data cannot tell."""
    error_of_images: float = math.nan
    """Standard error by the choice of images; NaN where it is not known."""
    error_of_seeds: float = math.nan
    """Standard error by the choice of seeds; 0 where each side has one seed, which hides it."""

    def reversed(self) -> Difference:
        """Return b minus a."""
        turned: dict[Verdict, Verdict] = {"better": "worse", "worse": "better", "tied": "tied"}
        interval = replace(self.interval, low=-self.interval.high, high=-self.interval.low)
        return replace(self, value=-self.value, interval=interval, verdict=turned[self.verdict])


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every score of a beside that of b."""

    accuracy: Difference
    miou: Difference
    per_class: list[Difference | None]
    """IoU; None where a side has none. The p-values and verdicts are corrected for the number of
    classes (Holm, 1979); the intervals are not."""
    images: int
    seeds: tuple[int, int]
    notes: list[str]


def compare(
    a: Sequence[np.ndarray],
    b: Sequence[np.ndarray],
    protocol: Protocol,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Comparison:
    """Compare two configurations on the same images, paired.

    Two things are left to chance: which images were tested, and which seeds were trained. Every
    resample of the images is scored for all seeds of both sides, so what makes an image hard for both
    cancels; that gives the variance by images, as in `estimate`. The variance by seeds is that of the
    scores over seeds, as in Welch's test: seed 0 of one method has nothing in common with seed 0 of
    another. Both are added, and the sum goes with Student's t and Satterthwaite's degrees of freedom,
    which at three seeds are as few as two to four. A bootstrap over three seeds would draw from ten
    different sets, and its interval would be far too narrow. The sum is a little too large, as scores of
    seeds also differ by chance over images: the test errs on the side of a tie.

    Args:
        a, b: per seed, integer (N, K, C), images in the same order. K may differ between a and b.
        level: of the intervals; a verdict needs a p-value below 1 - `level`.

    Raises:
        ValueError: when images or classes differ between a and b, or shapes among the seeds of one.
    """
    if (a[0].shape[0], a[0].shape[2]) != (b[0].shape[0], b[0].shape[2]):
        raise ValueError(f"a {a[0].shape} and b {b[0].shape} differ in images or classes")
    left, right = (Sampling.of(side, protocol, resamples, seed) for side in (a, b))
    accuracy, miou, *per_class = (
        _difference(left, right, column, level) for column in range(left.scores.shape[1])
    )
    return Comparison(
        accuracy=_noted(accuracy, too_few(a[0], "accuracy")),
        miou=_noted(miou, too_few(a[0], "miou")),
        per_class=_holm(per_class, level),
        images=len(a[0]),
        seeds=(len(a), len(b)),
        notes=_notes(a, b),
    )


def rank_tiers(
    configurations: Sequence[Sequence[np.ndarray]],
    protocol: Protocol,
    metric: Metric = "miou",
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> list[int]:
    """Return the tier of each configuration: 1 for the best and all that is tied with it, 2 for the best of
    the rest and all that is tied with that, and so on.

    Args:
        configurations: per configuration and seed, integer (N, K, C), images in the same order throughout.
    """
    return tiers_of(
        [Sampling.of(one, protocol, resamples, seed) for one in configurations], metric, level=level
    )


def tiers_of(samplings: Sequence[Sampling], metric: Metric = "miou", *, level: float = 0.95) -> list[int]:
    """Return the `rank_tiers` of configurations that are resampled already, with the same draws."""
    column = COLUMN[metric]
    means = [float(np.nan_to_num(one.mean[column], nan=-1.0)) for one in samplings]
    left = sorted(range(len(samplings)), key=lambda i: -means[i])
    tiers = [0] * len(samplings)
    tier = 0
    while left:
        tier += 1
        best, *rest = left
        tests = [_difference(samplings[best], samplings[i], column, level) for i in rest]
        below = [
            i
            for i, one in zip(rest, _holm(tests, level), strict=True)
            if one is not None and one.verdict == "better"
        ]
        for i in set(left) - set(below):
            tiers[i] = tier
        left = below
    return tiers


def compare_samplings(
    sides: Sequence[tuple[Sampling, Sampling]], metric: Metric, *, level: float = 0.95
) -> list[Difference]:
    """Return one score of a minus that of b for every pair (a, b) that was resampled with the same draws.

    P-values and verdicts are corrected for the number of pairs (Holm, 1979).
    """
    column = COLUMN[metric]
    tests = _holm([_difference(a, b, column, level) for a, b in sides], level)
    return [_noted(one, metric in a.few) for one, (a, _) in zip(tests, sides, strict=True)]


def difference(
    a: Sampling,
    b: Sampling,
    metric: Metric,
    *,
    share: float = 1.0,
    same_seeds: bool = False,
    level: float = 0.95,
) -> Difference:
    """Return one score of a minus `share` times that of b, which were resampled with the same draws.

    Args:
        share: below 1 it asks whether a keeps that share of the score of b.
        same_seeds: whether the i-th seed of a and of b is one training scored twice, or two that draw the
            same numbers: then seeds are paired as images are. Otherwise they have nothing in common, as in
            `compare`.

    Raises:
        ValueError: when seeds are to be paired, and one side has more.
    """
    if same_seeds and len(a.scores) != len(b.scores):
        raise ValueError(f"{len(a.scores)} and {len(b.scores)} seeds cannot be paired")
    found = _difference(a, b, COLUMN[metric], level, share, same_seeds)
    return _noted(found, metric in a.few)


def _difference(
    a: Sampling, b: Sampling, column: int, level: float, share: float = 1.0, same_seeds: bool = False
) -> Difference | None:
    """Return the difference in one column; None where either side has no value there."""
    value = float(a.mean[column] - share * b.mean[column])
    if math.isnan(value):
        return None
    images = len(a.left_out)
    found = estimate(
        value,
        a.drawn[:, column] - share * b.drawn[:, column],
        a.left_out[:, column] - share * b.left_out[:, column],
    )
    if math.isnan(found.variance):
        return Difference(100 * value, Interval(math.nan, math.nan, TOO_FEW_IMAGES), 1.0, "tied")
    parts = [(found.variance, images - 1)]
    if same_seeds:
        seeds = a.scores[:, column] - share * b.scores[:, column]
        parts.append((float(seeds.var(ddof=1)) / len(seeds) if len(seeds) > 1 else 0.0, len(seeds) - 1))
    else:
        parts += [
            (weight**2 * float(one.variance_of_seeds[column]), len(one.scores) - 1)
            for one, weight in ((a, 1.0), (b, share))
        ]
    variance = sum(part for part, _ in parts)
    squares = sum(part**2 / freedom for part, freedom in parts if part)
    # Satterthwaite's; a variance of zero leaves nothing to be uncertain of, with any freedom.
    freedom = variance**2 / squares if squares else images - 1
    reach = student_reach(variance, freedom, level)
    p_value = _p_value(found.value, variance, freedom)
    return Difference(
        value=100 * value,
        interval=Interval(100 * max(found.value - reach, -1.0), 100 * min(found.value + reach, 1.0)),
        p_value=p_value,
        verdict=_verdict(found.value, p_value, level),
        error_of_images=100 * math.sqrt(found.variance),
        error_of_seeds=100 * math.sqrt(variance - found.variance),
    )


def _p_value(value: float, variance: float, freedom: float) -> float:
    if value == 0:
        return 1.0
    if variance == 0:
        return 0.0
    return float(2 * stats.t.sf(abs(value) / math.sqrt(variance), freedom))


def _verdict(value: float, p_value: float, level: float) -> Verdict:
    if p_value >= 1 - level:
        return "tied"
    return "better" if value > 0 else "worse"


def _holm(tests: Sequence[Difference | None], level: float) -> list[Difference | None]:
    """Return the tests with p-values corrected for their number (Holm, 1979), and verdicts to match."""
    made = sorted((one.p_value, i) for i, one in enumerate(tests) if one is not None)
    corrected = list(tests)
    least = 0.0
    for position, (p_value, i) in enumerate(made):
        least = min(1.0, max(least, (len(made) - position) * p_value))
        one = tests[i]
        assert one is not None
        verdict = one.verdict if least < 1 - level else "tied"
        corrected[i] = replace(one, p_value=least, verdict=verdict)
    return corrected


def _noted(difference: Difference | None, few: bool) -> Difference:
    if difference is None:
        nothing = Interval(math.nan, math.nan, TOO_FEW_IMAGES)
        return Difference(math.nan, nothing, 1.0, "tied")
    return (
        replace(difference, interval=replace(difference.interval, note=TOO_FEW_IMAGES)) if few else difference
    )


def _notes(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> list[str]:
    notes = []
    single = [name for name, side in (("A", a), ("B", b)) if len(side) == 1]
    if single:
        whose = "A and B have" if len(single) == 2 else f"{single[0]} has"
        notes.append(f"{whose} one seed: the interval leaves out what another seed would change.")
    with_class = a[0].any(axis=1).sum(axis=0)
    rarest = int(with_class[with_class > 0].min(initial=len(a[0])))
    if too_few(a[0], "miou"):
        notes.append(
            f"Too few images: {len(a[0])}, and the rarest class lies in {rarest}; "
            "intervals may miss more often than they say."
        )
    absent = int((with_class == 0).sum())
    if absent:
        notes.append(f"Classes that no image shows: {absent} of {len(with_class)}.")
    return notes


@dataclass(frozen=True)
class Versus:
    """Two configurations of one table, and how they compare under each refinement."""

    a: Configuration
    b: Configuration
    found: Mapping[Refinement, Comparison]

    @classmethod
    def of(
        cls, a: Configuration, b: Configuration, refinements: Sequence[Refinement], *, resamples: int = 1000
    ) -> Versus:
        """Compare two configurations.

        Raises:
            DataError: when the counts of a record are missing or damaged.
        """
        protocol = a.records[0].protocol
        found = {
            refinement: compare(a.counts(refinement), b.counts(refinement), protocol, resamples=resamples)
            for refinement in refinements
        }
        return cls(a, b, found)

    @property
    def classes(self) -> list[str]:
        return [row.name for row in self.a.records[0].classes]
