"""What a change of one rule does to the scores, measured on records.

Rules that act on counts need no other run: the counts are scored twice. Everything else is read from
pairs of records that differ in that rule only (`uss_bench.audit.pairs`).
"""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from uss_bench.audit.pairs import Pair, find_pairs
from uss_bench.errors import UsageError
from uss_bench.evaluation.scoring import Scores, score
from uss_bench.plugins.specs import NO_BACKBONE
from uss_bench.protocol import TrainingGeometry, change_training, get_protocol, shown
from uss_bench.results.collection import Configuration, Entry, is_floor
from uss_bench.results.differences import Change
from uss_bench.results.record import Checkpoint, Refinement
from uss_bench.results.scores import Metric, final_row, score_row

SCORING_RULES = ("extra_clusters", "matching", "absent_classes")

COUNTED = (
    Change("extra_clusters", "strict", "drop"),
    Change("extra_clusters", "strict", "merge"),
    Change("matching", "hungarian", "many-to-one"),
    Change("absent_classes", "skip-empty-union", "zero"),
    Change("crf", "off", "on"),
    Change("checkpoint", "last", "selected"),
)
"""The changes whose effect the counts of any record show. All but the last two are fields of a protocol."""

PAIRED = (
    Change("resize", "nearest", "bilinear"),
    Change("flip", True, False),
    Change("upsample", "code", "logits"),
    Change("extent", "square", "squash"),
    Change("extent", "square", "whole"),
)
"""The changes in which published protocols differ, and which take a pair of records."""


@dataclass(frozen=True)
class Shift:
    """The change of one configuration's scores, in percent points, mean over its seeds."""

    configuration: Configuration
    seeds: int
    accuracy: float
    miou: float
    floor: bool
    """Whether the method looks at no feature."""


@dataclass(frozen=True)
class Effect:
    """A change and what it does to every configuration on which it can act."""

    change: Change
    shifts: tuple[Shift, ...]

    @property
    def methods(self) -> list[Shift]:
        """The shifts without those of the floors, which would drown what methods show."""
        return [one for one in self.shifts if not one.floor]

    def summary(self, metric: Metric) -> tuple[float, float, float]:
        """Return mean, least and greatest shift over the configurations of `methods`, in percent points."""
        values = [getattr(one, metric) for one in self.methods]
        return statistics.fmean(values), min(values), max(values)


def measured_on(change: Change) -> Literal["counts", "pairs"]:
    """Return what the effect of a change is measured on."""
    return "counts" if change.field in {one.field for one in COUNTED} else "pairs"


def measure(change: Change, configurations: Sequence[Configuration], floors: Collection[str] = ()) -> Effect:
    """Measure a change on every configuration on which it can act.

    It cannot act on a configuration without extra clusters, without classes that are neither predicted nor
    true, without refined counts, or without offered checkpoints, as the case may be.

    Args:
        floors: names of the methods that look at no feature.

    Raises:
        DataError: when the npz of a record is missing or damaged.
    """
    found: list[tuple[Configuration, list[tuple[float, float]]]] = []
    if measured_on(change) == "pairs":
        pairs = [turned for pair in find_pairs(configurations) for turned in (pair, pair.reversed())]
        found = [(pair.first, _paired(pair)) for pair in pairs if pair.change == change]
    else:
        for one in configurations:
            if shifts := [_rescored(change, entry) for entry in one.entries if acts(change, entry)]:
                found.append((one, shifts))
    return Effect(change, tuple(_shift(one, shifts, floors) for one, shifts in found))


def _shift(
    configuration: Configuration, by_seed: Sequence[tuple[float, float]], floors: Collection[str]
) -> Shift:
    accuracy, miou = map(statistics.fmean, zip(*by_seed, strict=True))
    return Shift(configuration, len(by_seed), accuracy, miou, is_floor(configuration, floors))


def all_effects(configurations: Sequence[Configuration], floors: Collection[str] = ()) -> list[Effect]:
    """Measure the changes of `COUNTED` and `PAIRED`, and every other that a pair of records shows."""
    changes = dict.fromkeys((*COUNTED, *PAIRED))
    for pair in find_pairs(configurations):
        if measured_on(pair.change) == "pairs" and pair.reversed().change not in changes:
            changes[pair.change] = None
    return [measure(change, configurations, floors) for change in changes]


