"""Sensitivity: how a score moves with one parameter of a method, over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from uss_bench.errors import UsageError, did_you_mean
from uss_bench.plots import style
from uss_bench.plots.numbers import band, mean, scores
from uss_bench.results.collection import Configuration, TableKey, shared_identity
from uss_bench.results.differences import cell_fields, changes
from uss_bench.results.record import Refinement
from uss_bench.results.scores import METRICS, REFINEMENTS
from uss_bench.results.selection import describe
from uss_bench.runtime.formatting import value_text

Scale = Literal["linear", "log", "even"]

_LETTER, _MARGINS = 0.065, 0.75
"""Inches: a letter of a tick's label, and what a panel needs beside its axis."""


@dataclass(frozen=True)
class Sweep:
    """Configurations of one table and backbone that differ in one parameter only, in its order."""

    param: str
    configurations: tuple[Configuration, ...]

    @property
    def values(self) -> tuple[Any, ...]:
        return tuple(one.cell.method.params[self.param] for one in self.configurations)


def sweeps(configurations: Sequence[Configuration], param: str) -> list[Sweep]:
    """Gather configurations of one method into sweeps of `param`, one per table, in their order.

    Raises:
        UsageError: when no configuration has the parameter, a table has fewer than two of its values, or
            something else differs as well.
    """
    tables: dict[TableKey, list[Configuration]] = {}
    for one in configurations:
        if param in one.cell.method.params:
            tables.setdefault(one.table, []).append(one)
    if not tables:
        known = {name for one in configurations for name in one.cell.method.params}
        method = configurations[0].cell.method.name
        raise UsageError(f"Method '{method}' has no parameter '{param}'.", hint=did_you_mean(param, known))
    return [_sweep(group, param) for group in tables.values()]


def draw(found: Sequence[Sweep], refinement: Refinement) -> Figure:
    """Draw sweeps side by side: Acc above mIoU, mean and band over seeds, a dash per seed, best ringed."""
    width: style.Width = "column" if len(found) == 1 else "page"
    with style.figure(width, height=2.9) as canvas:
        grid = canvas.subplots(len(METRICS), len(found), sharex="col", squeeze=False)
        for column, sweep in enumerate(found):
            where, scale = positions(sweep.values, width=style.WIDTHS[width] / len(found) - _MARGINS)
            for row, (metric, name) in enumerate(METRICS.items()):
                axes = grid[row, column]
                axes.grid(axis="y")
                values = [scores(one, metric, refinement) for one in sweep.configurations]
                _draw_values(axes, where, values, row, joined=all(map(_is_number, sweep.values)))
                if column == 0:
                    axes.set_ylabel(f"{name}, {REFINEMENTS[refinement]} (%)")
            bottom = grid[-1, column]
            if scale == "log":
                bottom.set_xscale("log")
            bottom.set_xticks(where, [shown(value) for value in sweep.values])
            bottom.set_xticks([], minor=True)
            bottom.set_xlabel(sweep.param)
            if len(found) > 1:
                grid[0, column].set_title(sweep.configurations[0].table.dataset)
        canvas.align_ylabels()
        return canvas


def caption(found: Sequence[Sweep], refinement: Refinement) -> str:
    method = found[0].configurations[0].cell.method.name
    places = "; ".join(describe(sweep.configurations) for sweep in found)
    return (
        f"{method} under values of {found[0].param}, {REFINEMENTS[refinement]}. Line: mean over seeds; "
        f"band: its 95 % interval (Student's t); dashes: seeds; ring: best mean. {places}."
    )


