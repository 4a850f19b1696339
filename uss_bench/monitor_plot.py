"""The picture of a run's training: every reported scalar, and what the states did without labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uss_bench.plots import style
from uss_bench.record_files import read_record
from uss_bench.records import RunRecord

SUFFIX = ".monitor.png"
_ACROSS = 3


def save_monitor(path: Path) -> Path | None:
    """Draw the training of the record at `path` and write the picture beside it; None if nothing trained."""
    record = read_record(path)
    if not record.monitor:
        return None
    target = path.with_suffix(SUFFIX)
    style.save(draw(record), target)
    return target


def draw(record: RunRecord) -> Figure:
    """Draw a record that has `monitor` points: a panel per scalar, then clusters, agreement, confidence."""
    scalars = list(record.curves)
    rows = -(-len(scalars) // _ACROSS) + 1
    with style.figure("page", height=1.55 * rows + 0.3) as canvas:
        grid = canvas.subplots(rows, _ACROSS, squeeze=False, sharex=True)
        for axes, name in zip(grid.flat, scalars, strict=False):
            steps, values = zip(*record.curves[name], strict=True)
            axes.plot(steps, values, color=style.colour(0))
            axes.set_title(name, loc="left")
            axes.grid(axis="y")
        for axes in grid[:-1].flat[len(scalars) :]:
            axes.set_axis_off()
        _draw_states(record, grid[-1])
        canvas.suptitle(
            f"{record.cell.method.name} on {record.cell.dataset.name}, seed {record.cell.seed}: "
            "training without labels",
            fontsize=8,
        )
        return canvas


def _draw_states(record: RunRecord, panels: Sequence[Axes]) -> None:
    points = record.monitor
    end = max([step for curve in record.curves.values() for step, _ in curve] + [p.step or 0 for p in points])
    steps = [end if point.step is None else point.step for point in points]
    panels[0].set_title("clusters", loc="left")
    _line(panels[0], steps, [point.entropy for point in points], 0, "entropy / log K")
    _line(panels[0], steps, [point.largest for point in points], 1, "largest share")
    panels[1].set_title("agreement", loc="left")
    agreed = [(step, p.agreement) for step, p in zip(steps, points, strict=True) if p.agreement is not None]
    if agreed:
        _line(panels[1], [step for step, _ in agreed], [share for _, share in agreed], 0, "")
    else:
        panels[1].text(0.5, 0.5, "one state only", ha="center", transform=panels[1].transAxes)
    panels[2].set_title("confidence", loc="left")
    _line(panels[2], steps, [point.confidence for point in points], 0, "mean")
    _line(panels[2], steps, [point.confident for point in points], 1, "share above 0.9")
    for axes in panels:
        axes.set(ylim=(-0.03, 1.03), xlabel="step")
        axes.grid(axis="y")
        if axes is not panels[1]:
            axes.legend(loc="best")


def _line(axes: Axes, steps: Sequence[int], values: Sequence[float], index: int, label: str) -> None:
    axes.plot(steps, values, color=style.colour(index), marker=style.marker(index), markersize=3, label=label)
