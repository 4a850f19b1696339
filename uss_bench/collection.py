"""Records as boards, plots and statistics use them: read from folders, and gathered into settings.

A setting is all that a record's cell says but the seed; its records are repetitions of one experiment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from uss_bench.errors import DataError, UsageError, did_you_mean
from uss_bench.record_files import Arrays, read_arrays, read_record, record_files
from uss_bench.records import Cell, Checkpoint, Refinement, RunRecord

FLOORS = frozenset({"constant", "random"})
"""Methods that look at no feature: what any other has to beat, and no mean over methods holds."""


@dataclass(frozen=True)
class Entry:
    """A record and where it lies."""

    path: Path
    record: RunRecord

    @cached_property
    def arrays(self) -> Arrays:
        """The counts and maps, read and checked once."""
        return read_arrays(self.path, self.record)


@dataclass(frozen=True)
class Setting:
    """The records of one setting, by seed, and the label that tells it from its neighbours."""

    entries: tuple[Entry, ...]
    label: str
    """The method's name, and the parameters in which settings of one table differ."""

    @property
    def cell(self) -> Cell:
        """The first record's cell; all but its seed is shared."""
        return self.entries[0].record.cell

    @property
    def records(self) -> tuple[RunRecord, ...]:
        return tuple(entry.record for entry in self.entries)

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(entry.record.cell.seed for entry in self.entries)

    @property
    def table(self) -> TableKey:
        return TableKey.of(self.cell)

    def counts(self, refinement: Refinement = "crf", checkpoint: Checkpoint = "last") -> list[np.ndarray]:
        """Return the counts of every seed, int64 (N, K, C) each, images in the same order.

        Raises:
            DataError: when a record has none (label maps made elsewhere lack ``crf``), its npz is bad, or it
                counts other images, clusters or classes than the first.
        """
        found: list[np.ndarray] = []
        image_ids = self.entries[0].arrays.image_ids
        for entry in self.entries:
            arrays = entry.arrays
            counts = arrays.counts.get((checkpoint, refinement))
            if counts is None:
                raise DataError(f"{entry.path} has no {refinement} counts of checkpoint '{checkpoint}'.")
            if arrays.image_ids != image_ids or counts.shape != (found or [counts])[0].shape:
                raise DataError(
                    f"{entry.path} counts other images, clusters or classes than {self.entries[0].path}, and "
                    "both state the same data.",
                    hint="One of them is wrong: 'uss-bench audit records' may tell which.",
                )
            found.append(counts)
        return found


@dataclass(frozen=True, order=True)
class TableKey:
    """What all rows of one table share: results may be compared within it, and never across."""

    dataset: str
    test_split: str
    train_split: str
    limit: int
    """0 for all images."""
    fingerprint: str
    protocol: str
    protocol_hash: str

    @classmethod
    def of(cls, cell: Cell) -> TableKey:
        data = cell.dataset
        return cls(
            dataset=data.name,
            test_split=data.test_split,
            train_split=data.train_split,
            limit=data.limit or 0,
            fingerprint=data.fingerprint,
            protocol=cell.protocol,
            protocol_hash=cell.protocol_hash,
        )


def read_entries(folders: Iterable[Path]) -> tuple[list[Entry], list[str]]:
    """Return the records of finished runs below `folders`, and what is wrong with the unreadable ones."""
    entries: list[Entry] = []
    broken: list[str] = []
    for path in sorted({path for folder in folders for path in record_files(folder)}):
        if path.name.endswith(".failed.json"):
            continue
        try:
            entries.append(Entry(path, read_record(path)))
        except DataError as error:
            broken.append(str(error))
    return entries, broken


