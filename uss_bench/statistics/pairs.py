"""All configurations of one table compared with each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from uss_bench.results.collection import Configuration
from uss_bench.results.record import Refinement
from uss_bench.results.scores import METRICS, Metric
from uss_bench.statistics.comparing import Difference, compare_samplings
from uss_bench.statistics.sampling import Sampling


@dataclass(frozen=True)
class Pairs:
    """Configurations, best first by mIoU, and what every pair of them differs by."""

    configurations: tuple[Configuration, ...]
    refinement: Refinement
    found: dict[tuple[int, int], dict[Metric, Difference]]
    """By positions i < j: configuration i minus configuration j, in points; p-values are corrected for the
    number of pairs (Holm, 1979)."""
    means: tuple[dict[Metric, float], ...]
    """In percent, mean over seeds."""

    def difference(self, i: int, j: int, metric: Metric) -> Difference:
        """Return configuration i minus configuration j."""
        return self.found[i, j][metric] if i < j else self.found[j, i][metric].reversed()


def pairs(configurations: Sequence[Configuration], refinement: Refinement, *, resamples: int = 1000) -> Pairs:
    """Compare every configuration with every other, each resampled once.

    The counts of one configuration are held at a time.

    Raises:
        DataError: when the counts of a record are missing or damaged.
    """
    protocol = configurations[0].records[0].protocol
    sampled = []
    for one in configurations:
        sampled.append(Sampling.of(one.counts(refinement), protocol, resamples))
        one.release()
    order = sorted(range(len(sampled)), key=lambda i: -sampled[i].percent("miou"))
    sampled = [sampled[i] for i in order]
    where = list(combinations(range(len(order)), 2))
    by_metric = {
        metric: compare_samplings([(sampled[i], sampled[j]) for i, j in where], metric) for metric in METRICS
    }
    found = {place: {metric: by_metric[metric][n] for metric in METRICS} for n, place in enumerate(where)}
    means = tuple({metric: one.percent(metric) for metric in METRICS} for one in sampled)
    return Pairs(tuple(configurations[i] for i in order), refinement, found, means)
