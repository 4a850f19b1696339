"""The tables of a report: scores with their intervals, classes, checkpoints, and all that a run was given."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np

from uss_bench.collection import Setting
from uss_bench.plots.numbers import (
    CLASS_METRICS,
    METRICS,
    REFINEMENTS,
    class_scores,
    mean,
    score_rows,
    scores,
)
from uss_bench.plots.selection import names
from uss_bench.records import Refinement, RunRecord
from uss_bench.report.document import Table
from uss_bench.statistics.intervals import Interval, image_interval, seed_interval

_NONE = "–"


def refinements(settings: Sequence[Setting]) -> list[Refinement]:
    """Return the refinements that all settings have scores of: maps made elsewhere have raw ones only."""
    results = [record.last for one in settings for record in one.records]
    return ["raw", "crf"] if all(one is not None and one.crf is not None for one in results) else ["raw"]


def score_table(settings: Sequence[Setting]) -> Table:
    """Return one row per setting of one table: mean ± standard deviation over seeds."""
    kinds = refinements(settings)
    rows = []
    for name, setting in zip(names(settings), settings, strict=True):
        cells = [_mean_and_deviation(scores(setting, metric, kind)) for kind in kinds for metric in METRICS]
        used = sorted({row.clusters_used for row in score_rows(setting, "raw")})
        clusters = str(used[0]) if len(used) == 1 else f"{used[0]}–{used[-1]}"
        seeds = ", ".join(map(str, setting.seeds))
        known = f"{clusters} of {setting.records[0].clusters}"
        rows.append([name, setting.cell.backbone.name, seeds, *cells, known, _gap(setting, kinds[-1])])
    headers = [f"{METRICS[metric]} {REFINEMENTS[kind]}" for kind in kinds for metric in METRICS]
    return Table(
        ["method", "backbone", "seeds", *headers, "clusters used", "label-selected"],
        rows,
        "Scores of the last checkpoint in percent, mean ± standard deviation over seeds. Label-selected: "
        f"what mIoU ({REFINEMENTS[kinds[-1]]}) would gain if labels had chosen the checkpoint.",
        labels=3,
    )


def interval_table(settings: Sequence[Setting]) -> Table:
    """Return 95 % intervals of every score: over seeds, and over test images."""
    rows = []
    for name, setting in zip(names(settings), settings, strict=True):
        for kind in refinements(settings):
            counts = setting.counts(kind)
            for metric, shown in METRICS.items():
                values = scores(setting, metric, kind)
                over_images = image_interval(counts, setting.records[0].protocol, metric)
                rows.append(
                    [
                        name,
                        f"{shown} {REFINEMENTS[kind]}",
                        _number(float(mean(values))),
                        _interval(seed_interval(values.tolist())),
                        _interval(over_images),
                    ]
                )
    return Table(
        ["method", "score", "mean", "95 % over seeds", "95 % over images"],
        rows,
        "Intervals of the mean. Over seeds: Student's t, for another training on the same data. Over images: "
        "for other test images; drawn again with clusters matched anew, and corrected for bias, so the mean "
        "need not lie in the middle.",
        labels=2,
    )


def seed_table(setting: Setting) -> Table:
    """Return one row per seed, with what it took."""
    kinds = refinements([setting])
    rows = []
    for index, record in enumerate(setting.records):
        cells = [_number(scores(setting, metric, kind)[index]) for kind in kinds for metric in METRICS]
        phases = record.phases
        train = f"{phases['train'].seconds:.1f}" if "train" in phases else _NONE
        peak = max((phase.peak_bytes for phase in phases.values()), default=0)
        memory = f"{peak / 2**30:.2f}" if peak else _NONE
        rows.append([str(record.cell.seed), *cells, train, memory, record.id])
    headers = [f"{METRICS[metric]} {REFINEMENTS[kind]}" for kind in kinds for metric in METRICS]
    return Table(["seed", *headers, "training (s)", "peak memory (GiB)", "record"], rows)


def class_table(setting: Setting) -> Table:
    """Return IoU, precision and recall per class, mean over seeds."""
    kinds = refinements([setting])
    columns = [mean(class_scores(setting, metric, kind)) for kind in kinds for metric in CLASS_METRICS]
    rows = [
        [row.name, *(_number(column[index]) for column in columns)]
        for index, row in enumerate(setting.records[0].classes)
    ]
    headers = [f"{name} {REFINEMENTS[kind]}" for kind in kinds for name in CLASS_METRICS.values()]
    return Table(["class", *headers], rows, "Per class, in percent, mean over seeds.")


def candidate_table(setting: Setting) -> Table | None:
    """Return the offered checkpoints of every seed, or None if no run offered any."""
    rows = [
        [str(record.cell.seed), "last" if one.step is None else str(one.step), *map(_number, values)]
        for record in setting.records
        for one in record.candidates
        for values in [(one.accuracy, one.miou)]
    ]
    if not rows:
        return None
    return Table(
        ["seed", "checkpoint", "Acc", "mIoU"],
        rows,
        "Checkpoints that the method offered, scored with labels: raw, unflipped, at patch resolution. The "
        "reported one is the last.",
        labels=2,
    )


def protocol_table(record: RunRecord) -> Table:
    """Return every field of a record's protocol."""
    rows = [[name, _text(value)] for name, value in _flat(msgspec.to_builtins(record.protocol))]
    rows += [["alpha of the method", _text(record.cell.alpha)], ["CRF engine", record.crf_engine or _NONE]]
    return Table(["field", "value"], rows, labels=2)


