"""From configurations and claims to tables: everything on a board that is computed is computed here."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from uss_bench.board.model import SCORES, Board, Curve, Measure, Row, Run, Score
from uss_bench.board.published import Published, published
from uss_bench.claims import Claim
from uss_bench.evaluation.scoring import per_image_oracle
from uss_bench.plugins.specs import NO_BACKBONE, Ingredient
from uss_bench.results.collection import (
    Configuration,
    display_name,
    is_floor,
    setting_changes,
    shared_identity,
)
from uss_bench.results.record import Cell, Refinement
from uss_bench.results.scores import REFINEMENTS, score_row
from uss_bench.results.stated import Stated, distance
from uss_bench.results.verification import is_verified
from uss_bench.statistics.comparing import tiers_of
from uss_bench.statistics.intervals import interval_of
from uss_bench.statistics.sampling import Sampling

IsStale = Callable[[Cell], bool]
_Sampled = Mapping[Refinement, Sampling]
"""The resampled scores of one configuration: what costs time, and serves both metrics and every table."""


def boards(
    configurations: Iterable[Configuration],
    claims: Sequence[Claim] = (),
    *,
    is_stale: IsStale = lambda cell: False,
    floors: Collection[str] = (),
    titles: Mapping[str, str] | None = None,
    ingredients: Callable[[str, str], Sequence[Ingredient]] = lambda method, backbone: (),
    stated: Stated = lambda record: None,
) -> list[Board]:
    """Return one board per `TableKey` and backbone, in the order of these.

    A method has one row, at its stated setting; its other settings stand below it, unranked. The setting
    nearest to what `stated` returns is taken, the one of most seeds among equals, and never the best.

    External predictions whose weights are unknown stand in the tables of the backbone that they name.

    Args:
        configurations: what `uss_bench.results.collection.gather` returns. Where `counted`
            yields them, the arrays of one `TableKey` at a time are in memory.
        claims: what was published.
        is_stale: whether the code of a cell's method has changed since; such records are marked.
        floors: names of methods that look at no feature.
        titles: what people call methods, by name.
        ingredients: what a method and a backbone, by their names, are made of besides unlabeled pixels.
        stated: see `Stated`; where it returns None, the setting with the shortest label is the stated one.

    Raises:
        DataError: when the counts of a record are missing or damaged.
    """
    known = _Known(is_stale, floors, titles or {}, ingredients, stated)
    built: list[Board] = []
    for _, group in itertools.groupby(configurations, key=lambda one: one.table):
        members = list(group)
        built += _tables(members, claims, known)
        for one in members:
            one.release()
    return sorted(built, key=lambda board: (board.key, board.backbone, board.backbone_sha256))


@dataclass(frozen=True)
class _Known:
    """What `boards` is told about methods."""

    is_stale: IsStale
    floors: Collection[str]
    titles: Mapping[str, str]
    ingredients: Callable[[str, str], Sequence[Ingredient]]
    stated: Stated


def _tables(configurations: Sequence[Configuration], claims: Sequence[Claim], known: _Known) -> list[Board]:
    """Return the boards of one `TableKey`, one per backbone."""
    rows: list[Row] = []
    sampled: list[_Sampled] = []
    tables: dict[tuple[str, str], list[int]] = {}
    external: dict[str, list[int]] = {}
    floors_of: list[int] = []
    for index, one in enumerate(configurations):
        kinds = [kind for kind in REFINEMENTS if all(score_row(record, kind) for record in one.records)]
        sampled.append({kind: _sampling(one, kind) for kind in kinds})
        floor, backbone = is_floor(one, known.floors), one.cell.backbone
        unknown_weights = one.cell.method.is_external and not backbone.sha256
        row = _row(one, sampled[-1], published(one, claims), known.is_stale, floor)
        outside = one.records[0].external
        made_of = outside.ingredients if outside else known.ingredients(one.cell.method.name, backbone.name)
        title = display_name(one.cell, known.titles)
        rows.append(replace(row, title=title, ingredients=tuple(made_of)))
        if floor:
            floors_of.append(index)
        elif unknown_weights:
            external.setdefault(backbone.name, []).append(index)
        else:
            tables.setdefault((backbone.name, backbone.sha256), []).append(index)
    for name, members in external.items():
        shared = [found for table, found in tables.items() if table[0] == name]
        for found in shared or [tables.setdefault((name, ""), [])]:
            found += members
    if floors_of:
        for found in list(tables.values()) or [tables.setdefault((NO_BACKBONE, ""), [])]:
            found += floors_of
    return [
        _board([rows[i] for i in found], [sampled[i] for i in found], known.stated)
        for found in tables.values()
    ]


def _sampling(configuration: Configuration, refinement: Refinement) -> Sampling:
    return Sampling.of(configuration.counts(refinement), configuration.records[0].protocol)


def _board(rows: Sequence[Row], sampled: Sequence[_Sampled], stated: Stated) -> Board:
    first = rows[0].configuration
    backbone = first.cell.backbone
    board = Board(
        key=first.table,
        backbone=backbone.name,
        backbone_sha256=backbone.sha256,
        images=first.records[0].images,
        classes=tuple(first.records[0].classes),
        rows=tuple(rows),
    )

    def order(row: Row) -> tuple[bool, float, str]:
        measure = row.measures.get(board.primary)
        return row.floor, -measure.mean if measure else math.inf, row.label

    settings: dict[tuple[str, bool], list[int]] = {}
    for i, row in enumerate(rows):
        settings.setdefault((row.method, row.configuration.cell.method.is_external), []).append(i)
    main = [min(found, key=lambda i: distance(rows[i].configuration, stated)) for found in settings.values()]
    ranked = _ranked([rows[i] for i in main], [sampled[i] for i in main])
    whole = [
        replace(row, variants=tuple(sorted(_variants(row, [rows[i] for i in found if i != one]), key=order)))
        for row, one, found in zip(ranked, main, settings.values(), strict=True)
    ]
    return replace(board, rows=tuple(sorted(whole, key=order)), curves=_curves(rows))


def _variants(main: Row, others: Iterable[Row]) -> list[Row]:
    """Return other settings of a method, named by what they change."""
    base = main.configuration.cell
    return [
        replace(row, changes=setting_changes(row.configuration.cell, base) or row.label) for row in others
    ]


def _ranked(rows: Sequence[Row], sampled: Sequence[_Sampled]) -> list[Row]:
    """Return the rows with tier and place in every score.

    Rows that used labels are shown and not ranked: they did another task. Where fewer than two rows are
    left, nothing is ranked.
    """
    measures = [dict(row.measures) for row in rows]
    for score in SCORES:
        refinement, metric = score
        ranked = [i for i, row in enumerate(rows) if score in row.measures and not row.labels_used]
        if len(ranked) < 2:
            continue
        tiers = tiers_of([sampled[i][refinement] for i in ranked], metric)
        means = [round(measures[i][score].mean, 6) for i in ranked]
        for i, tier, mean in zip(ranked, tiers, means, strict=True):
            place = 1 + sum(other > mean for other in means)
            measures[i][score] = replace(measures[i][score], tier=tier, place=place)
    return [replace(row, measures=found) for row, found in zip(rows, measures, strict=True)]


def _row(
    configuration: Configuration,
    sampled: _Sampled,
    claims: tuple[Published, ...],
    is_stale: IsStale,
    floor: bool,
) -> Row:
    runs = tuple(
        Run(entry.path, entry.record, is_stale(entry.record.cell), is_verified(entry.path))
        for entry in configuration.entries
    )
    offered = any(len(run.record.candidates) > 1 for run in runs)
    scores = [score for score in SCORES if score[0] in sampled]
    gaps = {score: _known_mean(_gap(run, score) for run in runs) for score in scores if offered}
    return Row(
        configuration=configuration,
        title=configuration.label,
        ingredients=(),
        floor=floor,
        runs=runs,
        measures={score: _measure(sampled[score[0]], score, runs) for score in scores},
        iou={kind: _class_iou(configuration, kind) for kind in REFINEMENTS},
        gap={score: gap for score, gap in gaps.items() if gap is not None},
        published=claims,
        oracle=_oracle(configuration, scores),
    )


def _oracle(configuration: Configuration, scores: Sequence[Score]) -> dict[Score, float]:
    rules = configuration.records[0].protocol.absent_classes
    found = {
        kind: [per_image_oracle(counts, absent_classes=rules) for counts in configuration.counts(kind)]
        for kind in dict.fromkeys(kind for kind, _ in scores)
    }
    return {
        (kind, metric): 100 * statistics.fmean(getattr(one, metric) for one in found[kind])
        for kind, metric in scores
    }


def _measure(sampling: Sampling, score: Score, runs: Sequence[Run]) -> Measure:
    values = tuple(value for run in runs if (value := run.value(score)) is not None)
    interval = interval_of(sampling, score[1])
    bounded = not math.isnan(interval.low + interval.high)
    return Measure(
        values=values,
        mean=statistics.fmean(values),
        sd=statistics.stdev(values) if len(values) > 1 else None,
        low=interval.low if bounded else None,
        high=interval.high if bounded else None,
        note=interval.note,
    )


def _gap(run: Run, score: Score) -> float | None:
    chosen, last = run.value(score, "selected"), run.value(score)
    return None if chosen is None or last is None else chosen - last


def _class_iou(configuration: Configuration, refinement: Refinement) -> tuple[float | None, ...]:
    rows = [row for record in configuration.records if (row := score_row(record, refinement)) is not None]
    return tuple(map(_known_mean, zip(*(row.iou for row in rows), strict=True)))


def _known_mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _curves(rows: Sequence[Row]) -> tuple[Curve, ...]:
    """Return a curve per method and numeric parameter of which a table has two or more values.

    Configurations on one curve are alike in everything else; where a sweep was made at several values of
    another parameter, each gives a curve of its own.
    """
    groups: dict[tuple[str, str, bytes], dict[float, Row]] = {}
    for row in rows:
        for name, value in row.params.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                alike = shared_identity(row.configuration.cell, name)
                groups.setdefault((row.method, name, alike), {})[float(value)] = row
    return tuple(
        Curve(method, name, tuple(sorted(found)), tuple(found[value] for value in sorted(found)))
        for (method, name, _), found in sorted(groups.items(), key=lambda item: item[0])
        if len(found) > 1
    )
