"""Scores per class, one bar for each configuration, with the range over its seeds."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uss_bench.plots import style
from uss_bench.plots.looks import looks
from uss_bench.plots.numbers import CLASS_METRICS, ClassMetric, mean, scores
from uss_bench.results.collection import Configuration
from uss_bench.results.record import Refinement
from uss_bench.results.scores import REFINEMENTS
from uss_bench.results.selection import describe, names, one_table

_NARROW = 16
"""Bars up to which a column is wide enough."""
_BARS = 64
"""Bars beyond which a table of colors is easier to read."""
_LETTER = 0.057
"""Inches that a letter of a class name takes."""


def draw(configurations: Sequence[Configuration], metric: ClassMetric, refinement: Refinement) -> Figure:
    """Draw configurations of one table: bars are means over seeds, lines the range of the seeds.

    Where that would be too many bars it is a table of colors instead, of means over seeds. A class without
    a score (absent from prediction and truth) has a dash in place of its bar.

    Raises:
        UsageError: when the configurations are of several tables.
    """
    one_table(configurations)
    classes = [row.name for row in configurations[0].records[0].classes]
    many = len(configurations)
    if many > 1 and many * len(classes) > _BARS:
        return _heat_map(configurations, classes, metric, refinement)
    width: style.Width = "column" if len(classes) * many <= _NARROW else "page"
    where = np.arange(len(classes), dtype=np.float64)
    bar = 0.82 / many
    with style.figure(width, height=2.3 + 0.12 * (many // 3)) as canvas:
        axes = canvas.subplots()
        axes.grid(axis="y")
        handles = []
        for index, (one, look) in enumerate(zip(configurations, looks(configurations), strict=True)):
            values, color = scores(one, metric, refinement), look.color
            means = mean(values)
            at = where + bar * (index - (many - 1) / 2)
            handles.append(axes.bar(at, np.nan_to_num(means), 0.92 * bar, color=color, linewidth=0))
            scored = ~np.isnan(means)
            low, high = np.nanmin(values[:, scored], axis=0), np.nanmax(values[:, scored], axis=0)
            axes.vlines(at[scored], low, high, color=style.INK, linewidth=0.7)
            axes.plot(at[~scored], np.full((~scored).sum(), 1.0), "_", color=color, markersize=4)
        axes.set_xlim(-0.6, len(classes) - 0.4)
        axes.set_ylim(bottom=0)
        axes.tick_params(axis="x", length=0)
        _name_classes(axes, classes, room=(style.WIDTHS[width] - 0.6) / len(classes))
        axes.set_ylabel(f"{CLASS_METRICS[metric]}, {REFINEMENTS[refinement]} (%)")
        if many > 1:
            style.legend_below(canvas, handles, names(configurations))
        return canvas


def _heat_map(
    configurations: Sequence[Configuration],
    classes: Sequence[str],
    metric: ClassMetric,
    refinement: Refinement,
) -> Figure:
    """Draw a row per configuration and a column per class, shaded by the mean over seeds."""
    means = np.stack([mean(scores(one, metric, refinement)) for one in configurations])
    called = names(configurations)
    room = 0.06 * max(map(len, called)) + 0.9  # inches beside the cells
    cell = (style.WIDTHS["page"] - room) / len(classes)
    height = 0.19 * len(called) + 0.052 * max(map(len, classes)) + 0.35
    with style.figure("page", height=height) as canvas:
        axes = canvas.subplots()
        drawn = axes.imshow(means, cmap=style.SEQUENTIAL, vmin=0, aspect="auto")
        axes.set_xticks(range(len(classes)), classes, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(called)), called)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        middle = 0.55 * float(np.nanmax(means))
        for row, column in np.argwhere(~np.isnan(means)):
            value = means[row, column]
            ink = "white" if value > middle else style.INK
            size = min(6.5, 26 * cell)
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=size, color=ink)
        bar = canvas.colorbar(drawn, ax=axes, pad=0.01, aspect=30)
        bar.set_label(f"{CLASS_METRICS[metric]}, {REFINEMENTS[refinement]} (%)")
        return canvas


def caption(configurations: Sequence[Configuration], metric: ClassMetric, refinement: Refinement) -> str:
    what = CLASS_METRICS[metric]
    who = f" of {names(configurations)[0]}" if len(configurations) == 1 else ""
    classes = len(configurations[0].records[0].classes)
    many = len(configurations) > 1 and len(configurations) * classes > _BARS
    drawn = "Bars: mean over seeds; lines: from the lowest seed to the highest"
    if many:
        drawn = "Mean over seeds"
    return (
        f"{what[0].upper()}{what[1:]} per class{who}, {REFINEMENTS[refinement]}. {drawn}. "
        f"{describe(configurations)}."
    )


def _name_classes(axes: Axes, classes: Sequence[str], room: float) -> None:
    """Write class names under the bars: in lines of `room` inches if their words fit in, else slanted."""
    letters = max(1, int(room / _LETTER))
    if max(len(word) for name in classes for word in name.split()) <= letters:
        axes.set_xticks(range(len(classes)), [textwrap.fill(name, letters) for name in classes])
    else:
        axes.set_xticks(range(len(classes)), classes, rotation=40, ha="right", rotation_mode="anchor")
