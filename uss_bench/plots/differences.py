"""Differences with their intervals, overall and per class, as a figure."""

from __future__ import annotations

import math
import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uss_bench.plots import style
from uss_bench.results.scores import REFINEMENTS
from uss_bench.statistics.comparing import Difference, Versus

_ROW = 0.14
"""Inches per row of one refinement."""


def draw(versus: Versus) -> Figure:
    """Draw one row per score: filled marks are verdicts, hollow ones are ties; a line is the interval."""
    names = ["Acc", "mIoU", *versus.classes]
    shown = len(versus.found)
    height = 0.75 + _ROW * (0.6 + 0.4 * shown) * (len(names) + 0.6)
    with style.figure("column", height=height) as canvas:
        axes = canvas.subplots()
        axes.grid(axis="x")
        axes.axvline(0, color=style.INK, linewidth=0.8)
        # A gap sets the overall scores apart from the classes.
        rows = np.array([0.0, 1.0, *np.arange(len(versus.classes)) + 2.6])
        handles = []
        for index, comparison in enumerate(versus.found.values()):
            color = style.color(index)
            offset = (index - (shown - 1) / 2) * 0.36
            for row, one in zip(
                rows, [comparison.accuracy, comparison.miou, *comparison.per_class], strict=True
            ):
                _mark(axes, row + offset, one, color, style.marker(index))
            (handle,) = axes.plot([], [], style.marker(index), color=color)
            handles.append(handle)
        axes.set_yticks(rows, names)
        axes.set_ylim(rows[-1] + 0.7, -0.7)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(textwrap.fill(f"{versus.a.name} − {versus.b.name} (points)", 50))
        handles += axes.plot([], [], "o", color=style.FAINT, markerfacecolor="white")
        style.legend_below(canvas, handles, [*(REFINEMENTS[one] for one in versus.found), "tied"])
        return canvas


def _mark(axes: Axes, y: float, one: Difference | None, color: str, marker: str) -> None:
    if one is None:
        return
    if not math.isnan(one.interval.low):
        axes.hlines(y, one.interval.low, one.interval.high, color=color, linewidth=1.0)
    face = "white" if one.verdict == "tied" else color
    axes.plot(one.value, y, marker, color=color, markerfacecolor=face, markersize=3.6, markeredgewidth=0.8)
