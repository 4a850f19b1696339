"""What a study prints at its end: a table, and for a parameter a figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from uss_bench.cli.output.plans import scores_table
from uss_bench.experiment.studies import Plan
from uss_bench.launch.planning import Planned
from uss_bench.results.collection import Entry, gather
from uss_bench.results.record import Cell


def study_table(plan: Plan, cells: Sequence[Planned], results: Sequence[Entry | Exception]) -> str:
    """Return the table of a study: a row per setting and per run that they build upon, mean ± deviation.

    Args:
        results: what became of the cells, in their order.
    """
    labels = {row.label for row in plan.settings}
    found = next(one.found for one in cells if one.setting in labels)
    where = f"{found.cell.dataset.name} · {found.cell.backbone.name} · {found.cell.protocol}"
    title = f"{plan.title} · {found.title}{f', {plan.paper}' if plan.paper else ''}"
    return f"\n{click.style(title, bold=True)}\n{where}\n\n{scores_table(cells, results)}\n"


def save_figure(plan: Plan, cell: Cell, entries: Iterable[Entry], out: Path) -> Path | None:
    """Draw the refined scores against the study's parameter, and return where the figure lies.

    None for an ablation, which has no such parameter, and where fewer than two values were scored.

    Args:
        cell: any of the study's, for what they share.
    """
    if plan.axis is None:
        return None
    configurations = gather(entries)
    if len(configurations) < 2:
        return None
    from uss_bench.plots import sensitivity, style

    target = out / cell.dataset.name / f"{plan.name}-{cell.backbone.name}.png"
    style.save(sensitivity.draw(sensitivity.sweeps(configurations, plan.axis.parameter), "crf"), target)
    return target
