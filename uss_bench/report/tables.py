"""The tables of a report: scores with their intervals, classes, checkpoints, and all that a run was given."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from uss_bench.plots.numbers import CLASS_METRICS, mean, score_rows, scores
from uss_bench.protocol import protocol_fields
from uss_bench.report.document import Table
from uss_bench.results.collection import Configuration
from uss_bench.results.differences import cell_fields
from uss_bench.results.record import Refinement, RunRecord
from uss_bench.results.scores import METRICS, REFINEMENTS, Metric, peak_bytes, score_row, train_seconds
from uss_bench.results.selection import names
from uss_bench.runtime.formatting import MISSING, mean_sd, number
from uss_bench.statistics.intervals import Interval, interval_of, seed_interval
from uss_bench.statistics.sampling import Sampling


def refinements(configurations: Sequence[Configuration]) -> list[Refinement]:
    """Return the refinements that all configurations have: maps made elsewhere have raw scores only."""
    records = [record for one in configurations for record in one.records]
    return [kind for kind in REFINEMENTS if all(score_row(record, kind) for record in records)]


def score_table(configurations: Sequence[Configuration]) -> Table:
    """Return one row per configuration of one table: mean ± standard deviation over seeds."""
    columns = _columns(configurations)
    last = list(columns)[-1][0]
    rows = []
    for name, one in zip(names(configurations), configurations, strict=True):
        cells = [mean_sd(scores(one, metric, kind).tolist()) for kind, metric in columns]
        used = [row.clusters_used for row in score_rows(one, "raw")]
        clusters = "–".join(map(str, sorted({min(used), max(used)})))
        seeds = ", ".join(map(str, one.seeds))
        known = f"{clusters} of {one.records[0].clusters}"
        rows.append([name, one.cell.backbone.name, seeds, *cells, known, _gap(one, last)])
    return Table(
        ["method", "backbone", "seeds", *columns.values(), "clusters used", "label-selected"],
        rows,
        "Scores of the last checkpoint in percent, mean ± standard deviation over seeds. Label-selected: "
        f"what mIoU ({REFINEMENTS[last]}) would gain if labels had chosen the checkpoint.",
        labels=3,
    )


def interval_table(configurations: Sequence[Configuration]) -> Table:
    """Return 95 % intervals of every score: over seeds, and over test images."""
    rows = []
    for name, one in zip(names(configurations), configurations, strict=True):
        for kind in refinements(configurations):
            sampling = Sampling.of(one.counts(kind), one.records[0].protocol)
            for metric, title in METRICS.items():
                values = scores(one, metric, kind).tolist()
                intervals = (seed_interval(values), interval_of(sampling, metric))
                shown = number(float(np.mean(values)))
                rows.append([name, f"{title} {REFINEMENTS[kind]}", shown, *map(_interval, intervals)])
    return Table(
        ["method", "score", "mean", "95 % over seeds", "95 % over images"],
        rows,
        "Intervals of the mean. Over seeds: Student's t, for another training on the same data. Over images: "
        "for other test images; drawn again with clusters matched anew, and corrected for bias, so the mean "
        "need not lie in the middle.",
        labels=2,
    )


def seed_table(configuration: Configuration) -> Table:
    """Return one row per seed, with what it took."""
    columns = _columns([configuration])
    by_column = [scores(configuration, metric, kind) for kind, metric in columns]
    rows = []
    for record, *values in zip(configuration.records, *by_column, strict=True):
        peak = peak_bytes(record)
        memory = None if peak is None else peak / 2**30
        cost = [number(train_seconds(record)), number(memory, 2)]
        rows.append([str(record.cell.seed), *map(number, values), *cost, record.id])
    return Table(["seed", *columns.values(), "training (s)", "peak memory (GiB)", "record"], rows)


def class_table(configuration: Configuration) -> Table:
    """Return IoU, precision and recall per class, mean over seeds."""
    columns = {
        f"{title} {REFINEMENTS[kind]}": mean(scores(configuration, metric, kind))
        for kind in refinements([configuration])
        for metric, title in CLASS_METRICS.items()
    }
    classes = (row.name for row in configuration.records[0].classes)
    rows = [[name, *map(number, values)] for name, *values in zip(classes, *columns.values(), strict=True)]
    return Table(["class", *columns], rows, "Per class, in percent, mean over seeds.")


def candidate_table(configuration: Configuration) -> Table | None:
    """Return the offered checkpoints of every seed, or None if no run offered any."""
    rows = [
        [str(record.cell.seed), "last" if one.step is None else str(one.step), *values]
        for record in configuration.records
        for one in record.candidates
        for values in [map(number, (one.accuracy, one.miou))]
    ]
    if not rows:
        return None
    return Table(
        ["seed", "checkpoint", *METRICS.values()],
        rows,
        "Checkpoints that the method offered, scored with labels: raw, unflipped, at patch resolution. The "
        "reported one is the last.",
        labels=2,
    )


def protocol_table(record: RunRecord) -> Table:
    """Return every field of a record's protocol."""
    protocol = record.protocol
    fields = {"name": protocol.name, "version": protocol.version, **protocol_fields(protocol)}
    fields |= {"alpha of the method": record.cell.alpha, "CRF engine": record.crf_engine or MISSING}
    return _facts(fields, ["field", "value"])


