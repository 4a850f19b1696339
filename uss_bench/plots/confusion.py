"""Confusion in matched order: where the pixels of each class went."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from uss_bench.evaluation.scoring import confusion_matrix, score_under
from uss_bench.plots import style
from uss_bench.plots.numbers import mean
from uss_bench.protocol import Protocol
from uss_bench.results.collection import Configuration
from uss_bench.results.record import Refinement
from uss_bench.results.scores import REFINEMENTS
from uss_bench.results.selection import describe, names

_ALL_SHOWN = 12
"""Classes up to which every share is written into its cell; beyond, those from `_WORTH` percent on."""
_WORTH = 10.0


@dataclass(frozen=True)
class Confusion:
    """Shares of each true class, in percent, mean over seeds."""

    shares: np.ndarray
    """float64 (C, C) or (C, C + 1): by true class and matched class; the last column holds unmatched
    clusters, where any pixel went to one. NaN for a class without pixels."""
    classes: tuple[str, ...]


def confusion(configuration: Configuration, refinement: Refinement) -> Confusion:
    """Return the confusion of a configuration: each seed is matched by itself, then shares are averaged."""
    seeds = [
        _shares(counts.sum(axis=0), entry.record.protocol)
        for entry, counts in zip(configuration.entries, configuration.counts(refinement), strict=True)
    ]
    shares = mean(np.stack(seeds))
    unmatched = np.nan_to_num(shares[:, -1]).any()
    classes = tuple(row.name for row in configuration.records[0].classes)
    return Confusion(shares if unmatched else shares[:, :-1], classes)


def draw(found: Confusion) -> Figure:
    """Draw a confusion: true classes down, matched classes across, so the diagonal is the recall."""
    columns = [*found.classes, "unmatched"][: found.shares.shape[1]]
    width: style.Width = "column" if len(columns) <= _ALL_SHOWN + 1 else "page"
    names = 0.057 * max(len(name) for name in columns) + 0.25  # inches beside the cells, at 7 points
    cell = (style.WIDTHS[width] - names) / len(columns)
    size = min(7.0, 26 * cell)
    with style.figure(width, height=cell * len(found.classes) + 0.8 * names + 0.2) as canvas:
        axes = canvas.subplots()
        shares = axes.imshow(found.shares, cmap=style.SEQUENTIAL, vmin=0, vmax=100, aspect="auto")
        axes.set_xticks(range(len(columns)), columns, rotation=50, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(found.classes)), found.classes)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("matched class")
        axes.set_ylabel("true class")
        least = 0.5 if len(found.classes) <= _ALL_SHOWN else _WORTH
        for row, column in np.argwhere(np.nan_to_num(found.shares) >= least):
            share = found.shares[row, column]
            color = "white" if share > 55 else style.INK
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=size, color=color)
        canvas.colorbar(shares, ax=axes, pad=0.02, aspect=30).set_label("share of the true class (%)")
        return canvas


def caption(configuration: Configuration, refinement: Refinement) -> str:
    (name,) = names([configuration])
    return (
        f"Confusion of {name}, {REFINEMENTS[refinement]}: percent of each true class that "
        f"went to each matched class, mean over seeds. {describe([configuration])}."
    )


def _shares(counts: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Return percent of each true class, float64 (C, C + 1), under the protocol's rules."""
    if protocol.extra_clusters == "drop" and protocol.match_on == "test":
        counts = counts[: counts.shape[1]]
    matched = score_under(counts, protocol).class_of_cluster
    pixels = confusion_matrix(counts, matched).T.astype(np.float64)
    total = pixels.sum(axis=1, keepdims=True)
    shares: np.ndarray = np.divide(100 * pixels, total, out=np.full(pixels.shape, np.nan), where=total > 0)
    return shares
