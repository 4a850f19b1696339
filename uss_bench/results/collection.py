"""Records as boards, plots and statistics use them: read from folders, and gathered into configurations.

A configuration is all that a record's cell says but the seed; its records are repetitions of one experiment.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from uss_bench.errors import DataError, UsageError, did_you_mean
from uss_bench.plugins.specs import NO_BACKBONE
from uss_bench.results.arrays import Arrays, as_classes
from uss_bench.results.files import read_arrays, read_record, record_files
from uss_bench.results.record import RELEASED, Cell, Checkpoint, Refinement, RunRecord
from uss_bench.results.scores import four_scores, score_row
from uss_bench.runtime.formatting import assignments, value_text


@dataclass(frozen=True)
class Entry:
    """A record and where it lies."""

    path: Path
    record: RunRecord

    @cached_property
    def arrays(self) -> Arrays:
        """The counts and maps, read and checked once."""
        return read_arrays(self.path, self.record)

    def release(self) -> None:
        """Forget the arrays; they are read again when somebody asks."""
        self.__dict__.pop("arrays", None)

    def __repr__(self) -> str:
        cell, last = self.record.cell, self.record.last
        scores = "no scores"
        if last is not None:
            accuracy, miou = four_scores(last)[-2:]
            scores = f"Acc {accuracy:.1f}, mIoU {miou:.1f}" + (" with CRF" if last.crf else "")
        return f"<{cell.method.name} on {cell.dataset.name}, seed {cell.seed}: {scores}; {self.path}>"


@dataclass(frozen=True)
class Configuration:
    """The records of one configuration, by seed, and the label that tells it from its neighbors."""

    entries: tuple[Entry, ...]
    label: str
    """The method's name, and the parameters in which configurations of one table differ."""
    title: str = ""
    """What people call it; empty for its label."""
    place: int | None = None
    """Of its method among all that are known, which fixes its color."""

    @property
    def name(self) -> str:
        """What a table or a figure calls it."""
        return self.title or self.label

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

    @property
    def refined(self) -> bool:
        """Whether every record has scores after a CRF."""
        return all(one.last is not None and one.last.crf is not None for one in self.records)

    def release(self) -> None:
        """Forget the arrays of every record; they are read again when somebody asks."""
        for entry in self.entries:
            entry.release()

    def counts(self, refinement: Refinement = "crf", checkpoint: Checkpoint = "last") -> list[np.ndarray]:
        """Return the counts of every seed, int64 (N, K, C) each, images in the same order.

        Where the protocol matches clusters on the training split they are added up by class, to
        (N, C + 1, C), which is all that its scores depend on.

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
        return [_by_class(*one, checkpoint, refinement) for one in zip(self.records, found, strict=True)]


def _by_class(
    record: RunRecord, counts: np.ndarray, checkpoint: Checkpoint, refinement: Refinement
) -> np.ndarray:
    row = score_row(record, refinement, checkpoint)
    if record.protocol.match_on == "test" or row is None:
        return counts
    drop_extra = record.protocol.extra_clusters == "drop"
    return as_classes(counts, row.class_of_cluster, drop_extra=drop_extra)


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


def read_entries(folders: Iterable[Path], *, failed: bool = False) -> tuple[list[Entry], list[str]]:
    """Return the records below `folders`, and a sentence about each that cannot be read or holds no score.

    Args:
        failed: also return those of failed runs.
    """
    entries: list[Entry] = []
    unreadable: list[OSError] = []
    paths = sorted({path for folder in folders for path in record_files(folder, unreadable)})
    broken = [f"{one.filename} cannot be read: {one.strerror}." for one in unreadable]
    for path in paths:
        if path.name.endswith(".failed.json") and not failed:
            continue
        try:
            entry = Entry(path, read_record(path))
        except DataError as error:
            broken.append(str(error))
            continue
        entries.append(entry)
        if entry.record.last is not None and not is_scored(entry.record):
            broken.append(f"{path} holds no score: no pixel of its test images has a label.")
    return entries, broken


def shared_identity(cell: Cell, *params: str) -> bytes:
    """Return what cells have in common that differ at most in their seed and in these parameters."""
    rest = {name: value for name, value in cell.method.params.items() if name not in params}
    method = msgspec.structs.replace(cell.method, params=rest)
    return msgspec.json.encode(msgspec.structs.replace(cell, seed=0, method=method), order="sorted")


def is_floor(configuration: Configuration, floors: Collection[str]) -> bool:
    """Whether a configuration looks at no feature; `floors` names the methods that can do without any."""
    return configuration.cell.method.name in floors and configuration.cell.backbone.name == NO_BACKBONE


def is_scored(record: RunRecord) -> bool:
    """Whether a record has scores that are numbers: its data had labels, and some pixel had one."""
    rows = [row for _, _, row in record.score_rows()]
    return record.last is not None and all(None not in (row.accuracy, row.miou) for row in rows)


def gather(entries: Iterable[Entry]) -> list[Configuration]:
    """Gather entries into configurations, sorted by table, method and label.

    A record that lies in two places counts once. Those without a score are left out.
    """
    unique = {entry.record.id: entry for entry in entries if is_scored(entry.record)}
    by_setting: dict[bytes, list[Entry]] = {}
    for entry in unique.values():
        by_setting.setdefault(shared_identity(entry.record.cell), []).append(entry)
    groups = [sorted(group, key=lambda one: one.record.cell.seed) for group in by_setting.values()]
    labels = _labels([group[0].record.cell for group in groups])
    configurations = [Configuration(tuple(group), label) for group, label in zip(groups, labels, strict=True)]
    return sorted(configurations, key=lambda one: (one.table, one.cell.backbone.name, one.label))


def with_counts(configurations: Iterable[Configuration], broken: list[str]) -> list[Configuration]:
    """Return configurations of the records whose counts can be read and compared; see `counted`.

    None of them are held: the counts of a large table take more than the memory.
    """
    found = []
    for one in counted(configurations, broken):
        one.release()
        found.append(one)
    return found


def counted(configurations: Iterable[Configuration], broken: list[str]) -> Iterator[Configuration]:
    """Yield configurations of the records whose counts can be read and compared, reading one at a time.

    Args:
        broken: receives a sentence about each of the other records.
    """
    for configuration in configurations:
        sound: list[Entry] = []
        for entry in configuration.entries:
            try:
                Configuration((*sound[:1], entry), "").counts("raw")
                sound.append(entry)
            except DataError as error:
                broken.append(str(error))
        if sound:
            yield replace(configuration, entries=tuple(sound))


def choose(
    configurations: Sequence[Configuration],
    *,
    method: str | None = None,
    dataset: str | None = None,
    backbone: str | None = None,
    protocol: str | None = None,
    params: Mapping[str, Any] | None = None,
) -> list[Configuration]:
    """Return the configurations that fit what is asked; None fits all.

    Args:
        method: the method's name, or a whole label.
        protocol: the protocol's id or hash.
        params: values that parameters of the method must have.

    Raises:
        UsageError: when nothing fits, with the nearest name if one name is the reason.
    """
    asked = {"method": method, "dataset": dataset, "backbone": backbone, "protocol": protocol}
    left = list(configurations)
    for what, value in asked.items():
        if value is None:
            continue
        fitting = [one for one in left if value in _names(one, what)]
        if not fitting:
            elsewhere = any(value in _names(one, what) for one in configurations)
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
        text = assignments(wanted)
        raise UsageError(f"No record has the parameters {text}.", hint="uss-bench show lists the records.")
    return fitting


def _names(configuration: Configuration, what: str) -> set[str]:
    cell = configuration.cell
    return {
        "method": {cell.method.name, configuration.label},
        "dataset": {cell.dataset.name},
        "backbone": {cell.backbone.name},
        "protocol": {cell.protocol, cell.protocol_hash},
    }[what]


_FACTS: dict[str, Callable[[Cell], str]] = {
    "trained on": lambda cell: cell.training.describe(),
    "code": lambda cell: cell.method.code[:6],
    "alpha": lambda cell: f"{cell.alpha:g}",
    "features": lambda cell: cell.backbone.feature_dtype,
    "weights": lambda cell: cell.backbone.sha256[:6] or "none",
    "positions": lambda cell: cell.backbone.positions or "none",
}
"""What may tell configurations apart whose parameters are the same."""


def called(configurations: Iterable[Configuration], titles: Mapping[str, str]) -> list[Configuration]:
    """Return configurations with title and place.

    Args:
        titles: of all methods, by name; a whole label may have one too.
    """
    places = {name: place for place, name in enumerate(titles)}
    found = []
    for one in configurations:
        method = one.cell.method.name
        setting = one.label.removeprefix(method).replace("(external)", "").strip()
        title = f"{display_name(one.cell, titles)} {setting}".strip()
        if setting:
            title = titles.get(one.label, title)
        found.append(replace(one, title=title, place=places.get(method)))
    return found


def setting_changes(cell: Cell, base: Cell) -> str:
    """Return what a cell changes of another one of its method: ``standardize=false, trained on …``."""
    params = base.method.params
    differs = [
        f"{name}={value_text(value)}"
        for name, value in cell.method.params.items()
        if name not in params or params[name] != value
    ]
    differs += [f"{name} {fact(cell)}" for name, fact in _FACTS.items() if fact(cell) != fact(base)]
    return ", ".join(differs)


def display_name(cell: Cell, titles: Mapping[str, str]) -> str:
    """Return what people call a cell's method; ``{backbone}`` in a title stands for the backbone's name.

    Args:
        titles: of methods, by name.
    """
    method = cell.method
    title = titles.get(method.name, method.name).replace("{backbone}", cell.backbone.name)
    return f"{title} (external)" if method.is_external else title


def _labels(cells: Sequence[Cell]) -> list[str]:
    """Return, per cell, its method and the parameters that vary among its neighbors.

    A value that most of them have is left out, so that a study's rows are named by what they change.
    """
    neighbors: dict[tuple[TableKey, str, str], list[Cell]] = {}
    for cell in cells:
        neighbors.setdefault((TableKey.of(cell), cell.backbone.name, cell.method.name), []).append(cell)
    labels = []
    for cell in cells:
        group = neighbors[TableKey.of(cell), cell.backbone.name, cell.method.name]
        params = cell.method.params
        twins = [other for other in group if other.method.params == params]
        differs = [
            f"{name}={value_text(value)}"
            for name, value in params.items()
            if 2 * sum(other.method.params.get(name) == value for other in group) <= len(group)
        ]
        differs += [
            f"{name} {fact(cell)}"
            for name, fact in _FACTS.items()
            if any(fact(other) != fact(cell) for other in twins)
        ]
        if cell.method.is_external or cell.is_released:
            differs.insert(0, RELEASED if cell.is_released else "external")
        labels.append(f"{cell.method.name} ({', '.join(differs)})" if differs else cell.method.name)
    return labels
