"""Measures of features as tables: one per data set and protocol, a row per measure, a column per backbone."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import click

from uss_bench.cli.output.tables import table
from uss_bench.results.feature_record import FeatureRecord, FeatureRow
from uss_bench.runtime.formatting import mean_sd, plural

_COLUMNS = (
    *("dataset", "protocol", "protocol_hash", "backbone", "facet", "seed", "measure", "uses_labels"),
    *("clusters", "dim", "matching", "share", "draw", "train_images", "accuracy", "miou", "id"),
)


def as_text(records: Sequence[FeatureRecord]) -> str:
    """Return a table per data set and protocol; what learned from labels stands apart."""
    groups: dict[tuple[str, str, str], list[FeatureRecord]] = {}
    for record in records:
        cell = record.cell
        groups.setdefault((cell.dataset.name, cell.dataset.fingerprint, cell.protocol_hash), []).append(
            record
        )
    return "\n\n".join(_group(group) for group in groups.values())


def as_csv(records: Sequence[FeatureRecord]) -> str:
    """Return one line per record and row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for record in records:
        for row in record.rows:
            writer.writerow(flat(record, row))
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
        "accuracy": row.scores.accuracy,
        "miou": row.scores.miou,
        "id": record.id,
    }


def _group(records: Sequence[FeatureRecord]) -> str:
    cell = records[0].cell
    columns: dict[str, list[FeatureRecord]] = {}
    for record in records:
        facet = "" if record.cell.facet == "tokens" else f" {record.cell.facet}"
        columns.setdefault(record.cell.backbone.name + facet, []).append(record)
    facts = [cell.dataset.name, cell.protocol, plural(records[0].images, "image")]
    lines = [click.style(" · ".join(facts), bold=True), "mIoU, before any CRF."]
    for labeled in (False, True):
        names = list(dict.fromkeys(r.name for one in records for r in one.rows if r.uses_labels == labeled))
        if not names:
            continue
        title = "learns from training labels" if labeled else "no label is seen before matching"
        rows = [[name, *(_cell(columns[column], name) for column in columns)] for name in names]
        lines += ["", table(rows, [title, *columns], align="lr*")]
    lines += ["", *dict.fromkeys(f"Left out: {text}" for one in records for text in one.left_out)]
    return "\n".join(lines).rstrip()


def _cell(records: Sequence[FeatureRecord], name: str) -> str:
    """Return mean and deviation over seeds and draws."""
    values = [row.scores.miou for record in records for row in record.rows if row.name == name]
    return mean_sd([float("nan") if value is None else value for value in values])
