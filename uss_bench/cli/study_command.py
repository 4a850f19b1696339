"""``uss-bench study``: an ablation or a sensitivity study, by name or from a plan file."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from uss_bench.cli.experiment import Experiment, experiment_options
from uss_bench.cli.options import common
from uss_bench.launch.plan_file import Asked
from uss_bench.registry import Registry
from uss_bench.studies import find_study

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
    found = find_study(study, registry)
    plan = found.plan
    found.check(registry)
    chosen = asked.table.params
    of_row = {
        row.label: msgspec.structs.replace(asked.table, method=plan.method, params=found.params(row, chosen))
        for row in plan.settings
    }
    wanted = [Asked(spec, setting=label) for label, table in of_row.items() for spec in table.cells()]
    wanted.sort(key=lambda one: one.spec.seed)  # all settings with the first seed, then with the next
    registry.dataset(wanted[0].spec.dataset)  # a wrong name ends here, before torch is imported

    from uss_bench import progress, study_report, summary
    from uss_bench.estimate.dry_run import dry_run_text
    from uss_bench.launch import tables
    from uss_bench.launch.planning import plan_cells
    from uss_bench.launch.start import run_cells
    from uss_bench.runner import Outcome

    cells = plan_cells(wanted, registry)
    out = Path(asked.execution.out)
    if asked.dry_run:
        click.echo(dry_run_text(cells, asked.execution))
        return

    base = cells[0].setup
    progress.say(f"{plan.name}: {len(cells)} cells, which vary {', '.join(sorted(plan.varied))}. The first:")
    summary.print_header(base)
    results = run_cells(cells, asked.execution, asked.start, plan.name)
    click.echo(study_report.study_table(plan, base, cells, results))
    outcomes = [result for result in results if isinstance(result, Outcome)]
    figure = study_report.save_figure(plan, base, outcomes, out)
    click.echo(f"records {out / base.dataset.name}")
    if figure is not None:
        click.echo(f"figure  {figure}")
    tables.raise_failures(cells, results)
