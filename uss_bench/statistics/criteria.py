"""Choosing among settings of a method without labels, and how well such choices agree with the labels.

A setting is a configuration: one method, one choice of parameters, several seeds. Four criteria are read of
it, each larger for what is thought better. None has a constant that was fitted to scores.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from uss_bench.evaluation.scoring import count, score
from uss_bench.results.collection import Configuration, Entry
from uss_bench.results.record import Criteria
from uss_bench.results.scores import final_row

CRITERIA = {
    "seeds": "seeds agree",
    "views": "mirror images agree",
    "balance": "balance",
    "silhouette": "silhouette",
}
COMBINED = "rank"
"""The mean of a setting's ranks under all criteria that every setting has."""
LEAST_SETTINGS = 3


@dataclass(frozen=True)
class Reading:
    """A setting and its criteria, from 0 or −1 to 1; a criterion that cannot be read is missing."""

    configuration: Configuration
    values: Mapping[str, float]

    @property
    def miou(self) -> float:
        """Mean over the seeds, in percent: what a choice without labels never looks at."""
        return statistics.fmean(final_row(record).miou or 0.0 for record in self.configuration.records)


def read_setting(configuration: Configuration) -> Reading:
    """Read the criteria of a setting off its records.

    Raises:
        DataError: when the npz of a record is missing or damaged.
    """
    values: dict[str, float] = {}
    pairs = list(itertools.combinations(configuration.entries, 2))
    if pairs:
        values["seeds"] = statistics.fmean(seeds_agree(one, other) for one, other in pairs)
    found = [record.criteria for record in configuration.records]
    read: dict[str, Callable[[Criteria], float | None]] = {
        "views": lambda one: one.views,
        "balance": lambda one: one.balance,
        "silhouette": lambda one: one.silhouette,
    }
    for name, of in read.items():
        of_seeds = [None if one is None else of(one) for one in found]
        known = [value for value in of_seeds if value is not None]
        if len(known) == len(of_seeds):
            values[name] = statistics.fmean(known)
    return Reading(configuration, values)


def seeds_agree(one: Entry, other: Entry) -> float:
    """Return the share of pixels that two runs label alike, after Hungarian matching of their clusters.

    The pixels are those of the unrefined label maps that every record keeps of a few fixed images.
    """
    clusters = max(one.record.clusters, other.record.clusters)
    maps = [entry.arrays.maps["last", "raw"] for entry in (one, other)]
    both = sum(count(a, b.astype(np.int16), clusters, clusters) for a, b in zip(*maps, strict=True))
    return score(np.asarray(both)).accuracy


def choose(readings: Sequence[Reading], criterion: str) -> Reading | None:
    """Return the setting that a criterion prefers, the first of equals; None where it cannot be read of all.

    Args:
        criterion: one of `CRITERIA`, or `COMBINED`.
    """
    values = _values(readings, criterion)
    return None if values is None else readings[int(np.argmax(values))]


def _values(readings: Sequence[Reading], criterion: str) -> list[float] | None:
    """Return the criterion of every setting, the larger the better; None where some setting lacks it."""
    if criterion == COMBINED:
        each = [values for name in CRITERIA if (values := _values(readings, name)) is not None]
        ranks = [stats.rankdata(values) for values in each]  # the largest has the largest
        return [float(rank) for rank in np.mean(ranks, axis=0)] if ranks else None
    known = [one.values[criterion] for one in readings if criterion in one.values]
    return known if len(known) == len(readings) else None


@dataclass(frozen=True)
class Choice:
    """What one criterion chose among the settings of one method on one table, seen with labels."""

    criterion: str
    readings: tuple[Reading, ...]
    chosen: Reading
    correlation: float
    """Spearman's, between criterion and mIoU over the settings; NaN where one of them is constant."""

    @property
    def gain(self) -> float:
        """The mIoU of the chosen setting less the mean of all, in points: what a blind choice would have."""
        return self.chosen.miou - statistics.fmean(one.miou for one in self.readings)

    @property
    def loss(self) -> float:
        """The mIoU of the best setting less that of the chosen one, in points."""
        return max(one.miou for one in self.readings) - self.chosen.miou


def judge(configurations: Sequence[Configuration]) -> list[Choice]:
    """Return what each criterion chose in every group of settings that labels can judge.

    A group is the settings of one method on one table with one backbone and as many seeds; it counts from
    `LEAST_SETTINGS` settings.

    Raises:
        DataError: when the npz of a record is missing or damaged.
    """
    groups: dict[tuple[object, ...], list[Configuration]] = {}
    for one in configurations:
        cell = one.cell
        groups.setdefault((one.table, cell.backbone, cell.method.name, len(one.seeds)), []).append(one)
    found = []
    for group in groups.values():
        records = [record for one in group for record in one.records]
        if len(group) < LEAST_SETTINGS or any(record.criteria is None for record in records):
            continue
        readings = tuple(map(read_setting, group))
        for criterion in (*CRITERIA, COMBINED):
            values, chosen = _values(readings, criterion), choose(readings, criterion)
            if values is not None and chosen is not None:
                found.append(Choice(criterion, readings, chosen, _correlation(values, readings)))
    return found


def _correlation(values: Sequence[float], readings: Sequence[Reading]) -> float:
    scores = [one.miou for one in readings]
    if len(set(values)) == 1 or len(set(scores)) == 1:
        return float("nan")
    return float(stats.spearmanr(values, scores).statistic)
