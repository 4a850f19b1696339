"""Where the marks of the page's small drawings go: coordinates of what `model` holds, nothing more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from uss_bench.board.model import METRICS, Board, Curve, Measure, Metric, Row, Score

Point = tuple[float, float]

DOTS_WIDTH, DOTS_HEIGHT = 140, 22
_MARGIN = 5
CURVE_WIDTH, CURVE_HEIGHT = 300, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 12, 12, 34


@dataclass(frozen=True, slots=True)
class Dots:
    """A row's seeds on a line, with its mean and its interval over images."""

    seeds: tuple[float, ...]
    mean: float
    bar: tuple[float, float] | None
    """Left end and width."""


@dataclass(frozen=True, slots=True)
class Line:
    """One score along a curve."""

    metric: Metric
    mean: tuple[Point, ...]
    band: tuple[Point, ...]
    """Outline of mean ± standard deviation; empty where a point has a single seed."""
    seeds: tuple[Point, ...]
    best: Point


@dataclass(frozen=True, slots=True)
class CurveDrawing:
    curve: Curve
    lines: tuple[Line, ...]
    ticks: tuple[tuple[float, str], ...]
    """Of the parameter: place and value."""
    levels: tuple[tuple[float, str], ...]
    """Of the score: place and percent."""


def top(board: Board) -> float:
    """Return the right end of the dots' axis: a round percentage that holds every value of the table."""
    values = [0.0]
    for measure in _measures(board.rows, board.primary):
        values += [*measure.values, measure.high or 0.0]
    return min(100.0, 5.0 * math.ceil(max(values) / 5 + 1e-9))


def dots(row: Row, board: Board) -> Dots | None:
    measure = row.measures.get(board.primary)
    if measure is None:
        return None
    scale = (DOTS_WIDTH - 2 * _MARGIN) / top(board)

    def place(value: float) -> float:
        return round(_MARGIN + scale * min(max(value, 0.0), top(board)), 1)

    bar = None
    if measure.low is not None and measure.high is not None:
        bar = (place(measure.low), round(max(place(measure.high) - place(measure.low), 1.0), 1))
    return Dots(tuple(place(value) for value in measure.values), place(measure.mean), bar)


def curve(one: Curve, board: Board) -> CurveDrawing:
    refinement = board.primary[0]
    scores: list[Score] = [(refinement, metric) for metric in METRICS]
    seen = [value for score in scores for measure in _measures(one.rows, score) for value in measure.values]
    low, high = 5 * math.floor(min(seen) / 5), 5 * math.ceil(max(seen) / 5)
    high = max(high, low + 5)
    across = (CURVE_WIDTH - _LEFT - _RIGHT) / max(len(one.rows) - 1, 1)
    upwards = (CURVE_HEIGHT - _TOP - _BOTTOM) / (high - low)

    def x(index: int) -> float:
        return round(_LEFT + across * index, 1)

    def y(value: float) -> float:
        return round(CURVE_HEIGHT - _BOTTOM - upwards * (value - low), 1)

    lines = []
    for score in scores:
        found = [(x(i), row.measures[score]) for i, row in enumerate(one.rows) if score in row.measures]
        if not found:
            continue
        band: list[Point] = []
        if all(measure.sd is not None for _, measure in found):
            band = [(place, y(measure.mean + (measure.sd or 0.0))) for place, measure in found]
            band += [(place, y(measure.mean - (measure.sd or 0.0))) for place, measure in reversed(found)]
        best_x, best = max(found, key=lambda pair: pair[1].mean)
        lines.append(
            Line(
                metric=score[1],
                mean=tuple((place, y(measure.mean)) for place, measure in found),
                band=tuple(band),
                seeds=tuple((place, y(value)) for place, measure in found for value in measure.values),
                best=(best_x, y(best.mean)),
            )
        )
    step = 5 if high - low <= 30 else 10
    return CurveDrawing(
        curve=one,
        lines=tuple(lines),
        ticks=tuple((x(i), f"{value:g}") for i, value in enumerate(one.values)),
        levels=tuple((y(level), str(level)) for level in range(low, high + 1, step)),
    )


def _measures(rows: Sequence[Row], score: Score) -> list[Measure]:
    return [row.measures[score] for row in rows if score in row.measures]
