"""What `uss-bench compare` says: tables, and a verdict in words."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from uss_bench.cli.output.tables import table
from uss_bench.plugins.specs import NO_BACKBONE
from uss_bench.results.collection import Configuration
from uss_bench.results.record import Refinement
from uss_bench.results.scores import METRICS, REFINEMENTS, score_row
from uss_bench.runtime.formatting import MISSING, number
from uss_bench.runtime.text import csv_text
from uss_bench.statistics.comparing import Comparison, Difference, Versus
from uss_bench.statistics.pairs import Pairs
from uss_bench.statistics.power import needed


def as_text(versus: Versus) -> str:
    """Return everything that was found, for a terminal."""
    parts = [_header(versus), "", _overall(versus)]
    parts += ["", *_verdicts(versus)]
    for refinement in versus.found:
        parts += ["", f"IoU per class, {REFINEMENTS[refinement]}", "", _per_class(versus, refinement)]
    parts += ["", *_footnotes(versus)]
    return "\n".join(parts)


def as_data(rows: Sequence[Mapping[str, Any]], kind: str) -> str:
    """Return rows that have the same columns as CSV, or as a JSON array."""
    if kind == "json":
        return json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False)
    return csv_text([list(rows[0]), *(row.values() for row in rows)])


def rows_of(versus: Versus) -> list[dict[str, Any]]:
    """Return a row per refinement and score: the overall ones, then IoU per class."""
    found = []
    for refinement, comparison in versus.found.items():
        scores = dict(zip(METRICS, (comparison.accuracy, comparison.miou), strict=True))
        classes = dict(zip(versus.classes, comparison.per_class, strict=True))
        sides = {"a": versus.a.name, "b": versus.b.name, "refinement": refinement}
        found += [{**sides, "score": name, "class": "", **_fields(one)} for name, one in scores.items()]
        found += [{**sides, "score": "iou", "class": name, **_fields(one)} for name, one in classes.items()]
    return found


def rows_of_pairs(matrix: Pairs) -> list[dict[str, Any]]:
    """Return a row per pair and score."""
    names = [one.name for one in matrix.configurations]
    return [
        {"a": names[i], "b": names[j], "refinement": matrix.refinement, "score": metric, **_fields(one)}
        for (i, j), scores in matrix.found.items()
        for metric, one in scores.items()
    ]


def _fields(one: Difference | None) -> dict[str, Any]:
    if one is None:
        return {**dict.fromkeys(("difference", "low", "high", "p")), "verdict": ""}
    values = {"difference": one.value, "low": one.interval.low, "high": one.interval.high}
    known = {name: None if math.isnan(value) else round(value, 4) for name, value in values.items()}
    return {**known, "p": float(f"{one.p_value:.4g}"), "verdict": one.verdict}


def pairs_text(matrix: Pairs) -> str:
    """Return the mIoU differences of all pairs as a square table, with wins and ties."""
    many = range(len(matrix.configurations))
    rows = []
    for i in many:
        others = [matrix.difference(i, j, "miou") for j in many if j != i]
        wins, ties = (sum(one.verdict == verdict for one in others) for verdict in ("better", "tied"))
        cells = [MISSING if i == j else _verdict_cell(matrix.difference(i, j, "miou")) for j in many]
        name = f"{i + 1} {matrix.configurations[i].name}"
        rows.append([name, number(matrix.means[i]["miou"]), *cells, f"{wins}", f"{ties}"])
    headers = ["", "mIoU", *(str(i + 1) for i in many), "wins", "ties"]
    first = matrix.configurations[0]
    title = f"{first.table.dataset} · {first.table.protocol} · {REFINEMENTS[matrix.refinement]}"
    key = (
        "Row minus column in points of mIoU; ▲ better, ▼ worse, = tied. P-values are corrected for "
        f"{len(matrix.found)} pairs (Holm)."
    )
    return "\n".join([title, "", table(rows, headers, align="lr*"), "", key])


def _verdict_cell(one: Difference) -> str:
    sign = {"better": "▲", "worse": "▼", "tied": "="}[one.verdict]
    return f"{one.value:+.1f}{sign}".replace("-", "−")


def _header(versus: Versus) -> str:
    table, images = versus.a.table, versus.a.records[0].images
    backbones = [one.cell.backbone.name for one in (versus.a, versus.b)]
    shown = [name for name in dict.fromkeys(backbones) if name != NO_BACKBONE]
    seeds = " and ".join(str(len(one.seeds)) for one in (versus.a, versus.b))
    facts = [table.dataset, " and ".join(shown), table.protocol, f"{images} images", f"{seeds} seeds"]
    return f"{versus.a.name}  −  {versus.b.name}\n" + " · ".join(fact for fact in facts if fact)


def _overall(versus: Versus) -> str:
    rows = []
    for refinement, comparison in versus.found.items():
        scores = zip(*(_means(side, refinement) for side in (versus.a, versus.b)), strict=True)
        for name, difference, pair in zip(
            METRICS.values(), (comparison.accuracy, comparison.miou), scores, strict=False
        ):
            rows.append([f"{name} {REFINEMENTS[refinement]}", *_cells(difference, pair)])
    return _table("", rows)


def _per_class(versus: Versus, refinement: Refinement) -> str:
    left, right = (_means(side, refinement)[2:] for side in (versus.a, versus.b))
    differences = versus.found[refinement].per_class
    rows = [
        [name, *_cells(difference, pair)]
        for name, difference, *pair in zip(versus.classes, differences, left, right, strict=True)
    ]
    return _table("class", rows)


def _table(first: str, rows: list[list[str]]) -> str:
    headers = [first, "A", "B", "A − B", "95 % interval", "p", "A is"]
    return table(rows, headers, align="lrrrcrl")


def _cells(difference: Difference | None, pair: Sequence[float]) -> list[str]:
    scores = [number(value) for value in pair]
    if difference is None:
        return [*scores, "–", "–", "–", "–"]
    return [
        *scores,
        _signed(difference.value),
        _bounds(difference),
        _probability(difference.p_value),
        difference.verdict,
    ]


def _bounds(difference: Difference) -> str:
    low, high = difference.interval.low, difference.interval.high
    return "–" if math.isnan(low) else f"{_signed(low):>6} … {_signed(high):>6}"


def _signed(value: float) -> str:
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def _probability(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _verdicts(versus: Versus) -> list[str]:
    return [
        f"{name}, {REFINEMENTS[refinement]}: {_verdict(versus, getattr(comparison, metric), comparison)}"
        for refinement, comparison in versus.found.items()
        for metric, name in METRICS.items()
    ]


def _verdict(versus: Versus, difference: Difference, comparison: Comparison) -> str:
    if difference.verdict != "tied":
        winner = versus.a if difference.verdict == "better" else versus.b
        return f"{winner.name} is better."
    if difference.value == 0:
        return "both score the same."
    wanted = needed(difference, comparison.images, comparison.seeds)
    text = "the data cannot tell."
    if wanted is None:
        return text
    ways = []
    if wanted.images is not None:
        ways.append(f"{_round(wanted.images)} images")
    if wanted.seeds is not None:
        ways.append(f"{_round(wanted.seeds)} seeds per side")
    if not ways:
        return f"{text} More images or more seeds alone would not either; both are needed."
    return f"{text} A difference of this size would need about {' or '.join(ways)}."


def _round(number: int) -> str:
    """Return a rough number with two digits."""
    if number < 100:
        return str(number)
    scale = 10 ** (len(str(number)) - 2)
    return f"{math.ceil(number / scale) * scale:,}"


def _footnotes(versus: Versus) -> list[str]:
    notes = list(dict.fromkeys(note for one in versus.found.values() for note in one.notes))
    return [
        f"A is {versus.a.name}, B is {versus.b.name}: means over seeds in percent, A − B in points.",
        "Intervals leave both images and seeds to chance and are paired by image. Scores on few images",
        "flatter; that is taken off, so an interval need not be centered on A − B.",
        "Per class, p is corrected for the number of classes (Holm); the intervals are not.",
        *notes,
    ]


def _means(configuration: Configuration, refinement: Refinement) -> list[float]:
    """Return accuracy, mIoU and IoU per class in percent, mean over seeds; NaN where a seed has none."""
    rows = [row for record in configuration.records if (row := score_row(record, refinement)) is not None]
    columns = zip(*((row.accuracy, row.miou, *row.iou) for row in rows), strict=True)
    return [math.fsum(math.nan if one is None else one for one in column) / len(rows) for column in columns]
