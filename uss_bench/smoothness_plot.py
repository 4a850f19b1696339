"""The figure of ``uss-bench smoothness``: closeness against its shifts, and the smoothness degree."""

from __future__ import annotations

from pathlib import Path

from uss_bench.plots import style
from uss_bench.smoothness import Closeness, Degree


def save_figure(
    within: Closeness, across: Closeness, degree: Degree | None, title: str, target: Path
) -> None:
    """Draw the histograms of closeness, a dashed line at each shift, and δ beside them if there is one."""
    with style.figure("page" if degree else "column", 2.3) as canvas:
        panels = canvas.subplots(1, 2 if degree else 1, squeeze=False)[0]
        for index, (name, kind) in enumerate((("within images", within), ("across images", across))):
            colour = style.colour(index)
            shares = kind.counts / kind.counts.sum()
            label = f"{name}, {kind.pulled:.0%} above b"
            panels[0].stairs(shares, kind.edges, color=colour, linewidth=1.2, label=label)
            panels[0].axvline(kind.shift, color=colour, linestyle="--", linewidth=0.8)
        panels[0].set(xlabel="closeness W of frozen features; dashed: b", ylabel="share of pairs")
        panels[0].set_title(title, loc="left")
        panels[0].set_ylim(0, 1.35 * panels[0].get_ylim()[1])  # room for the legend
        panels[0].legend(loc="upper right", frameon=True, framealpha=1, edgecolor="white")
        if degree is not None:
            shares = degree.counts / degree.counts.sum()
            panels[1].stairs(shares, degree.edges, color=style.colour(2), fill=True)
            panels[1].set(xlabel="smoothness degree δ within images", ylabel="share of pairs")
            panels[1].set_title(f"bimodality {degree.bimodality:.2f}", loc="left")
        style.save(canvas, target)
