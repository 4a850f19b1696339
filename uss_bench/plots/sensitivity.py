"""Sensitivity: how a score moves with one parameter of a method, over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from uss_bench.collection import Setting, TableKey
from uss_bench.errors import UsageError, did_you_mean
from uss_bench.plots import style
from uss_bench.plots.numbers import METRICS, REFINEMENTS, band, mean, scores
from uss_bench.plots.selection import describe
from uss_bench.records import Refinement

Scale = Literal["linear", "log", "even"]

_LETTER, _MARGINS = 0.065, 0.75
"""Inches: a letter of a tick's label, and what a panel needs beside its axis."""


@dataclass(frozen=True)
class Sweep:
    """Settings of one table and backbone that differ in one parameter only, in its order."""

    param: str
    values: tuple[Any, ...]
    settings: tuple[Setting, ...]

    @property
    def table(self) -> TableKey:
        return self.settings[0].table


def sweeps(settings: Sequence[Setting], param: str) -> list[Sweep]:
    """Gather settings of one method into sweeps of `param`, one per table, in their order.

    Raises:
        UsageError: when no setting has the parameter, a table has fewer than two of its values, or
            something else differs as well.
    """
    having = [one for one in settings if param in one.cell.method.params]
    if not having:
        known = {name for one in settings for name in one.cell.method.params}
        method = settings[0].cell.method.name
        raise UsageError(f"Method '{method}' has no parameter '{param}'.", hint=did_you_mean(param, known))
    tables: dict[TableKey, list[Setting]] = {}
    for one in having:
        tables.setdefault(one.table, []).append(one)
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
                values = [scores(one, metric, refinement) for one in sweep.settings]
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
                grid[0, column].set_title(sweep.table.dataset)
        canvas.align_ylabels()
        return canvas


def caption(found: Sequence[Sweep], refinement: Refinement) -> str:
    first = found[0]
    places = "; ".join(describe(sweep.settings) for sweep in found)
    return (
        f"{first.settings[0].cell.method.name} under values of {first.param}, {REFINEMENTS[refinement]}. "
        "Line: mean over seeds; band: its 95 % interval (Student's t); dashes: seeds; ring: best mean. "
        f"{places}."
    )


def positions(values: Sequence[Any], width: float) -> tuple[np.ndarray, Scale]:
    """Return where values stand on an axis `width` inches long, float64, and the axis's scale.

    Numbers stand on a linear or a logarithmic axis, whichever parts the closest two better. Where their
    labels would touch even so, and for anything but numbers, values stand evenly.
    """
    even = np.arange(len(values), dtype=np.float64)
    if not all(_is_number(value) for value in values):
        return even, "even"
    numbers = np.array(values, dtype=np.float64)
    kinds: dict[Scale, np.ndarray] = {"linear": numbers}
    if numbers.min() > 0:
        kinds["log"] = np.log(numbers)
    gaps = {kind: np.diff(at) / np.ptp(at) for kind, at in kinds.items()}
    best = max(gaps, key=lambda kind: gaps[kind].min())
    halves = np.array([len(shown(value)) * _LETTER / 2 for value in values])
    fits = (gaps[best] * width >= halves[:-1] + halves[1:] + _LETTER).all()
    return (numbers, best) if fits else (even, "even")


def shown(value: Any) -> str:
    """Return a parameter's value as an axis shows it."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}".replace("-", "−") if _is_number(value) else str(value)


def _sweep(settings: Sequence[Setting], param: str) -> Sweep:
    groups: dict[bytes, dict[str, Setting]] = {}
    for one in settings:
        rest = {name: value for name, value in one.cell.method.params.items() if name != param}
        anonymous = msgspec.structs.replace(
            one.cell, seed=0, method=msgspec.structs.replace(one.cell.method, params=rest)
        )
        group = groups.setdefault(msgspec.json.encode(anonymous, order="sorted"), {})
        group[repr(one.cell.method.params[param])] = one
    several = [list(group.values()) for group in groups.values() if len(group) > 1]
    first = settings[0].cell
    if not several:
        seen = sorted({shown(one.cell.method.params[param]) for one in settings})
        alike = "" if len(seen) == 1 else " in records that are otherwise alike"
        raise UsageError(
            f"A sweep needs two values of {param}{alike}; the records of {first.method.name} on "
            f"{first.dataset.name} have {', '.join(seen)}.",
            hint=f"uss-bench run --method {first.method.name} --dataset {first.dataset.name} "
            f"--set {param}=… --seeds 3",
        )
    if len(several) > 1:
        what, hint = _difference([group[0] for group in several], param)
        raise UsageError(
            f"The records of {first.method.name} on {first.dataset.name} differ in more than {param}: "
            f"{what}.",
            hint=hint,
        )
    ordered = sorted(several[0], key=lambda one: _order(one.cell.method.params[param]))
    return Sweep(param, tuple(one.cell.method.params[param] for one in ordered), tuple(ordered))


def _difference(settings: Sequence[Setting], param: str) -> tuple[str, str]:
    """Say in what settings differ besides `param`, and how to choose."""
    params: Sequence[Mapping[str, Any]] = [one.cell.method.params for one in settings]
    for name in sorted({name for one in params for name in one} - {param}):
        seen = sorted({shown(one.get(name)) for one in params})
        if len(seen) > 1:
            return f"{name} is {' or '.join(seen)}", f"Choose one: --set {name}={seen[0]}"
    backbones = sorted({one.cell.backbone.name for one in settings})
    if len(backbones) > 1:
        return f"the backbone is {' or '.join(backbones)}", f"Choose one: --backbone {backbones[0]}"
    return "the method's code or the backbone's weights", "Keep them in folders of their own: --records DIR"


def _draw_values(
    axes: Axes, where: np.ndarray, values: Sequence[np.ndarray], series: int, *, joined: bool
) -> None:
    """Draw one panel: a line in its band, or separate marks with bars where values have no order."""
    colour = style.colour(series)
    means = np.array([float(mean(one)) for one in values])
    bands = np.array([band(one) for one in values])
    if joined:
        axes.fill_between(where, bands[:, 0], bands[:, 1], color=colour, alpha=0.18, linewidth=0)
    else:
        axes.vlines(where, bands[:, 0], bands[:, 1], color=colour, alpha=0.25, linewidth=7)
    for at, one in zip(where, values, strict=True):
        axes.plot(np.full(len(one), at), one, "_", color=colour, alpha=0.8, markersize=7)
    line = "-" if joined else ""
    axes.plot(where, means, color=colour, linestyle=line, marker=style.marker(series), markersize=3.5)
    axes.margins(x=0.08 if joined else 0.3, y=0.18)
    if np.isnan(means).all():
        return
    best = int(np.nanargmax(means))
    axes.plot(where[best], means[best], "o", color="none", markeredgecolor=style.INK, markersize=9)
    axes.annotate(
        f"{means[best]:.1f}",
        (where[best], means[best]),
        xytext=(0, 7) if joined else (8, 0),
        textcoords="offset points",
        ha="center" if joined else "left",
        va="bottom" if joined else "center",
        fontsize=7,
        fontweight="bold",
        path_effects=[withStroke(linewidth=2, foreground="white")],
    )


def _order(value: Any) -> tuple[bool, float, str]:
    return (True, 0.0, str(value)) if not _is_number(value) else (False, float(value), "")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
