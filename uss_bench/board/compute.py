"""From settings and claims to tables: everything on a board that is computed is computed here."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache

from uss_bench.board.curves import curves
from uss_bench.board.model import SCORES, Board, Class, Measure, Row, Run, Score
from uss_bench.board.published import published
from uss_bench.claims import Claim
from uss_bench.collection import FLOORS, Entry, Setting
from uss_bench.provenance import is_stale
from uss_bench.records import CheckpointResult, Refinement
from uss_bench.statistics.comparing import tiers_of
from uss_bench.statistics.intervals import interval_of
from uss_bench.statistics.sampling import Sampling

_NO_BACKBONE = "none"
_REFINEMENTS: tuple[Refinement, ...] = ("raw", "crf")

_Sampled = Callable[[Refinement], Sampling]
"""The resampled scores of one setting: what costs time, and serves both metrics and every table."""


def boards(
    settings: Sequence[Setting], claims: Sequence[Claim] = (), codes: Mapping[str, str] | None = None
) -> list[Board]:
    """Return one board per `TableKey` and backbone, in the order of these.

    Args:
        settings: what `uss_bench.collection.gather` returns.
        claims: what was published.
        codes: the code hash that each method has now; records of another hash are marked stale.

    Raises:
        DataError: when the counts of a record are missing or damaged.
    """
    now = codes or {}

    @cache
    def sampling_of(index: int, refinement: Refinement) -> Sampling:
        return _sampling(settings[index], refinement)

    def sampled(index: int) -> _Sampled:
        return lambda refinement: sampling_of(index, refinement)

    @cache
    def row_of(index: int) -> Row:
        return _row(settings[index], sampled(index), claims, now)

    tables: dict[tuple[object, str, str], list[int]] = {}
    floors: dict[object, list[int]] = {}
    for index, setting in enumerate(settings):
        if is_floor(setting):
            floors.setdefault(setting.table, []).append(index)
        else:
            backbone = setting.cell.backbone
            tables.setdefault((setting.table, backbone.name, backbone.sha256), []).append(index)
    for key in floors:
        if not any(table == key for table, *_ in tables):
            tables[key, _NO_BACKBONE, ""] = []

    found = []
    for (key, _, _), members in tables.items():
        indices = [*members, *floors.get(key, [])]
        rows, samples = [row_of(i) for i in indices], [sampled(i) for i in indices]
        found.append(_board([settings[i] for i in indices], rows, samples))
    return sorted(found, key=lambda board: (board.key, board.backbone, board.backbone_sha256))


def is_floor(setting: Setting) -> bool:
    """Whether the setting looks at no feature."""
    return setting.cell.method.name in FLOORS and setting.cell.backbone.name == _NO_BACKBONE


def _sampling(setting: Setting, refinement: Refinement) -> Sampling:
    return Sampling.of(setting.counts(refinement), setting.records[0].protocol)


def _board(settings: Sequence[Setting], rows: Sequence[Row], samples: Sequence[_Sampled]) -> Board:
    first = settings[0]
    ranked = _ranked(rows, samples)
    board = Board(
        key=first.table,
        backbone=first.cell.backbone.name,
        backbone_sha256=first.cell.backbone.sha256,
        images=first.records[0].images,
        classes=tuple(Class(one.name, one.colour) for one in first.records[0].classes),
        rows=tuple(ranked),
        curves=(),
        strips=(),
    )

    def order(row: Row) -> tuple[bool, float, str]:
        measure = row.measures.get(board.primary)
        return row.floor, -measure.mean if measure else float("inf"), row.label

    board = replace(board, rows=tuple(sorted(ranked, key=order)))
    return replace(board, curves=curves(board.rows))


def _ranked(rows: Sequence[Row], samples: Sequence[_Sampled]) -> list[Row]:
    """Return the rows with tier and place in every score.

    Rows that used labels are shown and not ranked: they did another task. Where fewer than two rows are
    left there is no rank.
    """
    measures = [dict(row.measures) for row in rows]
    for score in SCORES:
        refinement, metric = score
        taking = [i for i, row in enumerate(rows) if score in row.measures and not row.labels_used]
        if len(taking) < 2:
            continue
        tiers = tiers_of([samples[i](refinement) for i in taking], metric)
        means = [round(measures[i][score].mean, 6) for i in taking]
        for i, tier, mean in zip(taking, tiers, means, strict=True):
            place = 1 + sum(other > mean for other in means)
            measures[i][score] = replace(measures[i][score], tier=tier, place=place)
    return [replace(row, measures=found) for row, found in zip(rows, measures, strict=True)]


def _row(setting: Setting, sampled: _Sampled, claims: Sequence[Claim], codes: Mapping[str, str]) -> Row:
    cell = setting.cell
    runs = tuple(_run(entry, codes) for entry in setting.entries)
    measures = {
        score: _measure(sampled(score[0]), score, [run.scores[score] for run in runs])
        for score in SCORES
        if all(run.scores[score] is not None for run in runs)
    }
    offered = any(len(record.candidates) > 1 for record in setting.records)
    return Row(
        label=setting.label,
        method=cell.method.name,
        params=cell.method.params,
        alpha=cell.alpha,
        feature_dtype=cell.backbone.feature_dtype,
        floor=is_floor(setting),
        clusters=setting.records[0].clusters,
        runs=runs,
        measures=measures,
        iou={refinement: _class_iou(setting, refinement) for refinement in _REFINEMENTS},
        gap=_gap(runs) if offered else {},
        published=published(setting, claims),
    )


def _measure(sampling: Sampling, score: Score, values: Sequence[float | None]) -> Measure:
    known = tuple(value for value in values if value is not None)
    interval = interval_of(sampling, score[1])
    bounded = interval.low == interval.low and interval.high == interval.high
    return Measure(
        values=known,
        mean=statistics.fmean(known),
        sd=statistics.stdev(known) if len(known) > 1 else None,
        low=interval.low if bounded else None,
        high=interval.high if bounded else None,
        note=interval.note,
    )


def _run(entry: Entry, codes: Mapping[str, str]) -> Run:
    record = entry.record
    method = record.cell.method
    assert record.last is not None
    train = record.phases.get("train")
    return Run(
        id=record.id,
        path=entry.path,
        seed=record.cell.seed,
        code=method.code,
        stale=is_stale(method, codes),
        scores=_scores(record.last),
        selected=_scores(record.selected) if record.selected else {},
        clusters_used=record.last.raw.clusters_used,
        train_seconds=train.seconds if train else None,
        peak_bytes=max((phase.peak_bytes for phase in record.phases.values()), default=0),
        machine=str(record.environment.get("device", "")),
        labels_used=tuple(record.labels_used),
        notes=tuple(record.notes),
        command=record.command,
        created=record.created,
    )


def _scores(result: CheckpointResult) -> dict[Score, float | None]:
    rows = {"raw": result.raw, "crf": result.crf}
    return {
        (refinement, metric): getattr(rows[refinement], metric, None)  # there may be no refined row
        for refinement, metric in SCORES
    }


def _gap(runs: Sequence[Run]) -> dict[Score, float]:
    gaps: dict[Score, float] = {}
    for score in SCORES:
        pairs = [(run.selected.get(score), run.scores[score]) for run in runs]
        differences = [chosen - last for chosen, last in pairs if chosen is not None and last is not None]
        if differences:
            gaps[score] = statistics.fmean(differences)
    return gaps


def _class_iou(setting: Setting, refinement: Refinement) -> tuple[float | None, ...]:
    results = [record.last for record in setting.records if record.last is not None]
    rows = [row for one in results if (row := one.raw if refinement == "raw" else one.crf) is not None]
    columns = zip(*(row.iou for row in rows), strict=True)
    known = [[value for value in column if value is not None] for column in columns]
    return tuple(statistics.fmean(values) if values else None for values in known)
