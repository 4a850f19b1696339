"""Methods against datasets: every setting's scores in one table of colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uss_bench.collection import Setting, TableKey
from uss_bench.errors import UsageError
from uss_bench.plots import style
from uss_bench.plots.numbers import METRICS, REFINEMENTS, Metric, mean, scores
from uss_bench.records import Refinement


@dataclass(frozen=True)
class Overview:
    """One column per table, one row per method and label."""

    rows: tuple[str, ...]
    columns: tuple[TableKey, ...]
    cells: dict[tuple[str, TableKey], Setting]


def overview(settings: Sequence[Setting]) -> Overview:
    """Arrange settings; where a table has one of a method under two backbones, both get a row.

    Raises:
        UsageError: when there is only one setting, which an overview cannot compare.
    """
    if len(settings) < 2:
        raise UsageError(
            "An overview needs at least two settings, and the records hold one.",
            hint="Ask for less (--method, --dataset), or run another method.",
        )
    cells: dict[tuple[str, TableKey], Setting] = {}
    for one in settings:
        taken = [other for other in settings if other.table == one.table and other.label == one.label]
        name = f"{one.label} · {one.cell.backbone.name}" if len(taken) > 1 else one.label
        cells[name, one.table] = one
    methods = list(dict.fromkeys(one.cell.method.name for one in settings))
    rows = {name: (methods.index(one.cell.method.name), name) for (name, _), one in cells.items()}
    return Overview(
        rows=tuple(sorted(rows, key=lambda name: rows[name])),
        columns=tuple(sorted({table for _, table in cells})),
        cells=cells,
    )


def draw(found: Overview, refinement: Refinement) -> Figure:
    """Draw Acc above mIoU, mean ± standard deviation over seeds; shades compare within a column only."""
    room = (style.WIDTHS["page"] - 0.06 * max(map(len, found.rows)) - 0.3) / len(found.columns)
    upright = max(len(line) for one in found.columns for line in _heading(found, one)) * 0.055 > room
    headings = 1.2 if upright else 0.45
    with style.figure("page", height=headings + 0.46 * len(found.rows) + 0.1) as canvas:
        upper, lower = canvas.subplots(2, 1, sharex=True)
        _draw_metric(upper, found, "accuracy", refinement, room)
        _draw_metric(lower, found, "miou", refinement, room)
        upper.xaxis.tick_top()
        upper.set_xticks(
            np.arange(len(found.columns)) + 0.5,
            ["\n".join(_heading(found, table)) for table in found.columns],
            rotation=90 if upright else 0,
        )
        upper.tick_params(length=0, labeltop=True)
        lower.tick_params(length=0, labeltop=False, labelbottom=False)
        return canvas


def caption(found: Overview, refinement: Refinement) -> str:
    first = next(iter(found.cells.values()))
    several = any(len(one.seeds) > 1 for one in found.cells.values())
    spread = "mean ± standard deviation over seeds" if several else f"seed {first.seeds[0]}"
    return (
        f"Methods against datasets, {REFINEMENTS[refinement]}, in percent: {spread}; bold: best of a column. "
        "A column is one dataset under one protocol; shades compare within a column only."
    )


def _draw_metric(axes: Axes, found: Overview, metric: Metric, refinement: Refinement, room: float) -> None:
    values = {key: scores(one, metric, refinement) for key, one in found.cells.items()}
    means = np.full((len(found.rows), len(found.columns)), np.nan)
    for (row, table), one in values.items():
        means[found.rows.index(row), found.columns.index(table)] = mean(one)
    best = np.fmax.reduce(means, axis=0)
    shades = np.divide(means, best, out=np.zeros_like(means), where=best > 0)
    axes.pcolormesh(shades, cmap=style.SEQUENTIAL, vmin=0, vmax=1.7, edgecolors="white", linewidth=1.5)
    for (row, table), one in values.items():
        y, x = found.rows.index(row), found.columns.index(table)
        spread = f"{' ' if room > 0.75 else chr(10)}± {np.nanstd(one, ddof=1):.1f}" if len(one) > 1 else ""
        axes.text(
            x + 0.5,
            y + 0.5,
            f"{means[y, x]:.1f}{spread}",
            ha="center",
            va="center",
            fontsize=6.5,
            fontweight="bold" if means[y, x] == best[x] else "normal",
        )
    axes.set_yticks(np.arange(len(found.rows)) + 0.5, found.rows)
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    axes.set_ylabel(f"{METRICS[metric]}, {REFINEMENTS[refinement]} (%)", fontweight="bold")


def _heading(found: Overview, table: TableKey) -> list[str]:
    backbones = {one.cell.backbone.name for (_, key), one in found.cells.items() if key == table} - {"none"}
    limit = [f"{table.limit} images"] if table.limit else []
    return [table.dataset, table.protocol, *sorted(backbones), *limit]
