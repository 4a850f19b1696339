"""How much of a score is the method, and how much the backbone: a two-way table and its variance shares."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from uss_bench.plugins.specs import NO_BACKBONE
from uss_bench.results.collection import Configuration, TableKey
from uss_bench.results.record import BackboneId
from uss_bench.results.scores import METRICS, Metric, final_row


@dataclass(frozen=True)
class VarianceShares:
    """Parts of the total sum of squares of a table of scores; they add up to 1, or are all NaN."""

    method: float
    backbone: float
    both: float
    """Of the interaction: what a method gains on one backbone and loses on another, beyond both means."""
    seed: float


@dataclass(frozen=True)
class TwoWay:
    """Methods × backbones on one table, each cell with the same seeds."""

    table: TableKey
    rows: tuple[str, ...]
    """Labels of the methods' settings."""
    backbones: tuple[str, ...]
    seeds: tuple[int, ...]
    scores: dict[Metric, np.ndarray]
    """float64 (M, B, S), percent, last checkpoint, refined where there is a CRF."""
    left_out: tuple[tuple[str, tuple[str, ...]], ...]
    """Settings that some of the backbones lack, and which."""

    def shares(self, metric: Metric) -> VarianceShares:
        return variance_shares(self.scores[metric])


def variance_shares(scores: np.ndarray) -> VarianceShares:
    """Return the shares of method, backbone, their interaction and the seed, by sums of squares.

    Every cell has as many seeds, so the four are orthogonal and add up to the total (two-way analysis of
    variance with replication). They describe these methods on these backbones and estimate no population;
    with one seed its part cannot be told from the interaction, and is 0.

    Args:
        scores: float64 (M, B, S).
    """
    _, _, seeds = scores.shape
    cells, mean = scores.mean(axis=2), scores.mean()
    rows, columns = cells.mean(axis=1, keepdims=True), cells.mean(axis=0, keepdims=True)
    parts = [
        seeds * cells.shape[1] * ((rows - mean) ** 2).sum(),
        seeds * cells.shape[0] * ((columns - mean) ** 2).sum(),
        seeds * ((cells - rows - columns + mean) ** 2).sum(),
        ((scores - cells[..., None]) ** 2).sum(),
    ]
    total = sum(parts)
    return VarianceShares(*(float(part / total) if total else math.nan for part in parts))


def two_way(configurations: Iterable[Configuration]) -> list[TwoWay]:
    """Return a table for each set of test images and protocol on which two settings met two backbones.

    A setting is a method with all its parameters, its code and what it was trained on; a backbone is a name
    with its weights. The backbones of a table are those on which some setting was measured that was measured
    on more than one; its rows are the settings that were measured on all of them.
    """
    tables: dict[TableKey, dict[bytes, list[Configuration]]] = {}
    for one in configurations:
        if one.cell.backbone.name != NO_BACKBONE:
            tables.setdefault(one.table, {}).setdefault(_setting(one), []).append(one)
    found = []
    for table, settings in tables.items():
        shared = [group for group in settings.values() if len(group) > 1]
        backbones = sorted({one.cell.backbone.name for group in shared for one in group})
        whole = [group for group in shared if {one.cell.backbone.name for one in group} == {*backbones}]
        seeds = set[int].intersection(*({*one.seeds} for group in whole for one in group)) if whole else set()
        if len(whole) < 2 or not seeds:
            continue
        left_out = [
            (_label(group), tuple(sorted({*backbones} - {one.cell.backbone.name for one in group})))
            for group in shared
            if group not in whole
        ]
        ordered = [sorted(group, key=lambda one: one.cell.backbone.name) for group in whole]
        ordered.sort(key=_label)
        found.append(
            TwoWay(
                table=table,
                rows=tuple(map(_label, ordered)),
                backbones=tuple(backbones),
                seeds=tuple(sorted(seeds)),
                scores={metric: _scores(ordered, sorted(seeds), metric) for metric in METRICS},
                left_out=tuple(left_out),
            )
        )
    return found


def _setting(one: Configuration) -> bytes:
    bare = BackboneId(name="", sha256="", feature_dtype=one.cell.backbone.feature_dtype)
    return msgspec.json.encode(msgspec.structs.replace(one.cell, backbone=bare, seed=0), order="sorted")


def _label(group: Sequence[Configuration]) -> str:
    """Return the longest label: a setting needs a word more where it has neighbors."""
    return max((one.label for one in group), key=len)


def _scores(groups: Sequence[Sequence[Configuration]], seeds: Sequence[int], metric: Metric) -> np.ndarray:
    def of(one: Configuration) -> list[float]:
        by_seed = {record.cell.seed: getattr(final_row(record), metric) for record in one.records}
        return [by_seed[seed] for seed in seeds]

    return np.array([[of(one) for one in group] for group in groups], dtype=np.float64)
