"""From records of features to tables: a row per backbone, a column per measure."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from uss_bench.plugins.specs import BackboneSpec
from uss_bench.results.feature_record import FeatureCell, FeatureRecord, FeatureRow

OVER_CLUSTERING = "over-clustering"


@dataclass(frozen=True, slots=True)
class Column:
    """One measure under one setting: rows of two backbones are compared within a column, and only there."""

    name: str
    measure: str
    uses_labels: bool
    clusters: int | None

    @property
    def title(self) -> str:
        """Return the name without the number of clusters."""
        return self.name.replace(f" K={self.clusters}", "")


@dataclass(frozen=True, slots=True)
class BackboneRow:
    """The records of one backbone, or of one of its blocks; they differ in the seed only."""

    name: str
    facet: str
    paths: tuple[Path, ...]
    records: tuple[FeatureRecord, ...]
    card: BackboneSpec | None
    """None for weights of the user's own, about which no card says anything."""
    values: Mapping[str, tuple[float, ...]]
    """mIoU in percent over seeds and draws, by the name of a column."""

    @property
    def first(self) -> FeatureRecord:
        return self.records[0]

    @property
    def is_block(self) -> bool:
        """Whether it is one block of a sweep: the best of them is known from labels alone, and not ranked."""
        return self.facet != "tokens"

    @property
    def gflops(self) -> float | None:
        """Of one image; None where nothing was counted."""
        cost = self.first.cost
        return cost.flops / 1e9 if cost is not None and cost.flops else None

    def mean(self, column: Column) -> float | None:
        values = self.values.get(column.name)
        return statistics.fmean(values) if values else None


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """Backbones that were measured on the same pixels under the same settings."""

    cell: FeatureCell
    """Of one of them: all that they share is in it."""
    images: int
    classes: int
    columns: tuple[Column, ...]
    rows: tuple[BackboneRow, ...]
    """Best k-means first; blocks of a backbone last."""

    @property
    def unlabeled(self) -> list[Column]:
        return [one for one in self.columns if not one.uses_labels]

    @property
    def unlabeled_groups(self) -> list[list[Column]]:
        """The same, by measure."""
        grouped = itertools.groupby(self.unlabeled, key=lambda one: one.title)
        return [list(found) for _, found in grouped]

    @property
    def labeled(self) -> list[Column]:
        """The columns whose measure learned from the labels of the training split."""
        return [one for one in self.columns if one.uses_labels]

    @property
    def slug(self) -> str:
        return f"{self.cell.dataset.name}-{self.cell.protocol_hash[:6]}"

    def best(self, column: Column) -> float:
        """Return the largest mean of a column, of blocks aside; 0 if there is none."""
        return max((row.mean(column) or 0.0 for row in self.rows if not row.is_block), default=0.0)

    def curve(self, row: BackboneRow) -> list[tuple[int, float]]:
        """Return (K, mIoU) of a backbone's over-clustering."""
        found = [
            (one.clusters, mean)
            for one in self.columns
            if one.measure == OVER_CLUSTERING and one.clusters and (mean := row.mean(one)) is not None
        ]
        return sorted(found)


def feature_tables(
    records: Iterable[tuple[Path, FeatureRecord]],
    *,
    card: Callable[[str], BackboneSpec | None] = lambda name: None,
) -> list[FeatureTable]:
    """Return one table per data, protocol, training geometry and settings, in the order of their names.

    Args:
        card: the card of a backbone by its name in a record.
    """
    groups: dict[bytes, list[tuple[Path, FeatureRecord]]] = {}
    for path, record in records:
        groups.setdefault(_shared(record.cell), []).append((path, record))
    found = [_table(group, card) for group in groups.values()]
    return sorted(
        found, key=lambda table: (table.cell.dataset.name, table.cell.protocol, _shared(table.cell))
    )


def _shared(cell: FeatureCell) -> bytes:
    """Return what two records of one table have in common."""
    settings = msgspec.structs.replace(cell.settings, measures=())
    data = [cell.dataset, cell.training.stated, cell.protocol_hash, settings]
    return msgspec.json.encode(data, order="sorted")


def _table(
    group: Sequence[tuple[Path, FeatureRecord]], card: Callable[[str], BackboneSpec | None]
) -> FeatureTable:
    backbones: dict[tuple[str, str, str], list[tuple[Path, FeatureRecord]]] = {}
    for path, record in group:
        cell = record.cell
        backbones.setdefault((cell.backbone.name, cell.backbone.sha256, cell.facet), []).append(
            (path, record)
        )
    columns = {one.name: one for _, record in group for row in record.rows for one in (_column(row, record),)}
    rows = [_row(found, card) for found in backbones.values()]
    first = group[0][1]
    table = FeatureTable(first.cell, first.images, len(first.classes), tuple(columns.values()), ())
    leading = table.columns[:1]

    def order(row: BackboneRow) -> tuple[bool, float, str, str]:
        mean = row.mean(leading[0]) if leading else None
        return row.is_block, 0.0 if row.is_block else -(mean or 0.0), row.name, row.facet.rjust(12)

    return FeatureTable(
        table.cell, table.images, table.classes, table.columns, tuple(sorted(rows, key=order))
    )


def _row(
    found: Sequence[tuple[Path, FeatureRecord]], card: Callable[[str], BackboneSpec | None]
) -> BackboneRow:
    ordered = sorted(found, key=lambda one: one[1].cell.seed)
    values: dict[str, list[float]] = {}
    for _, record in ordered:
        for row in record.rows:
            if row.scores.miou is not None:
                values.setdefault(_column(row, record).name, []).append(row.scores.miou)
    cell = ordered[0][1].cell
    return BackboneRow(
        name=cell.backbone.name,
        facet=cell.facet,
        paths=tuple(path for path, _ in ordered),
        records=tuple(record for _, record in ordered),
        card=card(cell.backbone.name),
        values={name: tuple(found) for name, found in values.items()},
    )


def _column(row: FeatureRow, record: FeatureRecord) -> Column:
    """Return the column of a row; components that a backbone lacks stand with those asked for."""
    asked = [dim for dim in record.cell.settings.pca_dims if row.dim == record.channels and dim >= row.dim]
    name = msgspec.structs.replace(row, dim=min(asked)).name if asked else row.name
    return Column(name, row.measure, row.uses_labels, row.clusters)
