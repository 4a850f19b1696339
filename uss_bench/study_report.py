"""What a study leaves a person with: its plan before, a table after, and a figure for a parameter."""

from __future__ import annotations

import statistics
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path

import click
from tabulate import tabulate

from uss_bench.collection import Entry, gather
from uss_bench.records import Cell, RunRecord
from uss_bench.runner import Outcome
from uss_bench.setup import Setup
from uss_bench.studies import Plan
from uss_bench.summary import four_scores

_SCORES = ("Acc raw", "mIoU raw", "Acc CRF", "mIoU CRF")


def plan_table(cells: Iterable[tuple[str, Cell]], done: Container[str]) -> str:
    """Return the table of ``--dry-run``, a row per cell.

    Args:
        cells: label and cell, in the order in which they would run.
        done: ids of cells that have a record.
    """
    listed = list(cells)
    rows = [(label, "done" if cell.id in done else "pending", cell.id[:12]) for label, cell in listed]
    pending = sum(cell.id not in done for _, cell in listed)
    table = tabulate(rows, headers=["cell", "state", "id"], disable_numparse=True)
    return f"{table}\n\n{pending} of {len(listed)} cells pending."


def study_table(plan: Plan, setup: Setup, records: Mapping[str, Sequence[RunRecord]], seeds: int) -> str:
    """Return the table of a study: a row per setting, mean ± standard deviation over its seeds.

    Args:
        setup: of any of the cells, for what they share.
        records: of the finished cells, by the setting's label.
        seeds: how many were asked for.
    """
    rows = []
    for label, found in records.items():
        scored = [four_scores(record.last) for record in found if record.last is not None]
        columns = zip(*scored, strict=True) if scored else [[]] * len(_SCORES)
        used = [record.last.raw.clusters_used for record in found if record.last is not None]
        rows.append(
            [
                label,
                *(_spread(column) for column in columns),
                f"{statistics.fmean(used):.1f} of {found[0].clusters}" if used else "–",
                f"{len(found)} of {seeds}",
            ]
        )
    where = f"{setup.dataset.name} · {setup.backbone.name} · {setup.protocol.id}"
    title = f"{plan.title} · {setup.spec.title}{f', {plan.paper}' if plan.paper else ''}"
    headers = ["setting", *_SCORES, "clusters used", "seeds"]
    align = ["left", *["right"] * (len(headers) - 1)]
    table = tabulate(rows, headers=headers, colalign=align, disable_numparse=True)
    return f"\n{click.style(title, bold=True)}\n{where}\n\n{table}\n"


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


def _spread(column: Sequence[float]) -> str:
    if not column:
        return "–"
    mean = f"{statistics.fmean(column):.1f}"
    return f"{mean} ± {statistics.stdev(column):.1f}" if len(column) > 1 else mean
