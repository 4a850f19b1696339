"""Measures of features as tables: one per data set and protocol, a row per measure, a column per backbone."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import click
import numpy as np

from uss_bench.cli.output.tables import table
from uss_bench.evaluation.taxonomies import class_table
from uss_bench.plugins.specs import TaxonomySpec
from uss_bench.results.feature_record import FeatureRecord, FeatureRow
from uss_bench.results.sparse_counts import SparseCounts
from uss_bench.runtime.formatting import mean_sd, number, plural
from uss_bench.statistics.feature_scores import feature_sampling
from uss_bench.statistics.intervals import Interval, interval_of
from uss_bench.statistics.sampling import TOO_FEW_IMAGES

_COLUMNS = (
    *("dataset", "protocol", "protocol_hash", "backbone", "facet", "seed", "measure", "uses_labels"),
    *("clusters", "dim", "matching", "share", "draw", "train_images", "taxonomy", "classes"),
    *("accuracy", "miou", "miou_low", "miou_high", "id"),
)


_FEW = "*"
"""Marks an interval that deserves less trust than its level says."""


@dataclass(frozen=True)
class MeasuredFeatures:
    """A record, and the counts of its rows; None where none are kept."""

    record: FeatureRecord
    counts: Sequence[SparseCounts] | None

    def rows(self) -> list[tuple[FeatureRow, SparseCounts | None]]:
        counts: Sequence[SparseCounts | None] = self.counts or [None] * len(self.record.rows)
        return list(zip(self.record.rows, counts, strict=True))


def as_text(found: Sequence[MeasuredFeatures], taxonomy: TaxonomySpec | None = None) -> str:
    """Return a table per data set and protocol; what learned from labels stands apart.

    Args:
        taxonomy: score the counts under its classes.

    Raises:
        UsageError: when it is no coarsening of a record's classes, or a record has no counts.
    """
    groups: dict[tuple[str, str, str], list[MeasuredFeatures]] = {}
    for one in found:
        cell = one.record.cell
        groups.setdefault((cell.dataset.name, cell.dataset.fingerprint, cell.protocol_hash), []).append(one)
    return "\n\n".join(_group(group, taxonomy) for group in groups.values())


def as_csv(found: Sequence[MeasuredFeatures], taxonomy: TaxonomySpec | None = None) -> str:
    """Return one line per record and row; bounds are those of the 95 % interval over images."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for one in found:
        merged = _table_of(one.record, taxonomy)
        for row, counts in one.rows():
            line = flat(one.record, row)
            if counts is not None:
                sampling = feature_sampling([(row, counts)], one.record.cell.protocol, merged)
                interval = interval_of(sampling, "miou")
                line |= {"miou_low": number(interval.low, 4), "miou_high": number(interval.high, 4)}
                if taxonomy is not None:
                    scores = {name: number(sampling.percent(name), 4) for name in ("accuracy", "miou")}
                    line |= scores | {"taxonomy": taxonomy.name, "classes": len(taxonomy.classes)}
            writer.writerow(line)
    return text.getvalue()


def flat(record: FeatureRecord, row: FeatureRow) -> dict[str, object]:
    """Return a row with what it was measured on, by the names of the CSV's columns."""
    cell = record.cell
    return {
        "dataset": cell.dataset.name,
        "protocol": cell.protocol,
        "protocol_hash": cell.protocol_hash,
        "backbone": cell.backbone.name,
        "facet": cell.facet,
        "seed": cell.seed,
        "measure": row.measure,
        "uses_labels": row.uses_labels,
        "clusters": row.clusters,
        "dim": row.dim,
        "matching": row.matching,
        "share": row.share,
        "draw": row.draw,
        "train_images": row.train_images,
        "classes": len(record.classes),
        "accuracy": row.scores.accuracy,
        "miou": row.scores.miou,
        "id": record.id,
    }


def _table_of(record: FeatureRecord, taxonomy: TaxonomySpec | None) -> np.ndarray | None:
    return None if taxonomy is None else class_table(record.classes, taxonomy)


def _group(found: Sequence[MeasuredFeatures], taxonomy: TaxonomySpec | None) -> str:
    cell = found[0].record.cell
    columns: dict[str, list[MeasuredFeatures]] = {}
    for one in found:
        facet = "" if one.record.cell.facet == "tokens" else f" {one.record.cell.facet}"
        columns.setdefault(one.record.cell.backbone.name + facet, []).append(one)
    facts = [cell.dataset.name, cell.protocol, plural(found[0].record.images, "image")]
    lines = [click.style(" · ".join(facts), bold=True)]
    if taxonomy is not None:
        lines.append(
            f"Under {taxonomy.name}, {len(taxonomy.classes)} classes. K is that of the run: do not rank this "
            "beside runs with as many clusters as those classes."
        )
    lines.append("mIoU before any CRF; in brackets the 95 % interval over images.")
    for labeled in (False, True):
        rows = [row for one in found for row in one.record.rows if row.uses_labels == labeled]
        names = list(dict.fromkeys(row.name for row in rows))
        if not names:
            continue
        title = "learns from training labels" if labeled else "no label is seen before matching"
        cells = [[name, *(_cell(columns[column], name, taxonomy) for column in columns)] for name in names]
        lines += ["", table(cells, [title, *columns], align="lr*")]
    if any(_FEW in line for line in lines):
        lines += ["", f"{_FEW} {TOO_FEW_IMAGES}: there is no interval, or it is likely to be too narrow."]
    lines += ["", *dict.fromkeys(f"Left out: {text}" for one in found for text in one.record.left_out)]
    return "\n".join(lines).rstrip()


def _cell(found: Sequence[MeasuredFeatures], name: str, taxonomy: TaxonomySpec | None) -> str:
    """Return mean and deviation over seeds and draws, and the interval of the mean over images."""
    rows = [pair for one in found for pair in one.rows() if pair[0].name == name]
    values = [row.scores.miou for row, _ in rows]
    counted = [(row, counts) for row, counts in rows if counts is not None]
    if not rows or len(counted) < len(rows):
        return mean_sd([float("nan") if value is None else value for value in values])
    record = found[0].record
    sampling = feature_sampling(counted, record.cell.protocol, _table_of(record, taxonomy))
    return f"{mean_sd(list(100 * sampling.scores[:, 1]))} {_bounds(interval_of(sampling, 'miou'))}"


def _bounds(interval: Interval) -> str:
    if np.isnan(interval.low):
        return _FEW
    return f"[{interval.low:.1f}, {interval.high:.1f}]{_FEW if interval.note else ''}"