def params_table(settings: Sequence[Setting]) -> Table:
    """Return every parameter of settings of one table, one column each."""
    known = dict.fromkeys(name for one in settings for name in one.cell.method.params)
    rows = [[name, *(_text(one.cell.method.params.get(name, _NONE)) for one in settings)] for name in known]
    return Table(["parameter", *names(settings)], rows, labels=1 + len(settings))


def identity_table(setting: Setting) -> Table:
    """Return what identifies a setting: data, weights and code, by digest."""
    cell, first = setting.cell, setting.records[0]
    data, backbone = cell.dataset, cell.backbone
    rows = [
        ["dataset", f"{data.name}, trained on {data.train_split}, tested on {data.test_split}"],
        ["images", f"{first.images} tested" + (f", limited to {data.limit} per split" if data.limit else "")],
        ["data digest", data.fingerprint],
        ["backbone", f"{backbone.name}, features as {backbone.feature_dtype}"],
        ["weights digest", backbone.sha256],
        ["method code", cell.method.code],
        ["protocol", f"{cell.protocol} ({cell.protocol_hash})"],
        ["labels", "; ".join(_distinct(setting, "labels_used")) or "used for scoring only"],
        ["notes", "; ".join(_distinct(setting, "notes")) or _NONE],
        ["created", ", ".join(dict.fromkeys(record.created for record in setting.records))],
    ]
    return Table(["", ""], rows, labels=2)


def environment_table(records: Sequence[RunRecord]) -> Table:
    """Return machine and libraries; a field in which records differ has all its values."""
    known = dict.fromkeys(name for record in records for name in record.environment)
    rows = [
        [name, ", ".join(dict.fromkeys(_text(record.environment.get(name, _NONE)) for record in records))]
        for name in known
    ]
    return Table(["", ""], rows, labels=2)


def _gap(setting: Setting, kind: Refinement) -> str:
    gaps = []
    for record in setting.records:
        if len(record.candidates) < 2 or record.selected is None or record.last is None:
            return _NONE
        last, selected = getattr(record.last, kind), getattr(record.selected, kind)
        if last is None or selected is None or last.miou is None or selected.miou is None:
            return _NONE
        gaps.append(selected.miou - last.miou)
    return f"{np.mean(gaps):+.1f}".replace("-", "−")


def _mean_and_deviation(values: np.ndarray) -> str:
    deviation = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{_number(float(mean(values)))}{deviation}"


def _interval(found: Interval | None) -> str:
    if found is None or math.isnan(found.low):
        return found.note if found is not None and found.note else _NONE
    note = f" ({found.note})" if found.note else ""
    return f"{_number(found.low)} to {_number(found.high)}{note}"


def _number(value: float) -> str:
    return _NONE if math.isnan(value) else f"{value:.1f}".replace("-", "−")


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _flat(fields: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _distinct(setting: Setting, field: str) -> list[str]:
    return list(dict.fromkeys(text for record in setting.records for text in getattr(record, field)))
