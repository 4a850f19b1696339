"""Score against cost: what training time and memory buy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from uss_bench import progress
from uss_bench.collection import Setting
from uss_bench.plots import style
from uss_bench.plots.numbers import METRICS, REFINEMENTS, Metric, scores
from uss_bench.plots.selection import describe, names, one_table
from uss_bench.records import Refinement

_LEAST_SECONDS = 0.1
"""Shorter training is drawn here: nothing below is measured well, and a log axis has no zero."""


@dataclass(frozen=True)
class Cost:
    """What the seeds of one setting took, float64 (S,) each."""

    seconds: np.ndarray
    """Of training; feature extraction is not in it, because it is done once for all methods."""
    gibibytes: np.ndarray
    """Peak resident memory of the whole run."""


def cost(setting: Setting) -> Cost:
    """Return what a setting's runs took; NaN where a record does not say, as of maps made elsewhere."""
    phases = [record.phases for record in setting.records]
    trained = [one["train"].seconds if "train" in one else np.nan for one in phases]
    peaks = [max((phase.peak_bytes for phase in one.values()), default=np.nan) for one in phases]
    return Cost(np.array(trained, dtype=np.float64), np.array(peaks, dtype=np.float64) / 2**30)


def draw(settings: Sequence[Setting], metric: Metric, refinement: Refinement) -> Figure:
    """Draw settings of one table: a mark at mean score and median cost, a dot per seed.

    Raises:
        UsageError: when the settings are of several tables.
    """
    one_table(settings)
    _warn_of_machines(settings)
    legend = 0.16 * (len(settings) // 2 + 1)
    with style.figure("column", height=2.0 + legend) as canvas:
        left, right = canvas.subplots(1, 2, sharey=True)
        handles = []
        for index, setting in enumerate(settings):
            colour, found = style.colour(index), cost(setting)
            values = scores(setting, metric, refinement)
            for axes, taken in (
                (left, np.maximum(found.seconds, _LEAST_SECONDS)),
                (right, found.gibibytes),
            ):
                axes.plot(taken, values, ".", color=colour, alpha=0.5, markersize=4, markeredgewidth=0)
                (handle,) = axes.plot(
                    np.median(taken),  # the first seed of a session pays for what the others find warm
                    values.mean(),
                    style.marker(index),
                    color=colour,
                    markersize=6,
                    markeredgecolor="white",
                    markeredgewidth=0.5,
                )
            handles.append(handle)
        left.set_xscale("log")
        left.xaxis.set_major_formatter("{x:g}")
        # matplotlib's own writes powers as formulas, which no text of a figure is here.
        left.xaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1, 0.4)))
        left.set_xlabel("training (s)")
        right.set_xlabel("peak memory (GiB)")
        left.set_ylabel(f"{METRICS[metric]}, {REFINEMENTS[refinement]} (%)")
        for axes in (left, right):
            axes.grid()
            axes.margins(x=0.1, y=0.1)
        right.set_xlim(left=0)
        style.legend_below(canvas, handles, names(settings))
        return canvas


def caption(settings: Sequence[Setting], metric: Metric, refinement: Refinement) -> str:
    return (
        f"{METRICS[metric]} ({REFINEMENTS[refinement]}) against training time (without feature extraction) "
        f"and peak memory of the run. Marks: mean score at median cost; dots: seeds. {describe(settings)}."
    )


def _warn_of_machines(settings: Sequence[Setting]) -> None:
    machines = {
        " ".join(str(record.environment.get(key, "")) for key in ("processor", "device", "cores"))
        for setting in settings
        for record in setting.records
    }
    if len(machines) > 1:
        progress.log(
            f"These runs were made on {len(machines)} kinds of machines: their times do not compare."
        )