def gather(entries: Iterable[Entry]) -> list[Setting]:
    """Gather entries into settings, sorted by table, method and label.

    A record that lies in two places counts once. Unscored records (no labels) are left out.
    """
    unique = {entry.record.id: entry for entry in entries if entry.record.last is not None}
    by_setting: dict[bytes, list[Entry]] = {}
    for entry in unique.values():
        anonymous = msgspec.structs.replace(entry.record.cell, seed=0)
        by_setting.setdefault(msgspec.json.encode(anonymous, order="sorted"), []).append(entry)
    groups = [sorted(group, key=lambda one: one.record.cell.seed) for group in by_setting.values()]
    labels = _labels([group[0].record.cell for group in groups])
    settings = [Setting(tuple(group), label) for group, label in zip(groups, labels, strict=True)]
    return sorted(settings, key=lambda one: (one.table, one.cell.backbone.name, one.label))


def choose(
    settings: Sequence[Setting],
    *,
    method: str | None = None,
    dataset: str | None = None,
    backbone: str | None = None,
    protocol: str | None = None,
    params: Mapping[str, Any] | None = None,
) -> list[Setting]:
    """Return the settings that fit what is asked; None fits all.

    Args:
        method: the method's name, or a whole label.
        protocol: the protocol's id or hash.
        params: values that parameters of the method must have.

    Raises:
        UsageError: when nothing fits, with the nearest name if one name is the reason.
    """
    asked = {"method": method, "dataset": dataset, "backbone": backbone, "protocol": protocol}
    left = list(settings)
    for what, value in asked.items():
        if value is None:
            continue
        fitting = [one for one in left if value in _names(one, what)]
        if not fitting:
            elsewhere = any(value in _names(one, what) for one in settings)
            known = {name for one in left for name in _names(one, what)}
            raise UsageError(
                f"No record has the {what} '{value}'"
                + (" beside the rest that was asked." if elsewhere else "."),
                hint=did_you_mean(value, known) if known else "Make one: uss-bench run …",
            )
        left = fitting
    wanted = dict(params or {})
    fitting = [
        one
        for one in left
        if all(one.cell.method.params.get(name) == value for name, value in wanted.items())
    ]
    if not fitting:
        text = " ".join(f"{name}={value}" for name, value in wanted.items())
        raise UsageError(f"No record has the parameters {text}.", hint="uss-bench show lists the records.")
    return fitting


def _names(setting: Setting, what: str) -> set[str]:
    cell = setting.cell
    return {
        "method": {cell.method.name, setting.label},
        "dataset": {cell.dataset.name},
        "backbone": {cell.backbone.name},
        "protocol": {cell.protocol, cell.protocol_hash},
    }[what]


_FACTS: dict[str, Callable[[Cell], str]] = {
    "code": lambda cell: cell.method.code[:6],
    "alpha": lambda cell: f"{cell.alpha:g}",
    "features": lambda cell: cell.backbone.feature_dtype,
    "weights": lambda cell: cell.backbone.sha256[:6] or "none",
}
"""What may tell settings apart whose parameters are the same."""


def _labels(cells: Sequence[Cell]) -> list[str]:
    """Return, per cell, its method and the parameters that vary among its neighbours.

    A value that most of them have is left out, so that a study's rows are named by what they change.
    """
    neighbours: dict[tuple[TableKey, str, str], list[Cell]] = {}
    for cell in cells:
        neighbours.setdefault((TableKey.of(cell), cell.backbone.name, cell.method.name), []).append(cell)
    labels = []
    for cell in cells:
        group = neighbours[TableKey.of(cell), cell.backbone.name, cell.method.name]
        params = cell.method.params
        twins = [other for other in group if other.method.params == params]
        differs = [
            f"{name}={_shown(value)}"
            for name, value in params.items()
            if 2 * sum(other.method.params.get(name) == value for other in group) <= len(group)
        ]
        differs += [
            f"{name} {fact(cell)}"
            for name, fact in _FACTS.items()
            if any(fact(other) != fact(cell) for other in twins)
        ]
        labels.append(f"{cell.method.name} ({', '.join(differs)})" if differs else cell.method.name)
    return labels


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
