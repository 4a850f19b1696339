"""All configurations of one table against each other: differences and verdicts as a square of colors."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from uss_bench.plots import style
from uss_bench.results.scores import METRICS, REFINEMENTS, Metric
from uss_bench.statistics.pairs import Pairs


def draw(matrix: Pairs, metric: Metric = "miou") -> Figure:
    """Draw row minus column in points: colored where one is better, and gray where the data cannot tell."""
    names = [one.name for one in matrix.configurations]
    many = len(names)
    values = np.full((many, many), np.nan)
    ties = np.zeros((many, many), dtype=bool)
    for i in range(many):
        for j in range(many):
            if i != j:
                one = matrix.difference(i, j, metric)
                values[i, j], ties[i, j] = one.value, one.verdict == "tied"
    room = 0.06 * max(map(len, names)) + 0.3  # inches beside the cells
    width: style.Width = "column" if many * 0.36 + room < style.WIDTHS["column"] else "page"
    cell = min(0.45, (style.WIDTHS[width] - room) / many)
    with style.figure(width, height=cell * many + 0.8 * room + 0.3) as canvas:
        axes = canvas.subplots()
        reach = float(np.nanmax(np.abs(values)))
        axes.imshow(np.ma.masked_array(values, ties | np.isnan(values)), cmap="RdBu", vmin=-reach, vmax=reach)
        axes.imshow(np.ma.masked_array(np.zeros_like(values), ~ties), cmap="Greys", vmin=-1, vmax=6)
        for i, j in np.argwhere(~np.isnan(values)):
            ink = "white" if not ties[i, j] and abs(values[i, j]) > 0.6 * reach else style.INK
            text = f"{values[i, j]:+.1f}".replace("-", "−")
            axes.text(j, i, text, ha="center", va="center", fontsize=min(6.5, 15 * cell), color=ink)
        axes.set_xticks(range(many), names, rotation=50, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(many), names)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(f"{METRICS[metric]}, {REFINEMENTS[matrix.refinement]}: row − column (points)")
        return canvas