def positions(values: Sequence[Any], width: float) -> tuple[np.ndarray, Scale]:
    """Return where values stand on an axis `width` inches long, float64, and the axis's scale.

    Numbers stand on a linear or a logarithmic axis, whichever parts the closest two better. Where their
    labels would touch even so, and for anything but numbers, values stand evenly.
    """
    even = np.arange(len(values), dtype=np.float64)
    if not all(map(_is_number, values)):
        return even, "even"
    scales: dict[Scale, np.ndarray] = {"linear": np.array(values, dtype=np.float64)}
    if min(values) > 0:
        scales["log"] = np.log(scales["linear"])
    gaps = {scale: np.diff(at) / np.ptp(at) for scale, at in scales.items()}
    best = max(gaps, key=lambda scale: gaps[scale].min())
    halves = np.array([len(shown(value)) * _LETTER / 2 for value in values])
    fits = (gaps[best] * width >= halves[:-1] + halves[1:] + _LETTER).all()
    return (scales["linear"], best) if fits else (even, "even")


def shown(value: Any) -> str:
    """Return a parameter's value as an axis shows it."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}".replace("-", "−") if _is_number(value) else str(value)


def _sweep(configurations: Sequence[Configuration], param: str) -> Sweep:
    groups: dict[bytes, dict[str, Configuration]] = {}
    for one in configurations:
        of_value = groups.setdefault(shared_identity(one.cell, param), {})
        of_value[repr(one.cell.method.params[param])] = one
    several = [list(group.values()) for group in groups.values() if len(group) > 1]
    cell = configurations[0].cell
    which = f"records of {cell.method.name} on {cell.dataset.name}"
    if not several:
        seen = sorted({shown(one.cell.method.params[param]) for one in configurations})
        alike = "" if len(seen) == 1 else " in records that are otherwise alike"
        raise UsageError(
            f"A sweep needs two values of {param}{alike}; the {which} have {', '.join(seen)}.",
            hint=f"uss-bench run --method {cell.method.name} --dataset {cell.dataset.name} "
            f"--set {param}=… --seeds 3",
        )
    if len(several) > 1:
        cells = (cell_fields(msgspec.structs.replace(group[0].cell, seed=0)) for group in several[:2])
        other = next(one for one in changes(*cells) if one.field != f"parameter {param}")
        name, value = other.field.removeprefix("parameter "), value_text(other.before)
        hint = "Keep them in folders of their own: --records DIR"
        if name == "backbone":
            hint = f"Choose one: --backbone {value}"
        elif name != other.field:
            hint = f"Choose one: --set {name}={value}"
        what = f"{name} is {value} or {value_text(other.after)}"
        raise UsageError(f"The {which} differ in more than {param}: {what}.", hint=hint)
    return Sweep(param, tuple(sorted(several[0], key=lambda one: _order(one.cell.method.params[param]))))


def _draw_values(
    axes: Axes, where: np.ndarray, values: Sequence[np.ndarray], series: int, *, joined: bool
) -> None:
    """Draw one panel: a line in its band, or separate marks with bars where values have no order."""
    color, marker = style.color(series), style.marker(series)
    means = np.array([float(mean(one)) for one in values])
    low, high = np.array([band(one) for one in values]).T
    if joined:
        axes.fill_between(where, low, high, color=color, alpha=0.18, linewidth=0)
    else:
        axes.vlines(where, low, high, color=color, alpha=0.25, linewidth=7)
    for at, one in zip(where, values, strict=True):
        axes.plot(np.full(len(one), at), one, "_", color=color, alpha=0.8, markersize=7)
    line = "-" if joined else ""
    axes.plot(where, means, color=color, linestyle=line, marker=marker, markersize=3.5)
    axes.margins(x=0.08 if joined else 0.3, y=0.18)
    best = int(means.argmax())
    axes.plot(where[best], means[best], "o", color="none", markeredgecolor=style.INK, markersize=9)
    offset, ha, va = ((0, 7), "center", "bottom") if joined else ((8, 0), "left", "center")
    axes.annotate(
        f"{means[best]:.1f}",
        (where[best], means[best]),
        xytext=offset,
        textcoords="offset points",
        ha=ha,
        va=va,
        fontweight="bold",
        fontsize=7,
        path_effects=[withStroke(linewidth=2, foreground="white")],
    )


def _order(value: Any) -> tuple[bool, float, str]:
    return (True, 0.0, str(value)) if not _is_number(value) else (False, float(value), "")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
