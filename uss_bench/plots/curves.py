"""Training curves: the label-free scalars that methods reported, and what one run's states did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from uss_bench.errors import UsageError
from uss_bench.plots import style
from uss_bench.plots.looks import looks
from uss_bench.results.collection import Configuration
from uss_bench.results.files import CURVES_SUFFIX, read_record
from uss_bench.results.record import RunRecord
from uss_bench.results.selection import describe, names, one_table

_ACROSS = 3

Symbols = Mapping[str, Mapping[str, str]]
"""By method, what its paper calls a scalar, as math of LaTeX."""


def draw(configurations: Sequence[Configuration], symbols: Symbols | None = None) -> Figure:
    """Draw one panel per scalar: a line per seed, a color per configuration.

    Args:
        symbols: stand in the titles of panels, beside the names of scalars.

    Raises:
        UsageError: when the configurations are of several tables, or nothing was reported.
    """
    one_table(configurations)
    records = [record for one in configurations for record in one.records]
    scalars = list(dict.fromkeys(name for record in records for name in record.curves))
    if not scalars:
        raise UsageError(
            f"Nothing was reported while {', '.join(names(configurations))} trained: there are no curves.",
            hint="Choose another --method; a method reports with ctx.report(step, loss=…).",
        )
    across = min(len(scalars), _ACROSS)
    rows = -(-len(scalars) // across)
    legend = 0.18 * (1 + len(configurations) // 2) if len(configurations) > 1 else 0.0
    with style.figure("column" if across < _ACROSS else "page", height=1.7 * rows + legend) as canvas:
        grid = canvas.subplots(rows, across, squeeze=False)
        drawn = looks(configurations)
        for one, look in zip(configurations, drawn, strict=True):
            for record in one.records:
                line = {"color": look.color, "linestyle": look.line, "alpha": 0.75}
                _draw_scalars(grid.flat, record, scalars, **line)
        for axes, name in zip(grid.flat, scalars, strict=False):
            axes.set_title(_title(name, records, symbols or {}), parse_math=True)
        for axes in grid.flat[len(scalars) :]:
            axes.remove()
        for axes in grid[-1, : len(scalars) - across * (rows - 1)]:
            axes.set_xlabel("step")
        if len(configurations) > 1:
            handles = [Line2D([], [], color=one.color, linestyle=one.line, alpha=0.75) for one in drawn]
            style.legend_below(canvas, handles, names(configurations))
        return canvas


def _title(name: str, records: Sequence[RunRecord], symbols: Symbols) -> str:
    """Return the name of a scalar, with the symbols of all methods that reported it."""
    methods = dict.fromkeys(record.cell.method.name for record in records if name in record.curves)
    known = dict.fromkeys(symbols.get(method, {}).get(name, "") for method in methods)
    return "  ".join([name.replace("$", r"\$"), *(f"${symbol}$" for symbol in known if symbol)])


def caption(configurations: Sequence[Configuration]) -> str:
    who = ", ".join(names(configurations))
    return f"Training curves of {who}: a line per seed, no labels involved. {describe(configurations)}."


def save_training(path: Path) -> None:
    """Draw the training of the record at `path` beside it, if anything was trained.

    Raises:
        DataError: when the picture cannot be written.
    """
    record = read_record(path)
    if record.monitor:
        style.save_beside(path, CURVES_SUFFIX, draw_training(record))


def draw_training(record: RunRecord) -> Figure:
    """Draw a record that has `monitor` points: a panel per scalar, then clusters, agreement, confidence."""
    scalars = list(record.curves)
    rows = -(-len(scalars) // _ACROSS) + 1
    with style.figure("page", height=1.55 * rows + 0.3) as canvas:
        grid = canvas.subplots(rows, _ACROSS, squeeze=False, sharex=True)
        _draw_scalars(grid.flat, record, scalars, color=style.color(0))
        for axes in grid[:-1].flat[len(scalars) :]:
            axes.set_axis_off()
        _draw_states(record, grid[-1])
        canvas.suptitle(
            f"{record.cell.method.name} on {record.cell.dataset.name}, seed {record.cell.seed}: "
            "training without labels",
            fontsize=8,
        )
        return canvas


def _draw_scalars(panels: Iterable[Axes], record: RunRecord, scalars: Sequence[str], **line: Any) -> None:
    for axes, name in zip(panels, scalars, strict=False):
        points = np.array(record.curves.get(name, []), dtype=np.float64).reshape(-1, 2)
        # a line of one point is invisible
        dot: dict[str, Any] = {"marker": "o", "markersize": 3} if len(points) == 1 else {}
        axes.plot(*points.T, **line, **dot)
        axes.set_title(name)
        axes.grid(visible=True)


def _draw_states(record: RunRecord, panels: Sequence[Axes]) -> None:
    points = record.monitor
    end = max([step for curve in record.curves.values() for step, _ in curve] + [p.step or 0 for p in points])
    steps = [end if point.step is None else point.step for point in points]
    shown = {
        "clusters": {"entropy": "entropy / log K", "largest": "largest share"},
        "agreement": {"agreement": ""},
        "confidence": {"confidence": "mean", "confident": "share above 0.9"},
    }
    for axes, (title, lines) in zip(panels, shown.items(), strict=True):
        for index, (field, label) in enumerate(lines.items()):
            values = np.array([getattr(point, field) for point in points], dtype=np.float64)  # None is NaN
            marks: dict[str, Any] = {
                "color": style.color(index),
                "marker": style.marker(index),
                "markersize": 3,
            }
            axes.plot(steps, values, label=label, **marks)
        axes.set(title=title, ylim=(-0.03, 1.03), xlabel="step")
        axes.grid()
        if len(lines) > 1:
            axes.legend(loc="best")
        elif len(points) == 1:
            axes.text(0.5, 0.5, "one state only", ha="center", transform=axes.transAxes)
