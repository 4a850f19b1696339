"""Methods against datasets: every configuration's scores in one table of colors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uss_bench.errors import UsageError
from uss_bench.plots import style
from uss_bench.plots.numbers import scores
from uss_bench.plugins.specs import NO_BACKBONE
from uss_bench.results.collection import Configuration, TableKey
from uss_bench.results.record import Refinement
from uss_bench.results.scores import METRICS, REFINEMENTS, Metric
from uss_bench.runtime.formatting import mean_sd


@dataclass(frozen=True)
class Overview:
    """One column per table, one row per method and label."""

    rows: tuple[str, ...]
    columns: tuple[TableKey, ...]
    cells: dict[tuple[str, TableKey], Configuration]


def overview(configurations: Sequence[Configuration]) -> Overview:
    """Arrange configurations; where a table has one of a method under two backbones, both get a row.

    Raises:
        UsageError: when there is only one configuration, which an overview cannot compare.
    """
    if len(configurations) < 2:
        raise UsageError(
            "An overview needs at least two configurations, and the records hold one.",
            hint="Ask for less (--method, --dataset), or run another method.",
        )
    cells: dict[tuple[str, TableKey], Configuration] = {}
    for one in configurations:
        times = sum((other.table, other.name) == (one.table, one.name) for other in configurations)
        title = one.name.replace(one.cell.backbone.name, "frozen features")
        cells[f"{title} · {one.cell.backbone.name}" if times > 1 else title, one.table] = one
    columns = sorted({one.table for one in configurations})
    rows = dict.fromkeys(name for name, _ in cells)
    return Overview(tuple(rows), tuple(columns), cells)


def draw(found: Overview, refinement: Refinement) -> Figure:
    """Draw Acc above mIoU, mean ± standard deviation over seeds; shades compare within a column only."""
    room = (style.WIDTHS["page"] - 0.06 * max(map(len, found.rows)) - 0.3) / len(found.columns)
    headings = [_heading(found, table) for table in found.columns]
    upright = max(len(line) for lines in headings for line in lines) * 0.055 > room
    with style.figure("page", height=(1.2 if upright else 0.45) + 0.46 * len(found.rows) + 0.1) as canvas:
        panels = canvas.subplots(len(METRICS), 1, sharex=True)
        for axes, metric in zip(panels, METRICS, strict=True):
            _draw_metric(axes, found, metric, refinement, " " if room > 0.75 else "\n")
            axes.tick_params(length=0, labelbottom=False)
        panels[0].xaxis.tick_top()
        panels[0].set_xticks(
            np.arange(len(headings)) + 0.5, ["\n".join(lines) for lines in headings], rotation=90 * upright
        )
        panels[0].tick_params(length=0, labeltop=True)
        return canvas


def caption(found: Overview, refinement: Refinement) -> str:
    first = next(iter(found.cells.values()))
    several = any(len(one.seeds) > 1 for one in found.cells.values())
    spread = "mean ± standard deviation over seeds" if several else f"seed {first.seeds[0]}"
    return (
        f"Methods against datasets, {REFINEMENTS[refinement]}, in percent: {spread}; bold: best of a column. "
        "A column is one dataset under one protocol; shades compare within a column only."
    )


def _draw_metric(axes: Axes, found: Overview, metric: Metric, refinement: Refinement, gap: str) -> None:
    means = np.full((len(found.rows), len(found.columns)), np.nan)
    texts = {}
    for (row, table), one in found.cells.items():
        place = found.rows.index(row), found.columns.index(table)
        values = scores(one, metric, refinement)
        means[place] = values.mean()
        texts[place] = mean_sd(values.tolist()).replace(" ±", f"{gap}±")
    best = np.fmax.reduce(means, axis=0)
    shades = np.divide(means, best, out=np.zeros_like(means), where=best > 0)
    axes.pcolormesh(shades, cmap=style.SEQUENTIAL, vmin=0, vmax=1.7, edgecolors="white", linewidth=1.5)
    for (y, x), text in texts.items():
        weight = "bold" if means[y, x] == best[x] else "normal"
        axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=6.5, fontweight=weight)
    axes.set_yticks(np.arange(len(found.rows)) + 0.5, found.rows)
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    axes.set_ylabel(f"{METRICS[metric]}, {REFINEMENTS[refinement]} (%)", fontweight="bold")


def _heading(found: Overview, table: TableKey) -> list[str]:
    backbones = {one.cell.backbone.name for (_, key), one in found.cells.items() if key == table} - {
        NO_BACKBONE
    }
    limit = [f"{table.limit} images"] if table.limit else []
    return [table.dataset, table.protocol, *sorted(backbones), *limit]
