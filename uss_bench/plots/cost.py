"""Score against cost: what training time and memory buy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from uss_bench.plots import style
from uss_bench.plots.looks import looks
from uss_bench.plots.numbers import scores
from uss_bench.results.collection import Configuration
from uss_bench.results.record import Refinement
from uss_bench.results.scores import METRICS, REFINEMENTS, Metric, peak_bytes, train_seconds
from uss_bench.results.selection import describe, names, one_table
from uss_bench.runtime import progress

_LEAST_SECONDS = 0.1
"""Shorter training is drawn here: nothing below is measured well, and a log axis has no zero."""


def draw(configurations: Sequence[Configuration], metric: Metric, refinement: Refinement) -> Figure:
    """Draw configurations of one table: a mark at mean score and median cost, a dot per seed.

    The time is of training, without feature extraction, which is done once for all methods.

    Raises:
        UsageError: when the configurations are of several tables.
    """
    one_table(configurations)
    _warn_of_machines(configurations)
    with style.figure("column", height=2.0 + 0.16 * (len(configurations) // 2 + 1)) as canvas:
        panels = canvas.subplots(1, 2, sharey=True)
        handles = []
        for one, look in zip(configurations, looks(configurations), strict=True):
            values = scores(one, metric, refinement)
            seconds = np.array([train_seconds(record) for record in one.records], dtype=np.float64)
            memory = np.array([peak_bytes(record) for record in one.records], dtype=np.float64)
            for axes, taken in zip(
                panels, (np.maximum(seconds, _LEAST_SECONDS), memory / 2**30), strict=True
            ):
                color = look.color
                axes.plot(taken, values, ".", color=color, alpha=0.5, markersize=4, markeredgewidth=0)
                mark: dict[str, Any] = {
                    "color": color,
                    "markeredgecolor": "white",
                    "markeredgewidth": 0.5,
                    "alpha": 0.8,
                }
                median = np.median(taken)  # the first seed of a session pays for what the others find warm
                (handle,) = axes.plot(median, values.mean(), look.marker, markersize=6, **mark)
            handles.append(handle)
        left, right = panels
        left.set_xscale("log")
        left.xaxis.set_major_formatter("{x:g}")
        # matplotlib's own writes powers as formulas, which no text of a figure is here.
        left.xaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1, 0.4)))
        left.set(xlabel="training (s)", ylabel=f"{METRICS[metric]}, {REFINEMENTS[refinement]} (%)")
        for axes in panels:
            axes.grid()
            axes.margins(x=0.1, y=0.1)
        right.set_xlabel("peak memory (GiB)")
        right.set_xlim(left=0)
        style.legend_below(canvas, handles, names(configurations))
        return canvas


def caption(configurations: Sequence[Configuration], metric: Metric, refinement: Refinement) -> str:
    return (
        f"{METRICS[metric]} ({REFINEMENTS[refinement]}) against training time (without feature extraction) "
        f"and peak memory of the run. Marks: mean score at median cost; dots: seeds. "
        f"{describe(configurations)}."
    )


def _warn_of_machines(configurations: Sequence[Configuration]) -> None:
    kinds = ("processor", "device", "cores")
    records = [record for one in configurations for record in one.records]
    machines = {tuple(str(record.environment.get(kind, "")) for kind in kinds) for record in records}
    if len(machines) > 1:
        progress.log(
            f"These runs were made on {len(machines)} kinds of machines: their times do not compare."
        )
