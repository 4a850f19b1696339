"""Scores per class, one bar for each setting, with what single seeds gave."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uss_bench.collection import Setting
from uss_bench.plots import style
from uss_bench.plots.numbers import CLASS_METRICS, REFINEMENTS, ClassMetric, class_scores, mean
from uss_bench.plots.selection import describe, names, one_table
from uss_bench.records import Refinement

_NARROW = 16
"""Bars up to which a column is wide enough."""
_LETTER = 0.057
"""Inches that a letter of a class name takes."""


def draw(settings: Sequence[Setting], metric: ClassMetric, refinement: Refinement) -> Figure:
    """Draw settings of one table: bars are means over seeds, lines reach from the lowest seed to the highest.

    A class without a score (absent from prediction and truth) has a dash in place of its bar.

    Raises:
        UsageError: when the settings are of several tables.
    """
    one_table(settings)
    classes = [row.name for row in settings[0].records[0].classes]
    width: style.Width = "column" if len(classes) * len(settings) <= _NARROW else "page"
    where = np.arange(len(classes), dtype=np.float64)
    bar = 0.82 / len(settings)
    with style.figure(width, height=2.3 + 0.12 * (len(settings) // 3)) as canvas:
        axes = canvas.subplots()
        axes.grid(axis="y")
        handles = []
        for index, setting in enumerate(settings):
            values = class_scores(setting, metric, refinement)
            means = mean(values)
            at = where + bar * (index - (len(settings) - 1) / 2)
            bars = axes.bar(at, np.nan_to_num(means), 0.92 * bar, color=style.colour(index), linewidth=0)
            handles.append(bars)
            there = ~np.isnan(means)
            low, high = np.nanmin(values[:, there], axis=0), np.nanmax(values[:, there], axis=0)
            axes.vlines(at[there], low, high, color=style.INK, linewidth=0.7)
            axes.plot(at[~there], np.full((~there).sum(), 1.0), "_", color=style.colour(index), markersize=4)
        axes.set_xlim(-0.6, len(classes) - 0.4)
        axes.set_ylim(bottom=0)
        axes.tick_params(axis="x", length=0)
        _name_classes(axes, classes, room=(style.WIDTHS[width] - 0.6) / len(classes))
        axes.set_ylabel(f"{CLASS_METRICS[metric]}, {REFINEMENTS[refinement]} (%)")
        if len(settings) > 1:
            style.legend_below(canvas, handles, names(settings))
        return canvas


def caption(settings: Sequence[Setting], metric: ClassMetric, refinement: Refinement) -> str:
    what = CLASS_METRICS[metric]
    what = what[0].upper() + what[1:]
    who = f" of {names(settings)[0]}" if len(settings) == 1 else ""
    return (
        f"{what} per class{who}, {REFINEMENTS[refinement]}. Bars: mean over seeds; lines: from the lowest "
        f"seed to the highest. {describe(settings)}."
    )


def _name_classes(axes: Axes, classes: Sequence[str], room: float) -> None:
    """Write class names under the bars: in lines of `room` inches if their words fit in, else slanted."""
    letters = max(1, int(room / _LETTER))
    if max(len(word) for name in classes for word in name.split()) <= letters:
        axes.set_xticks(range(len(classes)), [textwrap.fill(name, letters) for name in classes])
    else:
        axes.set_xticks(range(len(classes)), classes, rotation=40, ha="right", rotation_mode="anchor")