def params_table(configurations: Sequence[Configuration]) -> Table:
    """Return every parameter of configurations of one table, one column each."""
    params = [one.cell.method.params for one in configurations]
    known = dict.fromkeys(name for one in params for name in one)
    rows = [[name, *(_text(one.get(name, MISSING)) for one in params)] for name in known]
    return Table(["parameter", *names(configurations)], rows, labels=1 + len(params))


def identity_table(configuration: Configuration) -> Table:
    """Return what identifies a configuration beside its parameters: data, weights and code, by digest."""
    records = configuration.records
    fields = {
        name: value
        for name, value in cell_fields(configuration.cell).items()
        if name != "seed" and not name.startswith("parameter ")
    } | {
        "images tested": records[0].images,
        "labels": _joined((use for one in records for use in one.labels_used), "; ")
        or "used for scoring only",
        "notes": _joined((note for one in records for note in one.notes), "; ") or MISSING,
        "created": _joined(one.created for one in records),
    }
    return _facts({name.replace("_", " "): value for name, value in fields.items()})


def environment_table(records: Sequence[RunRecord]) -> Table:
    """Return machine and libraries; a field in which records differ has all its values."""
    known = dict.fromkeys(name for record in records for name in record.environment)
    environments = [record.environment for record in records]
    return _facts({name: _joined(_text(one.get(name, MISSING)) for one in environments) for name in known})


def _facts(fields: Mapping[str, Any], headers: Sequence[str] = ("", "")) -> Table:
    return Table(headers, [[name, _text(value)] for name, value in fields.items()], labels=2)


def _columns(configurations: Sequence[Configuration]) -> dict[tuple[Refinement, Metric], str]:
    """Return the scores that all configurations have, with their headers."""
    found = product(refinements(configurations), METRICS)
    return {(kind, metric): f"{METRICS[metric]} {REFINEMENTS[kind]}" for kind, metric in found}


def _gap(configuration: Configuration, kind: Refinement) -> str:
    gaps = []
    for record in configuration.records:
        last, selected = score_row(record, kind), score_row(record, kind, "selected")
        if len(record.candidates) < 2 or last is None or selected is None:
            return MISSING
        gaps.append((selected.miou or 0.0) - (last.miou or 0.0))
    return f"{np.mean(gaps):+.1f}".replace("-", "−")


def _interval(found: Interval | None) -> str:
    if found is None or math.isnan(found.low):
        return (found and found.note) or MISSING
    return f"{number(found.low)} to {number(found.high)}" + (f" ({found.note})" if found.note else "")


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _joined(texts: Iterable[str], by: str = ", ") -> str:
    return by.join(dict.fromkeys(texts))