def acts(change: Change, entry: Entry) -> bool:
    """Whether a change that counts show can act on a record; see `measure`."""
    record = entry.record
    if change.field == "extra_clusters":
        return record.clusters > len(record.classes)
    if change.field == "absent_classes":
        return any(value is None for value in final_row(record).iou)
    if change.field == "crf":
        return record.last is not None and record.last.crf is not None
    return change.field == "matching" or (record.selected is not None and len(record.candidates) > 1)


def _rescored(change: Change, entry: Entry) -> tuple[float, float]:
    """Return how accuracy and mIoU of a record shift, in percent points."""
    record = entry.record
    refinement: Refinement = "crf" if record.last is not None and record.last.crf else "raw"

    def scored(value: Any) -> Scores:
        where: tuple[Checkpoint, Refinement] = ("last", refinement)
        rules = {name: getattr(record.protocol, name) for name in SCORING_RULES}
        if change.field == "crf":
            where = ("last", "crf" if value == "on" else "raw")
        elif change.field == "checkpoint":
            where = (value, refinement)
        else:
            rules[change.field] = value
        row = score_row(record, where[1], where[0])
        fixed = row.class_of_cluster if row is not None and record.protocol.match_on == "train" else None
        return score(entry.arrays.counts[where], **rules, class_of_cluster=fixed)

    before, after = scored(change.before), scored(change.after)
    return 100 * (after.accuracy - before.accuracy), 100 * (after.miou - before.miou)


def _paired(pair: Pair) -> list[tuple[float, float]]:
    """Return how the final accuracy and mIoU shift from the first to the second, per common seed."""
    rows = [
        {record.cell.seed: final_row(record) for record in one.records} for one in (pair.first, pair.second)
    ]
    return [
        (
            (rows[1][seed].accuracy or 0.0) - (rows[0][seed].accuracy or 0.0),
            (rows[1][seed].miou or 0.0) - (rows[0][seed].miou or 0.0),
        )
        for seed in pair.seeds
    ]


def commands(change: Change, configurations: Sequence[Configuration], out: Path) -> list[str]:
    """Return the commands that would make records for this change, without those that exist.

    They run the method and the data that trained fastest among `configurations` with a backbone (floors look
    at no feature), or name none where there are no records. Empty when no option of ``uss-bench run`` makes
    the change.
    """
    trained = [one for one in configurations if one.records[0].cell.backbone.name != NO_BACKBONE]
    fastest = min(trained, key=_training_seconds, default=None)
    same = [one for one in configurations if fastest and _subject(one) == _subject(fastest)]
    method, dataset = _subject(fastest) if fastest else ("METHOD", "DATASET")
    run = f"uss-bench run --method {method} --dataset {dataset} --seeds 3 --out {shlex.quote(str(out))}"
    if change.field == "absent_classes":
        return []  # whether a class is absent is up to the data
    if change.field == "extra_clusters":
        return [f"{run} --set clusters={2 * len(fastest.records[0].classes) if fastest else 54}"]
    if measured_on(change) == "counts":
        return [run]
    try:
        wanted = [_asked_for(change.field, value) for value in (change.before, change.after)]
    except UsageError:
        return []
    present = [(one.cell.protocol, one.cell.training) for one in same]
    return [f"{run} {option}" for option, experiment in wanted if experiment not in present]


def _asked_for(field: str, value: Any) -> tuple[str, tuple[str, TrainingGeometry]]:
    """Return the option that changes a field of ``stego320@2`` or of training, and what it asks for.

    Raises:
        UsageError: when there is no such field.
    """
    base, training = get_protocol("stego320@2"), TrainingGeometry()
    scope, _, name = field.partition(".")
    if scope == "training":
        changed = change_training(training, {name: value}, "--training")
        return f"--training {shlex.quote(f'{name}={shown(value)}')}", (base.id, changed)
    protocol = get_protocol(f"{base.id}[{field}={shown(value)}]").id
    return f"--protocol {shlex.quote(protocol)}", (protocol, training)


def _subject(configuration: Configuration) -> tuple[str, str]:
    return configuration.cell.method.name, configuration.cell.dataset.name


def _training_seconds(configuration: Configuration) -> float:
    train = configuration.records[0].phases.get("train")
    return train.seconds if train else float("inf")
