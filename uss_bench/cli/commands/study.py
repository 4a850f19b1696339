"""``uss-bench study``: an ablation or a sensitivity study, by name or from a plan file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from uss_bench.cli.options import common
from uss_bench.cli.run_options import Experiment, experiment_options
from uss_bench.experiment.plan_file import Asked
from uss_bench.experiment.studies import find_study
from uss_bench.plugins.params import own_params
from uss_bench.plugins.registry import Registry

EPILOG = """\b
Examples:
  uss-bench study ds2dl-table2 --dataset toy3
  uss-bench study smooseg-fig6 --dataset toy27 --set steps=500 --seeds 1 --dry-run
  uss-bench study mine.toml --dataset folder --root camvid --classes camvid \\
                  --backbone vit_small_patch14_dinov2 --weights vit.safetensors
"""


@click.command("study", epilog=EPILOG, short_help="Run an ablation or a sensitivity study by name.")
@click.argument("study", metavar="NAME|FILE.toml")
@experiment_options(seeds=3)
@common
def command(registry: Registry, study: str, asked: Experiment) -> None:
    """Run every setting of a study: one by name (uss-bench ls studies), or a plan file of your own.

    Features are extracted once. All settings run with the first seed, then all with the next. What has
    a record is not run again, and a cell that fails does not stop the others.
    """
    if asked.execution.isolate:
        from uss_bench.experiment.isolation import IsolatingRegistry

        registry = IsolatingRegistry(registry)
    found = find_study(study, registry)
    plan = found.plan
    found.check(registry)
    chosen = own_params(plan.method, asked.table.params, [plan.method])
    of_row = {
        row.label: msgspec.structs.replace(asked.table, method=plan.method, params=found.params(row, chosen))
        for row in plan.settings
    }
    wanted = [Asked(spec, setting=label) for label, table in of_row.items() for spec in table.cells()]
    wanted.sort(key=lambda one: one.spec.seed)  # all settings with the first seed, then with the next
    registry.dataset(wanted[0].spec.dataset)  # a wrong name ends here, before torch is imported

    from uss_bench.cli.output import study as study_report
    from uss_bench.cli.output import summary
    from uss_bench.launch.planning import finished_cells, plan_cells, raise_failures
    from uss_bench.results.collection import Entry
    from uss_bench.runtime import progress

    cells = plan_cells(wanted, registry)
    out = Path(asked.execution.out)
    if asked.dry_run:
        from uss_bench.cli.output.dry_run import dry_run_text

        click.echo(dry_run_text(cells, asked.execution))
        return

    progress.say(f"{plan.name}: {len(cells)} cells, which vary {', '.join(sorted(plan.varied))}. The first:")
    first = next(one.found for one in cells if one.setting in of_row)
    summary.print_header(first)
    results: Sequence[Entry | Exception] | None = finished_cells(cells, asked.execution)
    if results is None:
        from uss_bench.launch.start import run_cells

        results = run_cells(cells, asked.execution, asked.start, plan.name)
    click.echo(study_report.study_table(plan, cells, results))
    entries = [
        result
        for one, result in zip(cells, results, strict=True)
        if isinstance(result, Entry) and one.setting in of_row
    ]
    figure = study_report.save_figure(plan, first.cell, entries, out)
    click.echo(f"records {out / first.cell.dataset.name}")
    if figure is not None:
        click.echo(f"figure  {figure}")
    raise_failures(cells, results)
