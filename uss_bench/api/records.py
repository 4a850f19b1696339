"""Records as a data frame, and two configurations compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from uss_bench.errors import UsageError
from uss_bench.evaluation.scoring import score
from uss_bench.evaluation.scoring import score_row as score_row_of
from uss_bench.evaluation.taxonomies import find_taxonomy, merge_counts
from uss_bench.plugins.registry import Registry
from uss_bench.plugins.specs import TaxonomySpec
from uss_bench.protocol import ExtraClusters
from uss_bench.results.collection import Entry, gather, is_scored, read_entries
from uss_bench.results.record import Checkpoint, ScoreRow
from uss_bench.results.scores import REFINEMENTS, score_row, train_seconds
from uss_bench.results.selection import Query, select_pair
from uss_bench.runtime import progress
from uss_bench.statistics.comparing import Versus

Folders = str | Path | Sequence[str | Path]


def records(
    folder: Folders = "results", *, per_class: bool = False, taxonomy: str | None = None
) -> pd.DataFrame:
    """Return the scores of all records below a folder as a tidy data frame.

    Examples:
        >>> frame = uss_bench.records("results")
        >>> frame[frame.refinement == "crf"].pivot_table("miou", "label", "dataset")

    There is a row for each record, checkpoint and refinement, and with `per_class` for each class as well.
    Scores are percentages, as on the boards. Records without a score are left out, and so are those that
    cannot be read, which are named.

    Args:
        folder: one folder, or several.
        per_class: columns ``class``, ``iou``, ``precision`` and ``recall`` in place of the overall scores.
        taxonomy: score the counts under other classes of their dataset, such as ``cityscapes7``, see
            `uss_bench.evaluation.taxonomies`. Records of other datasets are left out. ``clusters`` and
            ``classes`` are K and C, and ``extra_clusters`` is the rule for clusters beyond the classes:
            there is a row for ``strict`` and one for ``merge``. Do not rank them beside runs with K = C.

    Raises:
        UsageError: for a taxonomy that does not exist, or that is no coarsening of a record's classes.
        DataError: when counts that it needs are missing or damaged.
    """
    entries, broken = read_entries(_paths(folder))
    for message in broken:
        progress.log(f"skipped: {message}")
    labels = {
        entry.record.id: configuration.label
        for configuration in gather(entries)
        for entry in configuration.entries
    }
    merged = None if taxonomy is None else find_taxonomy(taxonomy, Registry())
    rows = [
        row
        for entry in entries
        if is_scored(entry.record)
        for row in _rows(entry, labels.get(entry.record.id, ""), per_class, merged)
    ]
    columns = [*_FACTS, *(_MERGED if merged else ()), *(_PER_CLASS if per_class else _OVERALL)]
    return pd.DataFrame(rows, columns=columns)


_FACTS = (
    *("id", "method", "label", "dataset", "backbone", "protocol", "seed", "checkpoint", "refinement"),
    *("params", "images", "clusters", "train_seconds", "path"),
)
_CHECKPOINTS: tuple[Checkpoint, ...] = ("last", "selected")
_MERGED = ("taxonomy", "classes", "extra_clusters")
_OVERALL = ("accuracy", "miou", "clusters_used")
_PER_CLASS = ("class", "iou", "precision", "recall")


def _rows(
    entry: Entry, label: str, per_class: bool, merged: tuple[str, TaxonomySpec] | None
) -> Iterator[dict[str, Any]]:
    record = entry.record
    cell = record.cell
    if merged and cell.dataset.name != merged[0]:
        return
    for checkpoint in _CHECKPOINTS:
        for refinement in REFINEMENTS:
            row = score_row(record, refinement, checkpoint)
            if row is None:
                continue
            facts = {
                "id": record.id,
                "method": cell.method.name,
                "label": label,
                "dataset": cell.dataset.name,
                "backbone": cell.backbone.name,
                "protocol": cell.protocol,
                "seed": cell.seed,
                "checkpoint": checkpoint,
                "refinement": refinement,
                "params": cell.method.params,
                "images": record.images,
                "clusters": record.clusters,
                "train_seconds": train_seconds(record),
                "path": str(entry.path),
            }
            found: list[tuple[ScoreRow, list[str], dict[str, Any]]]
            found = [(row, [info.name for info in record.classes], {})]
            if merged:
                found = list(_merged_rows(entry, entry.arrays.counts[checkpoint, refinement], merged[1]))
            for scored, classes, more in found:
                if not per_class:
                    yield {**facts, **more, **{name: getattr(scored, name) for name in _OVERALL}}
                    continue
                for index, class_name in enumerate(classes):
                    scores = {name: getattr(scored, name)[index] for name in _PER_CLASS[1:]}
                    yield {**facts, **more, "class": class_name, **scores}


def _merged_rows(
    entry: Entry, counts: np.ndarray, taxonomy: TaxonomySpec
) -> Iterator[tuple[ScoreRow, list[str], dict[str, Any]]]:
    """Yield the scores of counts under a taxonomy, by each rule for clusters beyond its classes."""
    protocol = entry.record.protocol
    if protocol.match_on != "test":
        raise UsageError(
            f"{entry.path} matches clusters on training images, whose counts it does not hold.",
            hint="Score it under other classes by a protocol that matches on the test split.",
        )
    names = [info.name for info in entry.record.classes]
    counts = merge_counts(counts, names, taxonomy)
    rules: tuple[ExtraClusters, ...] = ("strict", "merge")
    for rule in rules:
        scores = score(
            counts,
            matching=protocol.matching,
            extra_clusters=rule,
            absent_classes=protocol.absent_classes,
        )
        more = {"taxonomy": taxonomy.name, "classes": len(taxonomy.classes), "extra_clusters": rule}
        yield score_row_of(scores), list(taxonomy.classes), more


def compare(
    a: str,
    b: str,
    *,
    folder: Folders = "results",
    dataset: str | None = None,
    backbone: str | None = None,
    protocol: str | None = None,
    resamples: int = 1000,
) -> Versus:
    """Say whether one configuration is better than another, or the data cannot tell.

    Examples:
        >>> found = uss_bench.compare("smooseg", "dino", dataset="toy3").found["crf"].miou
        >>> found.value, found.interval, found.verdict

    Args:
        a: a method, the label of a configuration, or a record (a path, or the start of an id).
        b: the other one.
        folder: where the records lie.
        dataset: which dataset is meant, where names alone fit several records.
        backbone: which backbone.
        protocol: which protocol.
        resamples: how often the images are drawn again.

    Raises:
        UsageError: when a name fits nothing or several, or the two are not of one table.
        DataError: when counts are missing or damaged.
    """
    query = Query(
        folders=_paths(folder),
        datasets=[] if dataset is None else [dataset],
        backbone=backbone,
        protocol=protocol,
    )
    one, other = select_pair(a, b, query)
    both = [record for side in (one, other) for record in side.records]
    refined = all(score_row(record, "crf") for record in both)
    return Versus.of(one, other, ["raw", "crf"] if refined else ["raw"], resamples=resamples)


def _paths(folder: Folders) -> list[Path]:
    return [Path(folder)] if isinstance(folder, str | Path) else [Path(one) for one in folder]
