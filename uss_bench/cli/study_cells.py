"""Running every setting of a study, for the commands that compare settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
import msgspec

from uss_bench.cli.run_options import Experiment
from uss_bench.experiment.plan_file import Asked
from uss_bench.experiment.studies import Study
from uss_bench.plugins.params import own_params
from uss_bench.plugins.registry import Registry

if TYPE_CHECKING:
    from uss_bench.launch.planning import Planned
    from uss_bench.results.collection import Entry


def run_study(
    registry: Registry, study: Study, asked: Experiment
) -> tuple[Sequence[Planned], Sequence[Entry | Exception]] | None:
    """Run the cells of a study that have no record; return all cells and what became of them, in one order.

    All settings run with the first seed, then all with the next. A dry run is printed, and returns None.

    Raises:
        UsageError: for a parameter, name or option that does not fit, before anything runs.
    """
    if asked.execution.isolate:
        from uss_bench.experiment.isolation import IsolatingRegistry

        registry = IsolatingRegistry(registry)
    plan = study.plan
    study.check(registry)
    chosen = own_params(plan.method, asked.table.params, [plan.method])
    of_row = {
        row.label: msgspec.structs.replace(asked.table, method=plan.method, params=study.params(row, chosen))
        for row in plan.settings
    }
    wanted = [Asked(spec, setting=label) for label, table in of_row.items() for spec in table.cells()]
    wanted.sort(key=lambda one: one.spec.seed)
    registry.dataset(wanted[0].spec.dataset)  # a wrong name ends here, before torch is imported

    from uss_bench.cli.output import summary
    from uss_bench.launch.planning import finished_cells, plan_cells
    from uss_bench.runtime import progress

    cells = plan_cells(wanted, registry)
    if asked.dry_run:
        from uss_bench.cli.output.dry_run import dry_run_text

        click.echo(dry_run_text(cells, asked.execution))
        return None
    progress.say(f"{plan.name}: {len(cells)} cells, which vary {', '.join(sorted(plan.varied))}. The first:")
    summary.print_header(next(one.found for one in cells if one.setting in of_row))
    results: Sequence[Entry | Exception] | None = finished_cells(cells, asked.execution)
    if results is None:
        from uss_bench.launch.start import run_cells

        results = run_cells(cells, asked.execution, asked.start, plan.name)
    return cells, results


def entries_of(study: Study, cells: Sequence[Planned], results: Sequence[Entry | Exception]) -> list[Entry]:
    """Return the records of a study's own settings, without those of runs that they build upon."""
    from uss_bench.results.collection import Entry

    labels = {row.label for row in study.plan.settings}
    return [
        result
        for one, result in zip(cells, results, strict=True)
        if isinstance(result, Entry) and one.setting in labels
    ]
