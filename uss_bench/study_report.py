"""What a study leaves a person with: a table, and a figure for a parameter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from uss_bench.collection import Entry, gather
from uss_bench.launch.planning import Planned
from uss_bench.launch.tables import scores_table
from uss_bench.runner import Outcome
from uss_bench.setup import Setup
from uss_bench.studies import Plan


def study_table(
    plan: Plan, setup: Setup, cells: Sequence[Planned], results: Sequence[Outcome | Exception]
) -> str:
    """Return the table of a study: a row per setting, mean ± standard deviation over its seeds.

    Args:
        setup: of any of the cells, for what they share.
        results: what became of the cells, in their order.
    """
    where = f"{setup.dataset.name} · {setup.backbone.name} · {setup.protocol.id}"
    title = f"{plan.title} · {setup.spec.title}{f', {plan.paper}' if plan.paper else ''}"
    return f"\n{click.style(title, bold=True)}\n{where}\n\n{scores_table(cells, results)}\n"


def save_figure(plan: Plan, setup: Setup, outcomes: Iterable[Outcome], out: Path) -> Path | None:
    """Draw the refined scores against the study's parameter, and return where the figure lies.

    None for an ablation, which has no such parameter, and where fewer than two values were scored.
    """
    if plan.axis is None:
        return None
    settings = gather(Entry(one.path, one.record) for one in outcomes)
    if len(settings) < 2:
        return None
    from uss_bench.plots import sensitivity, style

    target = out / setup.dataset.name / f"{plan.name}-{setup.backbone.name}.png"
    style.save(sensitivity.draw(sensitivity.sweeps(settings, plan.axis.parameter), "crf"), target)
    return target
