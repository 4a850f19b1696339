"""Training curves: the label-free scalars that a method reported, over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from uss_bench.collection import Setting
from uss_bench.errors import UsageError
from uss_bench.plots import style
from uss_bench.plots.selection import describe, names, one_table

_ACROSS = 3


def scalars(settings: Sequence[Setting]) -> list[str]:
    """Return the names of all reported scalars, in the order of reporting.

    Raises:
        UsageError: when nothing was reported.
    """
    found = list(dict.fromkeys(name for one in settings for record in one.records for name in record.curves))
    if not found:
        raise UsageError(
            f"Nothing was reported while {', '.join(names(settings))} trained: there are no curves.",
            hint="Choose another --method; a method reports with ctx.report(step, loss=…).",
        )
    return found


def draw(settings: Sequence[Setting]) -> Figure:
    """Draw one panel per scalar: a line per seed, a colour per setting.

    Raises:
        UsageError: when the settings are of several tables, or nothing was reported.
    """
    one_table(settings)
    panels = scalars(settings)
    across = min(len(panels), _ACROSS)
    rows = -(-len(panels) // across)
    width: style.Width = "column" if across < _ACROSS else "page"
    legend = 0.18 * (1 + len(settings) // 2) if len(settings) > 1 else 0.0
    with style.figure(width, height=1.7 * rows + legend) as canvas:
        grid = canvas.subplots(rows, across, squeeze=False)
        handles = {}
        for axes, name in zip(grid.flat, panels, strict=False):
            axes.grid()
            axes.set_title(name)
            for index, setting in enumerate(settings):
                for record in setting.records:
                    points = np.array(record.curves.get(name, []), dtype=np.float64).reshape(-1, 2)
                    (line,) = axes.plot(points[:, 0], points[:, 1], color=style.colour(index), alpha=0.75)
                    handles[index] = line
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        for axes in grid[-1, : len(panels) - across * (rows - 1)]:
            axes.set_xlabel("step")
        if len(settings) > 1:
            style.legend_below(canvas, list(handles.values()), names(settings))
        return canvas


def caption(settings: Sequence[Setting]) -> str:
    who = ", ".join(names(settings))
    return f"Training curves of {who}: a line per seed, no labels involved. {describe(settings)}."
