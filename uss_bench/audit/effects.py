"""What a change of one rule does to the scores, measured on records.

Rules that act on counts need no other run: the counts are scored twice. Everything else is read from
pairs of records that differ in that rule only (`uss_bench.audit.pairs`).
"""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from uss_bench.audit.pairs import Pair, find_pairs
from uss_bench.collection import FLOORS, Entry, Setting
from uss_bench.errors import UsageError
from uss_bench.protocol import get_protocol
from uss_bench.records import Checkpoint, Refinement, RunRecord
from uss_bench.scoring import Scores, score

SCORING_RULES = ("extra_clusters", "matching", "absent_classes")


@dataclass(frozen=True)
class Change:
    """One rule, before and after.

    `field` is a field of `uss_bench.protocol.Protocol` (its CRF's as ``crf.iterations``), or ``crf``
    (``off``, ``on``), or ``checkpoint`` (``last``, ``selected``).
    """

    field: str
    before: Any
    after: Any

    @property
    def source(self) -> Literal["counts", "pairs"]:
        """What the effect is measured on."""
        return "counts" if self.field in (*SCORING_RULES, "crf", "checkpoint") else "pairs"


@dataclass(frozen=True)
class Shift:
    """The change of one setting's scores, in percent points, mean over its seeds."""

    setting: Setting
    seeds: int
    accuracy: float
    miou: float

    @property
    def floor(self) -> bool:
        return self.setting.cell.method.name in FLOORS


@dataclass(frozen=True)
class Effect:
    """A change and what it does to every setting on which it can act."""

    change: Change
    shifts: tuple[Shift, ...]

    @property
    def methods(self) -> list[Shift]:
        """The shifts without those of the floors, which would drown what methods show."""
        return [one for one in self.shifts if not one.floor]

    def summary(self, metric: Literal["accuracy", "miou"]) -> tuple[float, float, float]:
        """Return mean, least and greatest shift over the settings of `methods`, in percent points."""
        values = [getattr(one, metric) for one in self.methods]
        return statistics.fmean(values), min(values), max(values)


COUNTED = (
    Change("extra_clusters", "strict", "drop"),
    Change("extra_clusters", "strict", "merge"),
    Change("matching", "hungarian", "many-to-one"),
    Change("absent_classes", "skip-empty-union", "zero"),
    Change("crf", "off", "on"),
    Change("checkpoint", "last", "selected"),
)
"""The changes whose effect the counts of any record show."""

PAIRED = (
    Change("resize", "nearest", "bilinear"),
    Change("flip", True, False),
    Change("upsample", "code", "logits"),
    Change("extent", "square", "whole"),
)
"""The changes in which published protocols differ, and which take a pair of records."""


def measure(change: Change, settings: Sequence[Setting]) -> Effect:
    """Measure a change on every setting on which it can act.

    It cannot act on a setting without extra clusters, without classes that nothing predicts and
    nobody sees, without refined counts, or without offered checkpoints, as the case may be.

    Raises:
        DataError: when the npz of a record is missing or damaged.
    """
    if change.source == "pairs":
        pairs = [turned for pair in find_pairs(settings) for turned in (pair, pair.turned())]
        fitting = [one for one in pairs if (one.field, *one.values) == _key(change)]
        return Effect(change, tuple(_paired(one) for one in fitting))
    shifts = []
    for one in settings:
        scored = [_rescored(change, entry) for entry in one.entries if _acts(change, entry)]
        if scored:
            shifts.append(_shift(one, scored))
    return Effect(change, tuple(shifts))


def all_effects(settings: Sequence[Setting]) -> list[Effect]:
    """Measure the changes of `COUNTED` and `PAIRED`, and every other that a pair of records shows."""
    changes = dict.fromkeys((*COUNTED, *PAIRED))
    for pair in find_pairs(settings):
        forward, back = (Change(one.field, *one.values) for one in (pair, pair.turned()))
        if forward.source == "pairs" and back not in changes:
            changes[forward] = None
    return [measure(change, settings) for change in changes]


def _key(change: Change) -> tuple[Any, ...]:
    return change.field, change.before, change.after


def _acts(change: Change, entry: Entry) -> bool:
    record = entry.record
    assert record.last is not None
    if change.field == "extra_clusters":
        return record.clusters > len(record.classes)
    if change.field == "absent_classes":
        return any(value is None for value in (record.last.crf or record.last.raw).iou)
    if change.field == "crf":
        return record.last.crf is not None
    return change.field == "matching" or (record.selected is not None and len(record.candidates) > 1)


def _rescored(change: Change, entry: Entry) -> tuple[Scores, Scores]:
    record = entry.record
    refinement: Refinement = "raw" if record.last is not None and record.last.crf is None else "crf"

    def scored(value: Any) -> Scores:
        where: tuple[Checkpoint, Refinement] = ("last", refinement)
        rules = {name: getattr(record.protocol, name) for name in SCORING_RULES}
        if change.field == "crf":
            where = ("last", "crf" if value == "on" else "raw")
        elif change.field == "checkpoint":
            where = (value, refinement)
        else:
            rules[change.field] = value
        return score(entry.arrays.counts[where], **rules)

    return scored(change.before), scored(change.after)


def _shift(setting: Setting, scored: Sequence[tuple[Scores, Scores]]) -> Shift:
    def mean(read: Callable[[Scores], float]) -> float:
        return 100 * statistics.fmean(read(after) - read(before) for before, after in scored)

    return Shift(setting, len(scored), mean(lambda one: one.accuracy), mean(lambda one: one.miou))


def _paired(pair: Pair) -> Shift:
    first, second = (_by_seed(one.records) for one in (pair.first, pair.second))
    differences = np.array([np.subtract(second[seed], first[seed]) for seed in pair.seeds])
    accuracy, miou = differences.mean(axis=0)
    return Shift(pair.first, len(pair.seeds), float(accuracy), float(miou))


def _by_seed(records: Iterable[RunRecord]) -> dict[int, tuple[float, float]]:
    """Return accuracy and mIoU of the last checkpoint, refined where it was, in percent."""
    found = {}
    for record in records:
        assert record.last is not None
        row = record.last.crf or record.last.raw
        found[record.cell.seed] = (row.accuracy or 0.0, row.miou or 0.0)
    return found


def commands(change: Change, settings: Sequence[Setting], out: Path) -> list[str]:
    """Return the commands that would make records for this change, less those that lie there.

    They use generated data and k-means, so that they run anywhere in minutes; empty when no option of
    ``uss-bench run`` makes the change.
    """
    run = f"uss-bench run --method dino --dataset toy27 --seeds 3 --out {shlex.quote(str(out))}"
    if change.field == "absent_classes":
        return []  # whether a class is absent is up to the data
    if change.field == "extra_clusters":
        return [f"{run} --preset over-clustering"]
    if change.source == "counts":
        return [run]
    names = [_protocol_with(change.field, value) for value in (change.before, change.after)]
    there = {
        one.cell.protocol
        for one in settings
        if (one.cell.method.name, one.cell.dataset.name) == ("dino", "toy27")
        and one.cell.dataset.limit is None
    }
    known = [name for name in names if name is not None]
    if len(known) < len(names):
        return []
    return [f"{run} --protocol {shlex.quote(name)}" for name in known if name not in there]


def _protocol_with(field: str, value: Any) -> str | None:
    """Return the id of ``stego320@1`` with one field changed; None where that cannot be asked for."""
    text = msgspec.json.encode(value).decode().strip('"')
    try:
        return get_protocol(f"stego320@1[{field}={text}]").id
    except UsageError:
        return None
