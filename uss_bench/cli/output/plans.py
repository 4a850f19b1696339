"""Tables of plans: what would run, how far it is, and what it gave."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from uss_bench.cli.output.tables import table
from uss_bench.launch.planning import Planned
from uss_bench.launch.status import STAGES, CellStatus, PlanStatus
from uss_bench.launch.view import short, styled
from uss_bench.results.collection import Entry
from uss_bench.results.scores import METRICS, REFINEMENTS, four_scores
from uss_bench.runtime.formatting import mean_sd, plural
from uss_bench.runtime.text import first_line

SCORES = tuple(f"{metric} {kind}" for kind in REFINEMENTS.values() for metric in METRICS.values())


def plan_table(cells: Sequence[Planned], pending: Sequence[Planned], out: Path) -> str:
    """Return the table of ``--dry-run``: a row per cell, in the order in which they would run.

    Args:
        pending: those of the cells that would run.
        out: the results folder.
    """
    todo = {one.cell.id for one in pending}
    rows = [
        (
            one.label,
            "pending" if one.cell.id in todo else styled("done"),
            one.record(out),
        )
        for one in cells
    ]
    count = f"{len(todo)} of {plural(len(cells), 'cell')} pending."
    return f"{shared_title(cells)}\n\n{table(rows, ['cell', 'state', 'record'])}\n\n{count}"


def shared_title(cells: Sequence[Planned]) -> str:
    """Return what all cells share of method, dataset, backbone and protocol."""
    facts = [
        (one.cell.method.name, one.cell.dataset.name, one.cell.backbone.name, one.cell.protocol)
        for one in cells
    ]
    parts = [
        column[0] if len(set(column)) == 1 else f"{len(set(column))} {name}s"
        for name, column in zip(
            ("method", "dataset", "backbone", "protocol"), zip(*facts, strict=True), strict=True
        )
    ]
    return click.style(" · ".join(parts), bold=True)


def results_table(cells: Sequence[Planned], results: Sequence[Entry | Exception]) -> str:
    """Return the scores of every setting, under what they share."""
    return f"\n{shared_title(cells)}\n\n{scores_table(cells, results)}\n"


def scores_table(cells: Sequence[Planned], results: Sequence[Entry | Exception]) -> str:
    """Return a row of scores per setting, mean ± standard deviation over its seeds.

    Args:
        results: what became of the cells, in their order.
    """
    of_setting: dict[str, list[Entry | Exception]] = {}
    for one, result in zip(cells, results, strict=True):
        of_setting.setdefault(one.setting, []).append(result)
    rows = []
    for setting, found in of_setting.items():
        records = [result.record for result in found if isinstance(result, Entry)]
        last = [record.last for record in records if record.last is not None]
        columns: Iterable[Sequence[float]] = [[]] * len(SCORES)
        if last:
            columns = zip(*map(four_scores, last), strict=True)
        used = [one.raw.clusters_used for one in last]
        rows.append(
            [
                setting,
                *(mean_sd(column) for column in columns),
                f"{statistics.fmean(used):.1f} of {records[0].clusters}" if used else "–",
                f"{len(records)} of {len(found)}",
            ]
        )
    headers = ["setting", *SCORES, "clusters used", "seeds"]
    return table(rows, headers, align="lr*")


def status_text(status: PlanStatus, *, brief: bool) -> str:
    """Return how far a plan is: its title and counts, and, unless `brief`, a row per cell."""
    plan = status.plan
    who = plan.launcher or "in its own process"
    jobs = f", {plan.jobs} at a time" if plan.launcher and plan.jobs else ""
    facts = [f"{who}{jobs}", plan.created.replace("T", " ").removesuffix("+00:00") + " UTC"]
    title = f"{click.style(status.folder.path.name, bold=True)}  ({' · '.join(facts)})"
    counts = ", ".join(f"{status.counts[stage]} {styled(stage)}" for stage in STAGES if status.counts[stage])
    summary = f"{len(status.cells)} cells: {counts}" + ("" if status.at_work or status.finished else _IDLE)
    if brief:
        return f"{title}\n{summary}"
    shown = [*(one for one in status.extractions if one.stage != "done"), *status.cells]
    rows = [(one.label, styled(one.stage), _detail(one)) for one in shown]
    lines = [title, plan.command, "", table(rows, ["cell", "state", ""]), ""]
    if status.unknown:
        lines.append(f"The launcher could not be asked: {status.unknown}")
    return "\n".join([*lines, summary])


_IDLE = " (no command of this machine is at it)"


def _detail(one: CellStatus) -> str:
    """Return how far a cell is, or why it failed and where its log is."""
    if one.stage != "failed":
        return one.detail
    lines = textwrap.wrap(first_line(one.detail), 80, break_long_words=False, break_on_hyphens=False)
    return "\n".join([*lines, *([f"log: {short(one.log)}"] if one.log else [])])
