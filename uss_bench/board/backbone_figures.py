"""Where the marks of the backbone page's figures stand: accuracy against cost, and against K."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from uss_bench.board.backbone_tables import BackboneRow, Column, FeatureTable

WIDTH, HEIGHT = 340, 220
LEFT, RIGHT, TOP, BOTTOM = 30, 12, 10, 34
"""Margins, in units of the drawing."""
_LINE, _LETTER = 12, 6.2
"""Height of a line of text, and width of a letter."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A backbone in a figure: its points, and its name beside the last."""

    name: str
    series: int
    points: tuple[tuple[float, float], ...]
    values: tuple[str, ...]
    label: tuple[float, float]
    anchor: str
    """``start`` right of its point, ``end`` left of it."""


@dataclass(frozen=True, slots=True)
class Figure:
    title: str
    x_name: str
    right: float
    """Where the lines of its grid end."""
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    marks: tuple[Mark, ...]
    left_out: tuple[str, ...] = ()
    """Backbones that have no place on the axis."""


def cost_figure(table: FeatureTable, column: Column, series: Mapping[str, int]) -> Figure | None:
    """Return a measure against operations per image; None for fewer than two backbones."""
    rows = [row for row in table.rows if not row.is_block and row.mean(column) is not None]
    placed = [(row.name, [(row.gflops, row.mean(column))]) for row in rows if row.gflops]
    left_out = tuple(row.name for row in rows if not row.gflops)
    return _figure(column.name, "GFLOPs per image", placed, series, left_out)


def cluster_figure(table: FeatureTable, series: Mapping[str, int]) -> Figure | None:
    """Return over-clustering against K; None for fewer than two backbones, or a single K."""
    rows = [row for row in table.rows if not row.is_block]
    placed = [(row.name, curve) for row in rows if len(curve := table.curve(row)) > 1]
    return _figure("over-clustering, many-to-one", "K clusters", placed, series)


def _figure(
    title: str,
    x_name: str,
    placed: Sequence[tuple[str, Sequence[tuple[float | None, float | None]]]],
    series: Mapping[str, int],
    left_out: tuple[str, ...] = (),
) -> Figure | None:
    if len(placed) < 2:
        return None
    known = [(float(x or 0), float(y or 0)) for _, points in placed for x, y in points]
    x_low, x_high = min(x for x, _ in known), max(x for x, _ in known)
    wider = (x_high / x_low) ** 0.04 if x_high > x_low else 2.0
    x_low, x_high = math.log10(x_low / wider), math.log10(x_high * wider)
    several = any(len(points) > 1 for _, points in placed)
    right = WIDTH - (14 + _LETTER * max(len(name) for name, _ in placed) if several else RIGHT)
    step = _step(max(y for _, y in known))
    y_high = step * math.ceil(max(y for _, y in known) * 1.02 / step) or step

    def at_x(x: float) -> float:
        return round(LEFT + (right - LEFT) * (math.log10(x) - x_low) / (x_high - x_low), 1)

    def at_y(y: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / y_high, 1)

    marks = []
    for name, points in placed:
        where = tuple((at_x(float(x or 0)), at_y(float(y or 0))) for x, y in points)
        values = tuple(f"{name}: {y:.1f} at {x:,.3g}" for x, y in points)
        left = not several and where[-1][0] > WIDTH * 0.62
        x, y = where[-1]
        marks.append(
            Mark(
                name,
                series[name],
                where,
                values,
                (x - 7 if left else x + 7, y + 4),
                "end" if left else "start",
            )
        )
    return Figure(
        title,
        x_name,
        right,
        tuple((at_x(x), f"{x:,g}") for x in _log_ticks(x_low, x_high, [x for x, _ in known])),
        tuple((at_y(step * i), f"{step * i:g}") for i in range(round(y_high / step) + 1)),
        tuple(_apart(marks)),
        left_out,
    )


def _step(largest: float) -> float:
    return next((step for step in (2.0, 5.0, 10.0, 20.0) if largest / step <= 5), 25.0)


def _log_ticks(low: float, high: float, values: Sequence[float]) -> list[float]:
    """Return powers of ten, or the values themselves where no two powers are between the ends."""
    powers = [10.0**power for power in range(math.ceil(low), math.floor(high) + 1)]
    own = sorted(set(values))
    return own if len(powers) < 2 and len(own) <= 5 else powers or own[:: max(1, len(own) - 1)]


def _apart(marks: Sequence[Mark]) -> list[Mark]:
    """Move labels down until none lies on another, from the top on, and up again from the bottom."""
    placed: list[Mark] = []
    for mark in sorted(marks, key=lambda one: one.label[1]):
        x, y = mark.label
        width = _LETTER * len(mark.name)
        low = x - width if mark.anchor == "end" else x
        for other in placed:
            there = other.label[0] - _LETTER * len(other.name) if other.anchor == "end" else other.label[0]
            if low < there + _LETTER * len(other.name) and there < low + width:
                y = max(y, other.label[1] + _LINE)
        placed.append(Mark(mark.name, mark.series, mark.points, mark.values, (x, y), mark.anchor))
    return placed


def names_by_series(rows: Sequence[BackboneRow]) -> dict[str, int]:
    """Return a color's number for each backbone, the same in all tables."""
    return {name: i for i, name in enumerate(sorted({row.name for row in rows}))}
